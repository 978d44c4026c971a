//! Shares of a GPU that NVIDIA's MPS keeps its clients within: who is kept, and that nobody
//! is told to be kept while MPS is not there. Its control daemon is a file here.

use std::path::Path;

use container_svc::rpc::pb;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Stub,
    booked::{asked, one, request, run, stop},
    devices,
    watched::{events, pid, restarting, service, told},
};
use crate::{
    faults::private_engine::Engine,
    support::{Service, eventually, unique},
};

/// The directory of the daemon; the service's setting.
fn pipes() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// What the control daemon of MPS makes.
fn begins(pipes: &Path) {
    std::fs::write(pipes.join("control"), "").expect("written");
}

fn ends(pipes: &Path) {
    std::fs::remove_file(pipes.join("control")).expect("removed");
}

fn share() -> pb::Gpus {
    pb::Gpus { memory_mb: 2048, compute_percent: 25, ..one() }
}

async fn level(service: &Service, name: &str) -> Value {
    let (_, answer) = service.get(&format!("/container-svc/container?name={name}")).await;
    answer["container"]["gpus"][0]["level"].clone()
}

fn is_client(engine: &Engine, name: &str) -> bool {
    asked(engine, name).1.iter().any(|env| env.starts_with("CUDA_MPS_"))
}

#[tokio::test(flavor = "multi_thread")]
async fn mps_keeps_containers_within_what_they_booked_where_it_runs() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(2));
    let pipes = pipes();
    let directory = pipes.path().to_owned();
    let service = service(&engine, &stub, |config| config.gpu_mps_directory = directory).await;
    let [a, b, c] = ["a", "b", "c"].map(unique);
    run(&service, request(&service, &a, share())).await.expect("it runs");
    assert_eq!(level(&service, &a).await, "GPU_LEVEL_BOOKED", "no daemon is there");

    begins(pipes.path());
    run(&service, request(&service, &b, share())).await.expect("it runs");
    assert_eq!(level(&service, &b).await, "GPU_LEVEL_ENFORCED");
    let only = json!({"name": b}).to_string();
    let (_, listed) = service.rest("POST", "/container-svc/containers", &only).await;
    assert_eq!(listed["containers"][0]["gpus"][0]["level"], "GPU_LEVEL_ENFORCED", "{listed}");
    let (_, envs) = asked(&engine, &b);
    let directory = pipes.path().display().to_string();
    for env in [
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=2048M".to_owned(),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25".to_owned(),
        format!("CUDA_MPS_PIPE_DIRECTORY={directory}"),
    ] {
        assert!(envs.contains(&env), "{env} in {envs:?}");
    }
    let seen = engine.docker(&["exec", &b, "ls", &directory]).expect("it is mounted");
    assert_eq!(seen, "control");
    let mode = engine.docker(&["inspect", "-f", "{{.HostConfig.IpcMode}}", &b]);
    assert_eq!(mode.as_deref(), Some("host"));
    // A whole GPU needs no keeper.
    run(&service, request(&service, &c, one())).await.expect("it runs");
    assert!(!is_client(&engine, &c));
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_share_mps_kept_gets_an_honest_one_when_mps_is_gone() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let pipes = pipes();
    begins(pipes.path());
    let directory = pipes.path().to_owned();
    let service = service(&engine, &stub, |config| config.gpu_mps_directory = directory).await;
    let a = unique("a");
    let first = run(&service, request(&service, &a, share())).await.expect("it runs");
    assert_eq!(level(&service, &a).await, "GPU_LEVEL_ENFORCED");
    // While it runs too: a program that it starts now is kept by nothing.
    ends(pipes.path());
    eventually("it is not kept any more", || async {
        level(&service, &a).await == "GPU_LEVEL_BOOKED"
    })
    .await;
    begins(pipes.path());
    eventually("it is again", || async { level(&service, &a).await == "GPU_LEVEL_ENFORCED" }).await;

    stop(&service, &a).await;
    let again = run(&service, request(&service, &a, share())).await.expect("it runs");
    assert_eq!((again.action(), &again.id), (pb::RunAction::Started, &first.id));
    stop(&service, &a).await;
    ends(pipes.path());
    let again = run(&service, request(&service, &a, share())).await.expect("it runs");
    assert_eq!(
        (again.action(), again.differing_fields),
        (pb::RunAction::Replaced, vec!["gpus".into()])
    );
    assert_eq!(level(&service, &a).await, "GPU_LEVEL_BOOKED");
    assert!(!is_client(&engine, &a), "nothing keeps it");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_a_container_that_mps_keeps_waits_until_mps_is_there() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(1));
    let pipes = pipes();
    begins(pipes.path());
    let directory = pipes.path().to_owned();
    let service = service(&engine, &stub, |config| config.gpu_mps_directory = directory).await;
    let a = unique("a");
    run(&service, restarting(request(&service, &a, share()))).await.expect("it runs");
    ends(pipes.path());
    engine.docker(&["kill", &a]).expect("killed");
    eventually("it says what is missing", || async {
        let told = events(&service, "BACKING_OFF", &a).await;
        told.iter().any(|event| event.to_string().contains("MPS"))
    })
    .await;
    assert_eq!(pid(&engine, &a), "0", "it does not run without");
    begins(pipes.path());
    told(&service, "RESTARTED", &a, 1).await;
    eventually("it is kept again", || async { level(&service, &a).await == "GPU_LEVEL_ENFORCED" })
        .await;
    drop(service);
    engine.end().await;
}
