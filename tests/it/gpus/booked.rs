//! GPUs are given out, never twice, and what cannot be given is refused with a reason.
//! The engine is a real one with NVIDIA's driver switched on; its hook does nothing.

use std::collections::BTreeSet;

use container_svc::rpc::pb;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{Stub, device, devices, gpus, text, uuid};
use crate::{
    faults::private_engine::{Engine, TAG},
    support::{Service, eventually, unique},
};

/// The service in front of an engine that gives GPUs, with a stub of NVIDIA's library.
pub(super) async fn service(engine: &Engine, stub: &Stub) -> Service {
    let (library, address) = (stub.setting(), engine.address());
    let change = |config: &mut container_svc::config::Config| {
        config.nvml_library = library;
        config.engine = address;
    };
    Service::program(change).await.synced().await
}

pub(super) fn request(service: &Service, name: &str, gpus: pb::Gpus) -> pb::RunContainerRequest {
    pb::RunContainerRequest { image: TAG.into(), gpus: Some(gpus), ..service.request(name) }
}

/// The older way to ask.
pub(super) fn enabled(
    service: &Service,
    name: &str,
    envs: &[(&str, &str)],
) -> pb::RunContainerRequest {
    let env =
        |(key, value): &(&str, &str)| pb::EnvVar { key: (*key).into(), value: (*value).into() };
    pb::RunContainerRequest {
        image: TAG.into(),
        capabilities: Some(pb::Capabilities { gpu_enabled: true }),
        envs: envs.iter().map(env).collect(),
        ..service.request(name)
    }
}

pub(super) async fn run(
    service: &Service,
    request: pb::RunContainerRequest,
) -> Result<pb::RunContainerResponse, Status> {
    Ok(service.grpc().await.run_container(request).await?.into_inner())
}

pub(super) async fn stop(service: &Service, name: &str) {
    let request = pb::StopContainerRequest { name: name.into(), ..Default::default() };
    service.grpc().await.stop_container(request).await.expect("stopped");
}

/// UUIDs that a container has, as the service tells.
pub(super) async fn has(service: &Service, name: &str) -> Vec<String> {
    let (status, answer) = service.get(&format!("/container-svc/container?name={name}")).await;
    assert_eq!(status, 200, "{answer}");
    let container = &answer["container"];
    let gpus = container["gpus"].as_array().expect("a list");
    assert_eq!(container["capabilities"]["gpuEnabled"], !gpus.is_empty());
    gpus.iter().map(|gpu| text(&gpu["uuid"]).to_owned()).collect()
}

/// What the engine was asked for.
pub(super) fn asked(engine: &Engine, name: &str) -> (Value, Vec<String>) {
    let format = "{{json .HostConfig.DeviceRequests}}\n{{json .Config.Env}}";
    let told = engine.docker(&["inspect", "-f", format, name]).expect("it is there");
    let (requests, envs) = told.split_once('\n').expect("two lines");
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    (parse(requests), serde_json::from_value(parse(envs)).expect("texts"))
}

