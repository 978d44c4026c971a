//! Containers are asked whether they still see their GPUs; what hangs there, or an engine
//! that fails, is no proof that they do not.

use std::time::Duration;

use container_svc::{config::Config, rpc::pb};

use super::{
    Stub,
    booked::{one, request, run},
    device, devices, text,
    watched::{events, pid, restarting, service, told},
};
use crate::{
    faults::private_engine::Engine,
    proxy::{Mode, Proxy},
    support::{Service, eventually, unique},
};

/// One with a program, as NVIDIA's toolkit puts it there, that tells its GPU while the file
/// `/seen` is there, and does this when it is not.
fn asked_of(service: &Service, name: &str, otherwise: &str) -> pb::RunContainerRequest {
    let script = format!(
        "echo \"GPU 0: NVIDIA T4 (UUID: $NVIDIA_VISIBLE_DEVICES)\" > /seen; \
         printf '#!/bin/sh\\necho x >> /asked\\ncat /seen 2>/dev/null && exit 0\\n{otherwise}\\n' \
         > /bin/nvidia-smi; busybox chmod +x /bin/nvidia-smi; exec sleep 1000"
    );
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    pb::RunContainerRequest { command, ..request(service, name, one()) }
}

fn count(engine: &Engine, name: &str, file: &str) -> usize {
    let told = engine.docker(&["exec", name, "sh", "-c", &format!("cat {file}; echo end")]);
    told.map_or(0, |told| told.matches('x').count())
}

/// Waits until it was asked twice more: the first answer was taken into account then.
async fn is_asked(engine: &Engine, name: &str) {
    let before = count(engine, name, "/asked");
    eventually("it is asked twice", || async { count(engine, name, "/asked") >= before + 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_see_its_gpu_any_more_is_started_again() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub, |_| {}).await;
    let a = unique("a");
    run(&service, restarting(asked_of(&service, &a, "exit 255"))).await.expect("it runs");
    let before = pid(&engine, &a);
    is_asked(&engine, &a).await;
    // A reload of cgroups takes the GPU away.
    engine.docker(&["exec", &a, "rm", "/seen"]).expect("removed");
    let event = told(&service, "GPU_LOST", &a, 1).await;
    assert!(text(&event["gpu"]["reason"]).contains("cgroups"), "{event}");
    told(&service, "RESTARTED", &a, 1).await;
    assert_ne!(pid(&engine, &a), before);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_hangs_in_a_container_is_not_asked_again_beside_it() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let service = service(&engine, &stub, |_| {}).await;
    let a = unique("a");
    let hang = "echo x >> /hung; while [ ! -e /go ]; do sleep 0.2; done";
    let never = pb::RunContainerRequest {
        restart_policy: pb::RestartPolicy::Never.into(),
        ..asked_of(&service, &a, hang)
    };
    run(&service, never).await.expect("it runs");
    is_asked(&engine, &a).await;
    engine.docker(&["exec", &a, "rm", "/seen"]).expect("removed");
    let event = told(&service, "GPU_LOST", &a, 1).await;
    assert!(text(&event["gpu"]["reason"]).contains("does not end"), "{event}");
    assert_eq!(count(&engine, &a, "/hung"), 1, "one hangs, and no other beside it");
    engine.docker(&["exec", &a, "sh", "-c", "echo > /go"]).expect("it goes on");
    is_asked(&engine, &a).await;
    drop(service);
    engine.end().await;
}

/// The service behind a proxy, which looks often.
async fn behind(proxy: &Proxy, stub: &Stub) -> Service {
    let library = stub.setting();
    let change = |config: &mut Config| {
        proxy.under(config);
        config.nvml_library = library;
        config.gpu_interval = Duration::from_millis(250);
    };
    Service::program(change).await.synced().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_or_does_not_answer_takes_no_gpu_away() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let proxy = Proxy::before(engine.socket());
    let service = behind(&proxy, &stub).await;
    let a = unique("a");
    proxy.set_for(Mode::Status500, "/exec");
    let met = proxy.met_now();
    run(&service, restarting(asked_of(&service, &a, "exit 255"))).await.expect("it runs");
    met.await;
    proxy.set(Mode::Pass);
    // It does have the program.
    is_asked(&engine, &a).await;
    proxy.set_for(Mode::Hold, "/exec");
    for _ in 0..3 {
        proxy.met().await;
    }
    proxy.set(Mode::Pass);
    is_asked(&engine, &a).await;
    assert_eq!(events(&service, "GPU_LOST", &a).await.len(), 0, "nobody knows that");
    engine.docker(&["exec", &a, "rm", "/seen"]).expect("removed");
    told(&service, "GPU_LOST", &a, 1).await;
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_attended_to_when_the_engine_fails_meanwhile() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let proxy = Proxy::before(engine.socket());
    let service = behind(&proxy, &stub).await;
    let a = unique("a");
    let done = run(&service, restarting(request(&service, &a, one()))).await.expect("it runs");
    proxy.set_for(Mode::Status500, &format!("/containers/{}/json", done.id));
    let met = proxy.met_now();
    stub.says(&device(0, 0, "lost=15"));
    told(&service, "GPU_LOST", &a, 1).await;
    met.await;
    proxy.set(Mode::Pass);
    eventually("it is stopped, and waits", || async { pid(&engine, &a) == "0" }).await;
    drop(service);
    engine.end().await;
}
