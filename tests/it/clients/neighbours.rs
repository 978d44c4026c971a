//! Services that use this one, reduced to the calls that they make.

use tokio::process::Command;

use super::stage::{ROOT, Stage, succeeds};
use crate::{
    faults::private_engine::{Engine, TAG},
    gpus::{Stub, devices},
    registry::Registry,
    support::{Service, docker, image, unique},
};

fn neighbour(name: &str, service: &Service) -> Command {
    let mut go = Command::new("go");
    go.args(["run", &format!("./{name}")]).current_dir(format!("{ROOT}/examples/neighbours"));
    go.env("CONTAINER_SVC_ADDRESS", &service.url).env("CONTAINER_SVC_TOKEN", &service.token);
    go
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_service_builds_runs_and_stops_by_name() {
    let stage = Stage::set("deploy").await;
    let name = format!("{}web", stage.name);
    let built = format!("{name}:1");
    for started in ["true", "false"] {
        let mut deploy = neighbour("deploy-service", &stage.service);
        deploy.args(["deploy", &name, &built]).arg(stage.good_build());
        let told = format!("{name} runs, started: {started}, ports: 1\n");
        assert_eq!(succeeds(&mut deploy).await, told);
    }
    let mut stop = neighbour("deploy-service", &stage.service);
    assert_eq!(succeeds(stop.args(["stop", &name])).await, format!("{name} runs: false\n"));
    let (service, made) = (&stage.service, stage.service.made());
    assert_eq!(made.len(), 1, "one container: {made:?}");
    docker(&["rm", "-f", &service.made()[0]]);
    docker(&["rmi", &built]);
}

/// The image of a model server, under the tag that the stub's driver runs, on an engine
/// that gives GPUs; and its name with a place for the CUDA version.
async fn model_image(engine: &Engine, registry: &Registry) -> String {
    let (repository, tag) = (format!("{}/llama", registry.host), "cuda-12.4.1-latest");
    let name = format!("{repository}:{tag}");
    docker(&["tag", image(), &name]);
    assert!(docker(&["push", &name]).contains("digest: sha256:"));
    docker(&["rmi", &name]);
    // This engine is in another network, so it cannot pull what the registry lists.
    let script = "test -s \"$MODEL\" && echo loaded $MODEL && exec httpd -f -p 8001 -h /www";
    engine.docker(&["create", "--name", "model", TAG, "sh", "-c", script]).expect("made");
    engine.docker(&["commit", "model", &name]).expect("committed");
    engine.docker(&["rm", "model"]).expect("removed");
    format!("{repository}:cuda-$cudaVersion-latest")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_service_serves_a_model_on_a_gpu_by_its_own_hash() {
    let (engine, registry) = (Engine::with_gpus().await, Registry::start(false).await);
    let (stub, dir) = (Stub::new(&devices(1)), tempfile::tempdir().expect("a folder"));
    std::fs::write(dir.path().join("tiny.gguf"), "weights").expect("a model");
    let (library, address, root) = (stub.setting(), engine.address(), dir.path().to_path_buf());
    let service = Service::program(|config| {
        config.nvml_library = library;
        config.engine = address;
        config.asset_file_roots = vec![root];
    });
    let service = service.await.synced().await;
    let asked = model_image(&engine, &registry).await;
    let model = format!("file://{}", dir.path().join("tiny.gguf").display());
    let hash = unique("model-hash");
    for again in [false, true] {
        let mut serve = neighbour("model-service", &service);
        let told = succeeds(serve.args([&asked, &model, &hash])).await;
        let begin = format!("running before: {again}\nstarted: {}\nserved at http://", !again);
        assert!(told.starts_with(&begin), "{told}");
    }
    let (status, answer) =
        service.rest("GET", &format!("/container-svc/container?hash={hash}"), "").await;
    assert_eq!(status, 200, "{answer}");
    let container = &answer["container"];
    assert_eq!(container["capabilities"]["gpuEnabled"], true);
    assert_eq!(container["gpus"].as_array().map(Vec::len), Some(1), "{container}");
    let path = format!("/container-svc/container/summary?hash={hash}");
    crate::support::eventually("the model is loaded", || async {
        let (_, summary) = service.get(&path).await;
        summary["logs"].as_str().unwrap_or_default().contains("loaded /assets/MODEL/tiny.gguf")
    })
    .await;
    drop(service);
    engine.end().await;
}
