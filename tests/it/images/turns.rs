//! A run whose image is still on its way holds up nobody who wants something else of its
//! name, and undoes nothing of what they did.

use std::{future::Future, time::Duration};

use container_svc::config::Config;
use tokio::sync::watch;

use super::*;
use crate::{
    assets::{
        lenient,
        source::{Source, give},
    },
    registry::fault_proxy::{Fault, FaultProxy},
    support::eventually,
};

/// A download that stalls is waited for much longer.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Begins a run whose image stalls at its end, does something else with the name at once,
/// and says how the run ended.
async fn overtaken(
    service: &Service,
    (registry, proxy): (&Registry, &FaultProxy),
    name: &str,
    newer: impl Future<Output = ()>,
) -> String {
    // One of its own: a download that was left is not given up at once.
    let image = proxy.name(&registry.push(&unique("slow")));
    proxy.set("/blobs/", Fault::Stall, 1000);
    let request = pb::RunContainerRequest { image: image.clone(), ..service.request(name) };
    let mut client = service.grpc().await;
    let (ended, ()) = tokio::join!(client.run_container(request), async {
        let asked = || async { proxy.seen("/blobs/", false) > 0 };
        eventually("the download has begun", asked).await;
        tokio::time::timeout(AT_ONCE, newer).await.expect("it does not wait for the download");
    });
    let status = ended.expect_err("it is overtaken");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert_eq!(docker(&["images", "-q", &image]), "", "it was not waited for");
    status.message().to_owned()
}

async fn stop(service: &Service, name: &str) {
    let stop = pb::StopContainerRequest { name: name.into(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
}

async fn remove(service: &Service, name: &str) {
    let remove =
        pb::RemoveContainerRequest { name: name.into(), force: true, ..Default::default() };
    service.grpc().await.remove_container(remove).await.expect("removed");
}

async fn run(service: &Service, name: &str) {
    service.grpc().await.run_container(service.request(name)).await.expect("it runs");
}

fn state(name: &str) -> String {
    docker(&["inspect", "-f", "{{.State.Status}}", name])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_a_removal_and_a_newer_run_do_not_wait_for_a_download() {
    let registry = Registry::start(false).await;
    let proxy = FaultProxy::before(&registry.host).await;
    let service = registry.service().await;
    let (slow, name) = ((&registry, &proxy), unique("slow"));
    // One whose container is not there yet.
    let told = overtaken(&service, slow, &name, stop(&service, &name)).await;
    assert!(told.contains("a newer stop"), "{told}");
    let told = overtaken(&service, slow, &name, remove(&service, &name)).await;
    assert!(told.contains("a newer removal"), "{told}");
    assert_eq!(service.made(), [""; 0]);
    let told = overtaken(&service, slow, &name, Box::pin(run(&service, &name))).await;
    assert!(told.contains("a newer run"), "{told}");
    assert_eq!(state(&name), "running");
    // One that runs, while another description of it is fetched.
    let told = overtaken(&service, slow, &name, stop(&service, &name)).await;
    assert!(told.contains("a newer stop"), "{told}");
    assert_eq!(state(&name), "exited");
    let told = overtaken(&service, slow, &name, remove(&service, &name)).await;
    assert!(told.contains("a newer removal"), "{told}");
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_goes_while_a_run_is_under_way_is_fetched_again() {
    let registry = Registry::start(false).await;
    let nobody = registry.config_of("nobody");
    let service = Service::with(|config: &mut Config| {
        lenient(config);
        config.docker_config = Some(nobody);
    });
    let service = service.await.synced().await;
    let image = registry.push("gone");
    let (name, needed) = (unique("gone"), pb::PullPolicy::IfNotPresent);
    for (path, policy) in [("/a", needed), ("/b", pb::PullPolicy::Never)] {
        // Its asset comes after its image, and before its name is locked.
        let (open, opened) = watch::channel(false);
        let source = Source::start(move |asked, mut stream| {
            let mut opened = opened.clone();
            async move {
                let _ = opened.wait_for(|open| *open).await;
                give(&asked, &mut stream, b"weights", "\"a\"").await;
            }
        })
        .await;
        let url = source.url(path);
        let request = pb::RunContainerRequest {
            image: image.clone(),
            pull_policy: policy.into(),
            assets: vec![pb::Asset { env_var_key: "A".into(), url, ..Default::default() }],
            ..service.request(&name)
        };
        let mut client = service.grpc().await;
        let (ended, ()) = tokio::join!(client.run_container(request), async {
            eventually("its image is there", || async { !source.seen().is_empty() }).await;
            assert!(docker(&["rmi", &image]).contains("Untagged"));
            open.send_replace(true);
        });
        match policy {
            pb::PullPolicy::Never => {
                let status = ended.expect_err("it may fetch none");
                assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            }
            _ => {
                let made = ended.expect("it runs").into_inner();
                assert_eq!(made.action(), pb::RunAction::Created);
                let has = docker(&["inspect", "-f", "{{.Image}}", &made.id]);
                assert_eq!(has, id_of(&image));
                remove(&service, &name).await;
            }
        }
    }
}
