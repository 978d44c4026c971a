//! Runs that do not fit wait for their turn: in order, told where they stand, and no
//! longer than anybody wants it.

use std::time::Duration;

use container_svc::rpc::pb;
use serde_json::Value;
use tonic::{Code, Status, Streaming};

use super::{
    Stub,
    booked::{has, one, request, run, service, stop},
    device, devices, node, text, uuid,
};
use crate::{
    faults::private_engine::Engine,
    support::{DEADLINE, Service, eventually, unique},
};

fn queued() -> pb::Gpus {
    pb::Gpus { queue: true, ..one() }
}

/// A run that tells its steps.
async fn stream(
    service: &Service,
    name: &str,
    gpus: pb::Gpus,
) -> Streaming<pb::RunContainerStreamResponse> {
    let run = Some(request(service, name, gpus));
    let mut client = service.grpc().await;
    let told = client.run_container_stream(pb::RunContainerStreamRequest { run }).await;
    told.expect("a stream").into_inner()
}

/// Reads until the run stands at this place.
async fn stands(
    steps: &mut Streaming<pb::RunContainerStreamResponse>,
    place: (i32, i32),
) -> pb::GpuStanding {
    let reading = async {
        loop {
            let step = steps.message().await.expect("no error").expect("not the end");
            assert_eq!(step.result, None, "it ran before its turn");
            if let Some(standing) = step.queue
                && (standing.position, standing.length) == place
            {
                assert_eq!(step.stage, i32::from(pb::RunStage::Queued));
                return standing;
            }
        }
    };
    let told = tokio::time::timeout(DEADLINE, reading).await;
    told.unwrap_or_else(|_| panic!("never told that it stands at {place:?}"))
}

