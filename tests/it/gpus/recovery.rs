//! Nobody has a GPU twice, also when a replacement was cut short or goes on.

use container_svc::rpc::pb;
use serde_json::{Value, json};

use super::{
    Stub,
    booked::{has, one, request, run, service, stop},
    devices, gpus, text,
};
use crate::{
    faults::private_engine::Engine,
    proxy::{Mode, Proxy},
    support::{Service, eventually, unique},
};

/// A container with the labels of another, made by hand as a crash would leave it.
fn twin(engine: &Engine, of: &str, called: &str, more: &[&str]) {
    let format = "{{range $key, $value := .Config.Labels}}{{$key}}={{$value}}\n{{end}}";
    let labels = engine.docker(&["inspect", "--format", format, of]).expect("it is there");
    let mut args = vec!["create", "--name", called];
    for label in labels.lines().filter(|label| !label.is_empty()).chain(more.iter().copied()) {
        args.extend(["--label", label]);
    }
    args.extend([crate::faults::private_engine::TAG, "sleep", "1000"]);
    engine.docker(&args).expect("it is made");
}

/// Names of the containers that have a GPU now.
async fn holders(service: &Service) -> Vec<String> {
    let told = gpus(service).await;
    let gpus = told["gpus"].as_array().expect("a list");
    let bookings = gpus.iter().flat_map(|gpu| gpu["bookings"].as_array().expect("a list"));
    bookings.map(|booking| text(&booking["containerName"]).to_owned()).collect()
}

fn runs(engine: &Engine, name: &str) -> bool {
    engine.docker(&["inspect", "-f", "{{.State.Running}}", name]).as_deref() == Some("true")
}

/// While the service was down, somebody else began to run with the only GPU.
async fn crashes_in_a_replacement(leave: impl FnOnce(&Engine, &str)) {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let mut service = service(&engine, &stub).await;
    let (a, b) = (unique("a"), unique("b"));
    run(&service, request(&service, &a, one())).await.expect("it runs");
    service.kill();
    engine.docker(&["kill", &a]).expect("killed");
    let key = format!("container-svc.key=name:{b}");
    twin(&engine, &a, &b, &[&key]);
    engine.docker(&["start", &b]).expect("it runs");
    leave(&engine, &a);
    service.resume().await;
    let service = service.synced().await;
    eventually("one is left under the name", || async {
        let names = engine.docker(&["ps", "-a", "--format", "{{.Names}}"]).unwrap_or_default();
        names.lines().filter(|name| name.starts_with(&a)).eq([a.as_str()])
    })
    .await;
    assert!(!runs(&engine, &a), "another has its GPU");
    assert_eq!(holders(&service).await, [b.as_str()]);
    engine.docker(&["rm", "-f", &b]).expect("gone");
    eventually("it has its GPU again", || async {
        runs(&engine, &a) && holders(&service).await == [a.as_str()]
    })
    .await;
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_a_crash_kept_from_starting_does_not_start_with_anothers_gpu() {
    crashes_in_a_replacement(|engine, a| {
        let old = format!("{a}__old");
        engine.docker(&["rename", a, &old]).expect("renamed");
        twin(engine, &old, a, &[]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_that_comes_back_after_a_crash_does_not_start_with_anothers_gpu() {
    crashes_in_a_replacement(|engine, a| {
        let old = format!("{a}__old");
        engine.docker(&["rename", a, &old]).expect("renamed");
        twin(engine, &old, &format!("{a}__new"), &[]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_that_does_not_run_has_no_gpu_while_it_is_replaced() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let proxy = Proxy::before(engine.socket());
    let (library, address) = (stub.setting(), proxy.address());
    let service = Service::program(|config| {
        config.nvml_library = library;
        config.engine = address;
    });
    let service = service.await.synced().await;
    let (a, c) = (unique("a"), unique("c"));
    run(&service, request(&service, &a, one())).await.expect("it runs");
    stop(&service, &a).await;
    run(&service, request(&service, &c, one())).await.expect("it runs");

    proxy.set_for(Mode::Hold, "/containers/create");
    let met = proxy.met_now();
    let without = pb::RunContainerRequest { gpus: None, ..request(&service, &a, one()) };
    let replace = run(&service, without);
    let look = async {
        met.await;
        let told = holders(&service).await;
        proxy.set(Mode::Pass);
        told
    };
    let (replaced, told) = tokio::join!(replace, look);
    assert_eq!(told, [c.as_str()], "the predecessor has ended");
    assert_eq!(replaced.expect("replaced").action(), pb::RunAction::Replaced);
    assert_eq!(has(&service, &a).await, [""; 0]);
    let told: Value = gpus(&service).await["gpus"][0]["bookings"].clone();
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{}", json!(told));
    drop(service);
    engine.end().await;
}
