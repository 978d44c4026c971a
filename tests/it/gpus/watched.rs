//! Containers with GPUs are watched: who uses more than it booked, and who lost its GPU,
//! is told of by an event and dealt with as it was configured.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use container_svc::{config::Config, rpc::pb};
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Stub,
    booked::{has, one, request, run},
    device, devices, gpus, text, uuid,
};
use crate::{
    faults::private_engine::Engine,
    support::{Service, eventually, unique},
};

/// The service, which looks often.
pub(super) async fn service(
    engine: &Engine,
    stub: &Stub,
    more: impl FnOnce(&mut Config),
) -> Service {
    let (library, address) = (stub.setting(), engine.address());
    let change = |config: &mut Config| {
        config.nvml_library = library;
        config.engine = address;
        config.gpu_interval = Duration::from_millis(250);
        more(config);
    };
    Service::program(change).await.synced().await
}

/// Events of a kind, the newest first.
pub(super) async fn events(service: &Service, kind: &str, name: &str) -> Vec<Value> {
    let body = json!({"kinds": [format!("EVENT_KIND_{kind}")], "name": name}).to_string();
    let (status, page) = service.rest("POST", "/container-svc/events", &body).await;
    assert_eq!(status, 200, "{page}");
    page["events"].as_array().expect("a list").clone()
}

pub(super) async fn told(service: &Service, kind: &str, name: &str, count: usize) -> Value {
    eventually(&format!("{kind} is told of {name}"), || async {
        events(service, kind, name).await.len() == count
    })
    .await;
    events(service, kind, name).await[0].clone()
}

/// One that comes back soon.
pub(super) fn restarting(request: pb::RunContainerRequest) -> pb::RunContainerRequest {
    let short = prost_types::Duration { seconds: 0, nanos: 200_000_000 };
    pb::RunContainerRequest {
        restart_policy: pb::RestartPolicy::OnFailure.into(),
        restart: Some(pb::RestartOptions {
            min_backoff: Some(short),
            max_backoff: Some(short),
            // What is away for a while shall not use the budget up.
            max_restarts: Some(1000),
            ..Default::default()
        }),
        stop_timeout: Some(short),
        ..request
    }
}