/// Reads to the end.
async fn ready(
    mut steps: Streaming<pb::RunContainerStreamResponse>,
) -> Result<pb::RunContainerResponse, Status> {
    let reading = async {
        loop {
            if let Some(done) = steps.message().await?.expect("not the end").result {
                return Ok(done);
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("in time")
}

async fn waiting(service: &Service) -> i64 {
    node(service).await["waiting"].as_i64().expect("a number")
}

async fn wait(service: &Service, count: i64) {
    eventually(&format!("{count} wait"), || async { waiting(service).await == count }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_served_in_the_order_in_which_they_came_and_told_where_they_stand() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(2));
    let service = service(&engine, &stub).await;
    let [a, b, c, d] = ["a", "b", "c", "d"].map(unique);
    run(&service, request(&service, &a, one())).await.expect("it runs");
    // It wants both; one of them is free, and stays free for it.
    let mut second = stream(&service, &b, pb::Gpus { count: 2, ..queued() }).await;
    let standing = stands(&mut second, (1, 1)).await;
    assert!(standing.reason.contains(&a), "{standing:?}");
    let refused = run(&service, request(&service, &d, one())).await.expect_err("not before b");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains(&format!("\"{b}\" waits for it")), "{refused:?}");
    let mut third = stream(&service, &c, queued()).await;
    stands(&mut third, (2, 2)).await;
    // One who asks for the same waits beside it, and takes nothing twice.
    let mut again = stream(&service, &c, queued()).await;
    stands(&mut again, (3, 3)).await;

    stop(&service, &a).await;
    assert_eq!(ready(second).await.expect("it runs").action(), pb::RunAction::Created);
    assert_eq!(has(&service, &b).await, [uuid(0), uuid(1)]);
    stands(&mut third, (1, 2)).await;
    stop(&service, &b).await;
    let (third, again) = tokio::join!(ready(third), ready(again));
    let (third, again) = (third.expect("it runs"), again.expect("it runs"));
    let mut done = [third.action(), again.action()];
    done.sort();
    assert_eq!(done, [pb::RunAction::Created, pb::RunAction::Unchanged]);
    assert_eq!((third.id, has(&service, &c).await.len()), (again.id, 1));
    wait(&service, 0).await;
    // What is free is not waited for by anybody.
    run(&service, request(&service, &d, one())).await.expect("it fits");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_it_or_its_caller_wants() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub).await;
    let [a, b] = ["a", "b"].map(unique);
    run(&service, request(&service, &a, one())).await.expect("it runs");

    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let short = pb::Gpus { queue_timeout: second, ..queued() };
    let refused = run(&service, request(&service, &b, short)).await.expect_err("too long");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let told = refused.message();
    assert!(told.contains("waited 1.0 s") && told.contains(&a) && told.contains("number 1 of 1"));

    // The deadline of the call counts too, and its caller learns why.
    let mut call = tonic::Request::new(request(&service, &b, queued()));
    call.set_timeout(Duration::from_secs(2));
    let refused = service.grpc().await.run_container(call).await.expect_err("too long");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");

    // A caller that leaves frees its place; over REST as over gRPC.
    let steps = stream(&service, &b, queued()).await;
    wait(&service, 1).await;
    drop(steps);
    wait(&service, 0).await;
    let body = serde_json::json!({"image": crate::faults::private_engine::TAG, "names": [b],
        "gpus": {"queue": true}});
    let body = body.to_string();
    let leave = service.raw("PUT", "/container-svc/container", &body, &["-m", "2"]);
    let (left, ()) = tokio::join!(leave, wait(&service, 1));
    assert_eq!(left.0, 0, "no answer came before it left: {left:?}");
    wait(&service, 0).await;

    for (gpus, field) in [
        (pb::Gpus { queue_timeout: second, ..one() }, "gpus.queueTimeout"),
        (
            pb::Gpus {
                queue_timeout: Some(prost_types::Duration { seconds: 86_401, nanos: 0 }),
                ..queued()
            },
            "gpus.queueTimeout",
        ),
    ] {
        let refused = run(&service, request(&service, &b, gpus)).await.expect_err("bad");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(field), "{refused:?}");
    }
    // What this node can never give is not waited for.
    let never = pb::Gpus { count: 3, ..queued() };
    let refused = run(&service, request(&service, &b, never)).await.expect_err("never");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_a_removal_and_a_later_description_end_the_waiting() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub).await;
    let [a, b] = ["a", "b"].map(unique);
    run(&service, request(&service, &a, one())).await.expect("it runs");

    let steps = stream(&service, &b, queued()).await;
    wait(&service, 1).await;
    stop(&service, &b).await;
    let ended = ready(steps).await.expect_err("stopped");
    assert!(ended.code() == Code::Cancelled && ended.message().contains("stopped"), "{ended:?}");

    let steps = stream(&service, &b, queued()).await;
    wait(&service, 1).await;
    let (status, answer) =
        service.rest("DELETE", &format!("/container-svc/container?name={b}"), "").await;
    assert_eq!((status, answer), (200, Value::Object(Default::default())));
    assert_eq!(ready(steps).await.expect_err("removed").code(), Code::Cancelled);
    let stop_again = pb::StopContainerRequest { name: b.clone(), ..Default::default() };
    let unknown = service.grpc().await.stop_container(stop_again).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound, "nobody waits any more");

    let steps = stream(&service, &b, queued()).await;
    wait(&service, 1).await;
    let without = pb::RunContainerRequest { gpus: None, ..request(&service, &b, one()) };
    run(&service, without.clone()).await.expect("it runs");
    let ended = ready(steps).await.expect_err("overtaken");
    assert!(ended.code() == Code::Cancelled && ended.message().contains("later"), "{ended:?}");
    // Also by one that changes nothing.
    let steps = stream(&service, &b, queued()).await;
    wait(&service, 1).await;
    let same = run(&service, without).await.expect("it runs");
    assert_eq!(same.action(), pb::RunAction::Unchanged);
    assert_eq!(ready(steps).await.expect_err("overtaken").code(), Code::Cancelled);
    stop(&service, &a).await;
    assert_eq!(has(&service, &b).await, [""; 0], "the last request holds");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_request_that_succeeds_ends_the_waiting() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub).await;
    let [a, b, alias] = ["a", "b", "alias"].map(unique);
    run(&service, request(&service, &a, one())).await.expect("it runs");
    let mut without = pb::RunContainerRequest { gpus: None, ..request(&service, &b, one()) };
    without.names.push(alias.clone());
    run(&service, without).await.expect("it runs");
    let steps = stream(&service, &b, queued()).await;
    wait(&service, 1).await;

    let mut other = request(&service, &b, one());
    other.envs.push(pb::EnvVar { key: "A".into(), value: "1".into() });
    let refused = run(&service, other).await.expect_err("taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let remove = pb::RemoveContainerRequest { name: b.clone(), ..Default::default() };
    let refused = service.grpc().await.remove_container(remove).await.expect_err("it runs");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(waiting(&service).await, 1, "neither did anything");

    // By whatever name: it is the same container.
    stop(&service, &alias).await;
    let ended = ready(steps).await.expect_err("stopped");
    assert!(ended.code() == Code::Cancelled && ended.message().contains("stopped"), "{ended:?}");
    wait(&service, 0).await;
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_gpus_that_are_lost_and_says_so() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub).await;
    let a = unique("a");
    eventually("it is seen", || async {
        text(&super::gpus(&service).await["gpus"][0]["uuid"]) == uuid(0)
    })
    .await;
    stub.says(&device(0, 0, "lost=15"));
    eventually("it is lost", || async {
        super::gpus(&service).await["gpus"][0].get("error").is_some()
    })
    .await;
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let short = pb::Gpus { queue_timeout: second, ..queued() };
    let refused = run(&service, request(&service, &a, short)).await.expect_err("too long");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let told = refused.message();
    assert!(told.contains("waited 1.0 s") && told.contains("fell off the bus"), "{told}");

    let mut steps = stream(&service, &a, queued()).await;
    let standing = stands(&mut steps, (1, 1)).await;
    assert!(standing.reason.contains("fell off the bus"), "{standing:?}");
    stub.says(&devices(1));
    assert_eq!(ready(steps).await.expect("it runs").action(), pb::RunAction::Created);
    assert_eq!(has(&service, &a).await, [uuid(0)]);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_where_a_run_stands() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub).await;
    let [a, b] = ["a", "b"].map(unique);
    run(&service, request(&service, &a, one())).await.expect("it runs");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_container-svc"));
    let own = [("CONTAINER_SVC_ADDRESS", &service.url), ("CONTAINER_SVC_TOKEN", &service.token)];
    command.env_clear().envs(own).args(["run", "--name", &b, "--gpus", "1", "--gpu-queue=20s"]);
    command.args([crate::faults::private_engine::TAG, "sleep", "1000"]);
    let waits = async { command.output().await.expect("it runs") };
    let free = async {
        wait(&service, 1).await;
        stop(&service, &a).await;
    };
    let (out, ()) = tokio::join!(waits, free);
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{told}");
    assert!(told.contains("gpus: waiting, number 1 of 1") && told.contains(&a), "{told}");
    assert!(text(&Value::String(String::from_utf8_lossy(&out.stdout).into())).contains("created"));
    drop(service);
    engine.end().await;
}