pub(super) fn one() -> pb::Gpus {
    pb::Gpus::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_gpu_or_a_runtime_says_how_to_get_it_before_anything_is_touched() {
    let absent = |service: &Service| pb::RunContainerRequest {
        image: "localhost:1/not/there".into(),
        ..request(service, &unique("gpu"), one())
    };
    let service = Service::with(|config| config.nvml_library = "/nowhere/x.so".into()).await;
    let service = service.synced().await;
    for request in [absent(&service), enabled(&service, &unique("gpu"), &[])] {
        let refused = run(&service, request).await.expect_err("no GPU");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let told = refused.message();
        assert!(told.contains("/nowhere/x.so") && told.contains("install"), "{told}");
    }
    // Nothing was pulled, and nothing made; and who wants none is not refused.
    assert_eq!(service.made(), [""; 0]);
    let mut none = enabled(&service, &unique("gpu"), &[("NVIDIA_VISIBLE_DEVICES", "none")]);
    none.image = crate::support::image().into();
    run(&service, none).await.expect("it wants no GPU");

    let stub = Stub::new(&devices(1));
    let service = super::service(&stub).await;
    let refused = run(&service, absent(&service)).await.expect_err("no runtime");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("nvidia-ctk"), "{refused:?}");
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_asked_for_just_the_gpus_that_a_container_was_given() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(3));
    let service = service(&engine, &stub).await;
    let all: Vec<String> = (0..3).map(uuid).collect();

    for value in ["", "all"] {
        let name = unique("gpu");
        let envs = [("NVIDIA_VISIBLE_DEVICES", value), ("LD_PRELOAD", "/x.so"), ("A", "b")];
        let first = run(&service, enabled(&service, &name, &envs)).await.expect("it runs");
        let (requests, envs_given) = asked(&engine, &name);
        assert_eq!(
            requests,
            json!([{"Driver": "nvidia", "Count": 0, "DeviceIDs": all, "Capabilities": [["gpu"]],
                "Options": null}])
        );
        let visible = format!("NVIDIA_VISIBLE_DEVICES={}", all.join(","));
        assert!(envs_given.contains(&visible) && envs_given.contains(&"A=b".to_owned()));
        assert!(!envs_given.iter().any(|env| env.starts_with("LD_")), "{envs_given:?}");
        assert_eq!(has(&service, &name).await, all);
        let again = run(&service, enabled(&service, &name, &envs)).await.expect("it runs");
        assert_eq!((again.action(), &again.id), (pb::RunAction::Unchanged, &first.id));
    }
    let name = unique("gpu");
    let two = [("NVIDIA_VISIBLE_DEVICES", "2,GPU-00000000-0000-0000-0000-000000000000")];
    run(&service, enabled(&service, &name, &two)).await.expect("it runs");
    assert_eq!(has(&service, &name).await, [uuid(0), uuid(2)]);

    // In use by what asked for all: nobody can have one alone.
    let refused = run(&service, request(&service, &unique("gpu"), one())).await;
    assert_eq!(refused.expect_err("taken").code(), Code::ResourceExhausted);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bookings_end_with_their_container_and_outlive_the_service() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(2));
    let mut service = service(&engine, &stub).await;
    let (a, b, c) = (unique("a"), unique("b"), unique("c"));
    for name in [&a, &b] {
        run(&service, request(&service, name, one())).await.expect("it runs");
    }
    assert_eq!((has(&service, &a).await, has(&service, &b).await), (vec![uuid(0)], vec![uuid(1)]));
    let refusal = |answer: Result<_, Status>| {
        let refused: Status = Result::<pb::RunContainerResponse, _>::expect_err(answer, "taken");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains(&a) && refused.message().contains(&b), "{refused:?}");
    };
    refusal(run(&service, request(&service, &c, one())).await);
    assert_eq!(service.made().len(), 0, "the host's own engine has none of them");

    service.kill();
    service.resume().await;
    let service = service.synced().await;
    refusal(run(&service, request(&service, &c, one())).await);
    let told = gpus(&service).await;
    assert_eq!(told["gpus"][0]["bookings"][0]["containerName"], a);

    stop(&service, &a).await;
    run(&service, request(&service, &c, one())).await.expect("a has ended");
    assert_eq!(has(&service, &c).await, [uuid(0)]);
    // What a had is c's now, and there is no other.
    let refused = run(&service, request(&service, &a, one())).await.expect_err("taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    stop(&service, &b).await;
    let again = run(&service, request(&service, &a, one())).await.expect("b has ended");
    assert_eq!(
        (again.action(), again.differing_fields),
        (pb::RunAction::Replaced, vec!["gpus".into()])
    );
    assert_eq!(has(&service, &a).await, [uuid(1)]);
    // One that stopped, and whose GPUs nobody took, has them again.
    stop(&service, &a).await;
    let again = run(&service, request(&service, &a, one())).await.expect("it runs");
    assert_eq!(again.action(), pb::RunAction::Started);
    assert_eq!(has(&service, &a).await, [uuid(1)]);
    // A successor takes over what its predecessor has.
    let mut other = request(&service, &a, one());
    other.envs.push(pb::EnvVar { key: "A".into(), value: "1".into() });
    let replaced = run(&service, other).await.expect("it runs");
    assert_eq!(replaced.differing_fields, ["envs"]);
    assert_eq!(has(&service, &a).await, [uuid(1)]);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_get_the_same_gpu() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(8));
    let service = service(&engine, &stub).await;
    let names: Vec<String> = (0..12).map(|_| unique("many")).collect();
    let runs = names.iter().map(|name| run(&service, request(&service, name, one())));
    let answers = futures_util::future::join_all(runs).await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (8, 4));
    for refusal in refused {
        assert_eq!(refusal.expect_err("refused").code(), Code::ResourceExhausted);
    }
    let mut given = BTreeSet::new();
    for answer in done {
        given.extend(has(&service, &answer.expect("done").name).await);
    }
    assert_eq!(given.len(), 8, "{given:?}");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_shared_out_and_what_is_used_is_seen() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub).await;
    let half = pb::Gpus { memory_mb: 7_000, ..one() };
    let (a, b) = (unique("a"), unique("b"));
    run(&service, request(&service, &a, half.clone())).await.expect("it runs");
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", &a]).expect("a pid");
    // It uses more than it booked, and that counts.
    let used = 9_000_u64 << 20;
    stub.says(&format!("{}\nprocess pid={pid} used={used}", device(0, 9_000, "")));
    eventually("its use is seen", || async {
        let (_, answer) = service.get(&format!("/container-svc/container?name={a}")).await;
        let gpu = &answer["container"]["gpus"][0];
        gpu["level"] == "GPU_LEVEL_OBSERVED" && text(&gpu["usedBytes"]) == used.to_string()
    })
    .await;
    let refused = run(&service, request(&service, &b, half.clone())).await.expect_err("full");
    let told = refused.message();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{told}");
    assert!(told.contains("6872 of 15872 MiB are left") && told.contains(&a), "{told}");
    stub.says(&format!("{}\nprocess pid={pid} used=1048576", device(0, 1, "")));
    eventually("there is room again", || async {
        run(&service, request(&service, &b, half.clone())).await.is_ok()
    })
    .await;
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_what_the_node_lacks_is_refused_with_what_it_has() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&format!("{}\n{}", device(0, 0, ""), device(1, 0, "lost=15")));
    let service = service(&engine, &stub).await;
    let ids = |id: &str| pb::Gpus { ids: vec![id.into()], ..one() };
    for (gpus, words) in [
        (ids("GPU-none"), uuid(0)),
        (ids("7"), uuid(0)),
        (pb::Gpus { count: 3, ..one() }, "the node has 2".into()),
        (pb::Gpus { count: -1, ..one() }, "gpus.count".into()),
        (pb::Gpus { memory_mb: 16_000, ..one() }, "15872 MiB".into()),
        (pb::Gpus { exclusive: true, shared: true, ..one() }, "gpus.exclusive".into()),
        (pb::Gpus { mig_profile: "1g.5gb".into(), ..one() }, "no GPU that is cut".into()),
    ] {
        let refused =
            run(&service, request(&service, &unique("gpu"), gpus)).await.expect_err("bad");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(&words), "{words} in {refused:?}");
    }
    let two = pb::Gpus { count: 2, ..one() };
    let refused = run(&service, request(&service, &unique("gpu"), two)).await.expect_err("lost");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("fell off the bus"), "{refused:?}");
    let name = unique("gpu");
    run(&service, request(&service, &name, one())).await.expect("one is left");
    assert_eq!(has(&service, &name).await, [uuid(0)]);
    drop(service);
    engine.end().await;
}