pub(super) fn pid(engine: &Engine, name: &str) -> String {
    engine.docker(&["inspect", "-f", "{{.State.Pid}}", name]).expect("a pid")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uses_more_than_it_booked_is_told_of_once_and_dealt_with_as_it_asked() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub, |_| {}).await;
    let [a, b, c] = ["report", "stop", "restart"].map(unique);
    let wish = |on_overrun: pb::GpuOverrunAction| pb::Gpus {
        memory_mb: 1000,
        on_overrun: on_overrun.into(),
        ..one()
    };
    for (name, action) in [
        (&a, pb::GpuOverrunAction::Unspecified),
        (&b, pb::GpuOverrunAction::Stop),
        (&c, pb::GpuOverrunAction::Restart),
    ] {
        let request = restarting(request(&service, name, wish(action)));
        run(&service, request).await.expect("it runs");
    }
    let before = [&a, &b, &c].map(|name| pid(&engine, name));
    let uses = |mib: u64| {
        let line = |pid: &String| format!("process pid={pid} used={}\n", mib << 20);
        let lines: String = before.iter().map(line).collect();
        stub.says(&format!("{}{lines}", devices(1)));
    };
    uses(1500);
    let event = told(&service, "GPU_OVERRUN", &a, 1).await;
    assert_eq!(
        event["gpu"],
        json!({"uuid": uuid(0), "reason": "", "bookedMB": "1000", "usedMB": "1500",
            "action": "report", "xid": "0"})
    );
    let message = text(&event["message"]).to_owned();
    assert!(message.contains("1500 MiB in use of 1000 MiB booked"), "{message}");
    for (name, action) in [(&b, "stop"), (&c, "restart")] {
        assert_eq!(told(&service, "GPU_OVERRUN", name, 1).await["gpu"]["action"], action);
    }
    told(&service, "STOPPED", &b, 1).await;
    let restarted = told(&service, "RESTARTED", &c, 1).await;
    let reason = text(&restarted["restart"]["reason"]).to_owned();
    assert!(reason.contains("more GPU memory than booked"), "{reason}");
    // It swings around its booking: that is one and the same overrun.
    for mib in [990, 1500, 990, 1500] {
        uses(mib);
        // More looks than begin or end an overrun; nobody else looks meanwhile.
        let seen = stub.looks();
        eventually("it is looked at for a while", || async { stub.looks() >= seen + 5 }).await;
    }
    assert_eq!(events(&service, "GPU_OVERRUN", &a).await.len(), 1);
    assert_eq!(pid(&engine, &a), before[0], "it was left alone");
    assert_ne!(pid(&engine, &c), before[2], "it was started again");
    assert_eq!(pid(&engine, &b), "0", "it stays stopped");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_for_gpu_memory_ends_no_run_that_may_be_the_remedy() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub, |_| {}).await;
    let [a, b] = ["a", "b"].map(unique);
    let share = |on_overrun: pb::GpuOverrunAction| pb::Gpus {
        memory_mb: 1000,
        on_overrun: on_overrun.into(),
        ..one()
    };
    run(&service, request(&service, &a, share(pb::GpuOverrunAction::Stop))).await.expect("it runs");
    run(&service, request(&service, &b, share(pb::GpuOverrunAction::Report)))
        .await
        .expect("it runs");
    let whole = pb::Gpus { queue: true, ..one() };
    let remedy = run(&service, request(&service, &a, whole));
    let rest = async {
        eventually("it waits", || async { super::node(&service).await["waiting"] == 1 }).await;
        let used = 1500_u64 << 20;
        let pid = pid(&engine, &a);
        stub.says(&format!("{}process pid={pid} used={used}\n", devices(1)));
        told(&service, "STOPPED", &a, 1).await;
        stub.says(&devices(1));
        assert_eq!(super::node(&service).await["waiting"], 1, "it still waits");
        super::booked::stop(&service, &b).await;
    };
    let (remedy, ()) = tokio::join!(remedy, rest);
    assert_eq!(remedy.expect("it runs").action(), pb::RunAction::Replaced);
    assert_eq!(has(&service, &a).await, [uuid(0)]);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_gpu_is_told_of_and_runs_again_when_it_is_back() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(2));
    let service = service(&engine, &stub, |_| {}).await;
    let [a, b] = ["a", "b"].map(unique);
    run(&service, restarting(request(&service, &a, one()))).await.expect("it runs");
    let never = pb::RunContainerRequest {
        restart_policy: pb::RestartPolicy::Never.into(),
        ..request(&service, &b, one())
    };
    run(&service, never).await.expect("it runs");
    let before = [&a, &b].map(|name| pid(&engine, name));
    let off = |index: usize| device(index, 0, "lost=15") + "\n";
    stub.says(&format!("{}{}", off(0), off(1)));
    for name in [&a, &b] {
        let event = told(&service, "GPU_LOST", name, 1).await;
        assert!(text(&event["gpu"]["reason"]).contains("fell off the bus"), "{event}");
    }
    eventually("it is stopped, and waits", || async { pid(&engine, &a) == "0" }).await;
    assert_eq!(pid(&engine, &b), before[1], "its policy is never");
    stub.says(&devices(2));
    eventually("it runs again", || async { pid(&engine, &a) != "0" }).await;
    let restarted = told(&service, "RESTARTED", &a, 1).await;
    assert_eq!(has(&service, &a).await, [uuid(0)], "{restarted}");
    assert_eq!(events(&service, "GPU_LOST", &b).await.len(), 1, "told once a run");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_with_a_fatal_xid_is_given_to_nobody_until_it_was_well_for_a_while() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(2));
    let quiet = |config: &mut Config| config.gpu_drain_time = Duration::from_secs(15);
    let mut service = service(&engine, &stub, quiet).await;
    let [a, b] = ["a", "b"].map(unique);
    run(&service, restarting(request(&service, &a, one()))).await.expect("it runs");
    assert_eq!(has(&service, &a).await, [uuid(0)]);
    // An error of a program, then one of the GPU.
    let says = |more: &str| stub.says(&format!("{}\n{}", device(0, 0, more), device(1, 0, "")));
    let xids = async |service: &Service| gpus(service).await["gpus"][0]["xids"].clone();
    eventually("it is listened to", || async { !xids(&service).await.is_null() }).await;
    says("xid=31 xidno=1");
    eventually("it is told", || async { xids(&service).await[0]["code"] == "31" }).await;
    assert_eq!(xids(&service).await[0]["fatal"], false);
    assert!(gpus(&service).await["gpus"][0].get("drained").is_none());
    says("xid=48 xidno=2");
    let drained = || async {
        let told = gpus(&service).await["gpus"][0]["drained"].clone();
        text(&told).contains("XID 48")
    };
    eventually("it is drained", drained).await;
    let event = told(&service, "GPU_DRAINED", "", 1).await;
    assert_eq!((&event["gpu"]["uuid"], &event["gpu"]["xid"]), (&json!(uuid(0)), &json!("48")));
    let lost = told(&service, "GPU_LOST", &a, 1).await;
    assert!(text(&lost["gpu"]["reason"]).contains("XID 48"), "{lost}");
    // The same again is told when it is later, as the drain lasts longer for it.
    let number = AtomicU64::new(2);
    eventually("it is told again", || async {
        let next = number.fetch_add(1, Ordering::Relaxed) + 1;
        says(&format!("xid=48 xidno={next}"));
        events(&service, "GPU_DRAINED", "").await.len() > 1
    })
    .await;
    let first = pb::Gpus { ids: vec!["0".into()], ..one() };
    let refused = run(&service, request(&service, &b, first)).await.expect_err("drained");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("XID 48"), "{refused:?}");
    run(&service, request(&service, &b, one())).await.expect("the other is well");
    assert_eq!(has(&service, &b).await, [uuid(1)]);

    // The driver does not tell it twice, and the service remembers.
    says("");
    let drains = events(&service, "GPU_DRAINED", "").await.len();
    service.kill();
    service.resume().await;
    let service = service.synced().await;
    let why = gpus(&service).await["gpus"][0]["drained"].clone();
    assert!(text(&why).contains("XID 48"), "{why}");
    told(&service, "GPU_RETURNED", "", 1).await;
    eventually("it runs again where it ran", || async { pid(&engine, &a) != "0" }).await;
    assert_eq!(has(&service, &a).await, [uuid(0)]);
    assert_eq!(events(&service, "GPU_DRAINED", "").await.len(), drains);
    drop(service);
    engine.end().await;
}
