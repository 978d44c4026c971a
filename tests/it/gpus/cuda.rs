//! A CUDA image is chosen by what the driver runs, from the tags of a real registry.

use container_svc::rpc::pb;
use tonic::{Code, Status};

use super::{Stub, devices};
use crate::{
    registry::Registry,
    support::{Service, docker, image, unique},
};

/// Tags of one repository. The stub's driver is 550, with CUDA 12.4.
const TAGS: [&str; 5] = [
    "cuda-11.8.0-latest",
    "cuda-12.4.1-latest",
    "cuda-12.8.0-latest",
    "cuda-13.0.0-latest",
    "latest",
];

/// Pushes the test image under these tags; the repository's name.
fn publish(registry: &Registry) -> String {
    let repository = format!("{}/llama", registry.host);
    for tag in TAGS {
        let name = format!("{repository}:{tag}");
        docker(&["tag", image(), &name]);
        let pushed = docker(&["push", &name]);
        assert!(pushed.contains("digest: sha256:"), "{pushed}");
        docker(&["rmi", &name]);
    }
    repository
}

async fn run(
    service: &Service,
    image: &str,
    change: impl FnOnce(&mut pb::RunContainerRequest),
) -> Result<pb::RunContainerResponse, Status> {
    let mut request =
        pb::RunContainerRequest { image: image.to_owned(), ..service.request(&unique("cuda")) };
    change(&mut request);
    Ok(service.grpc().await.run_container(request).await?.into_inner())
}

fn refused(answer: Result<pb::RunContainerResponse, Status>, code: Code, words: &str) {
    let refused = answer.expect_err("it is refused");
    assert_eq!(refused.code(), code, "{refused:?}");
    assert!(refused.message().contains(words), "{words} in {refused:?}");
}

fn gpu(request: &mut pb::RunContainerRequest) {
    request.capabilities = Some(pb::Capabilities { gpu_enabled: true });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_published_tag_that_the_driver_runs_is_taken() {
    let registry = Registry::start(false).await;
    let repository = publish(&registry);
    let stub = Stub::new(&devices(1));
    let service = super::service(&stub).await;
    // A place is filled whether GPUs are asked for or not.
    for place in ["{cuda}", "$cudaVersion"] {
        let asked = format!("{repository}:cuda-{place}-latest");
        let done = run(&service, &asked, |_| {}).await.expect("it runs");
        let choice = done.cuda.expect("a choice");
        let chosen = format!("{repository}:cuda-12.8.0-latest");
        assert_eq!((choice.asked_image, choice.image), (asked, chosen.clone()));
        assert!(choice.reason.contains("driver 550 (CUDA 12.4)"), "{}", choice.reason);
        assert_eq!(
            docker(&[
                "inspect",
                "-f",
                "{{index .Config.Labels \"container-svc.image\"}}",
                &done.id
            ]),
            chosen
        );
    }
    // It is told once for each container that was started with it.
    let kind = r#"{"kinds":["EVENT_KIND_CUDA_CHOSEN"]}"#;
    let (_, told) = service.rest("POST", "/container-svc/events", kind).await;
    let events = told["events"].as_array().expect("a list");
    assert_eq!(events.len(), 2, "{told}");
    let cuda = &events[0]["cuda"];
    assert_eq!(cuda["image"], format!("{repository}:cuda-12.8.0-latest"), "{told}");
    assert!(super::text(&cuda["reason"]).contains("driver 550"), "{told}");
    // Left alone: no GPU is asked for, so nothing is known of what it needs.
    let newer = format!("{repository}:cuda-13.0.0-latest");
    let done = run(&service, &newer, |_| {}).await.expect("it runs");
    assert_eq!(done.cuda, None);

    for (asked, words) in [
        (format!("{repository}:cuda-{{cuda}}-slim"), "no tag cuda-{cuda}-slim is published"),
        (format!("{repository}-none:cuda-{{cuda}}-latest"), "no repository"),
    ] {
        let code = if words == "no repository" { Code::NotFound } else { Code::FailedPrecondition };
        refused(run(&service, &asked, |_| {}).await, code, words);
    }
    let place = format!("{repository}:cuda-{{cuda}}-latest");
    let needs = |request: &mut pb::RunContainerRequest| {
        let (key, value) = ("NVIDIA_REQUIRE_CUDA".into(), "cuda>=12.5 driver>=560".into());
        request.envs.push(pb::EnvVar { key, value });
    };
    refused(run(&service, &place, needs).await, Code::FailedPrecondition, "cuda>=12.5");
    let off = |request: &mut pb::RunContainerRequest| {
        request.cuda_policy = pb::CudaPolicy::Off.into();
    };
    refused(run(&service, &place, off).await, Code::InvalidArgument, "cudaPolicy");
    let outside = format!("{repository}-{{cuda}}:latest");
    refused(run(&service, &outside, |_| {}).await, Code::InvalidArgument, "tag");
    // A fault elsewhere is told first; no registry is asked.
    let bad = |request: &mut pb::RunContainerRequest| request.names = vec!["-".into()];
    refused(run(&service, &place, bad).await, Code::InvalidArgument, "names[0]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_the_driver_does_not_run_is_exchanged_when_gpus_are_asked_for() {
    let registry = Registry::start(false).await;
    let repository = publish(&registry);
    let stub = Stub::new(&devices(1));
    let service = super::service(&stub).await;
    // The engine here gives no GPUs, so that the run ends after the choice.
    for (tag, words) in [
        ("cuda-13.0.0-latest", "nvidia-ctk"),
        ("cuda-12.4.1-latest", "nvidia-ctk"),
        ("cuda-13.0.0-other", "no tag cuda-{cuda}-other is published"),
    ] {
        let answer = run(&service, &format!("{repository}:{tag}"), gpu).await;
        refused(answer, Code::FailedPrecondition, words);
    }
    let off = |request: &mut pb::RunContainerRequest| {
        gpu(request);
        request.cuda_policy = pb::CudaPolicy::Off.into();
    };
    let answer = run(&service, &format!("{repository}:cuda-13.0.0-other"), off).await;
    refused(answer, Code::FailedPrecondition, "nvidia-ctk");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_node_without_a_gpu_a_place_for_a_version_is_refused() {
    let service = Service::with(|config| config.nvml_library = "/nowhere/x.so".into()).await;
    let service = service.synced().await;
    let answer = run(&service, "localhost:1/llama:cuda-{cuda}-latest", |_| {}).await;
    refused(answer, Code::FailedPrecondition, "/nowhere/x.so");
}
