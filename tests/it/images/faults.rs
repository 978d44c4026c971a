//! A real registry behind a proxy that refuses, limits, stalls and lies.

use std::time::{Duration, Instant};

use container_svc::{config::Config, rpc::pb};
use serde_json::json;
use tonic::{Code, Status};

use super::{alice, id_of, pull};
use crate::{
    builds::{Tree, build, finished},
    registry::{
        Registry,
        fault_proxy::{Fault, FaultProxy},
    },
    support::{Service, docker, unique},
};

const BLOBS: &str = "/blobs/";
const MANIFESTS: &str = "/manifests/";

/// An image of a registry, by the name that it has at the proxy, and a service that has
/// no credentials and waits two seconds for nothing.
async fn behind(auth: bool) -> (Registry, FaultProxy, String, Service) {
    let registry = Registry::start(auth).await;
    let proxy = FaultProxy::before(&registry.host).await;
    let name = proxy.name(&registry.push("faulty"));
    let nobody = registry.config_of("nobody");
    let service = Service::with(|config: &mut Config| {
        config.docker_config = Some(nobody);
        config.pull_stall_timeout = Duration::from_secs(2);
    });
    let service = service.await.synced().await;
    (registry, proxy, name, service)
}

fn forget(name: &str) {
    docker(&["rmi", "-f", name]);
}

async fn refusal(service: &Service, name: &str) -> Status {
    pull(service, name, None).await.expect_err("it is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_stalls_at_its_end_is_tried_again_and_gets_there() {
    let (_registry, proxy, name, service) = behind(false).await;
    proxy.set(BLOBS, Fault::Stall, 2);
    let messages = pull(&service, &name, None).await.expect("it gets there");
    assert!(messages.last().is_some_and(|last| last.done && last.image_id == id_of(&name)));
    forget(&name);
    // For ever: it is told, and it takes no longer than its tries.
    proxy.set(BLOBS, Fault::Stall, 1000);
    let began = Instant::now();
    let refused = refusal(&service, &name).await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("nothing came"), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    proxy.pass();
    pull(&service, &name, None).await.expect("nothing is left of it");
    forget(&name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_limits_is_asked_again_when_it_says_and_not_when_that_is_long() {
    let (_registry, proxy, name, service) = behind(false).await;
    proxy.set(MANIFESTS, Fault::Answer(429, "Retry-After: 2\r\n"), 2);
    let began = Instant::now();
    pull(&service, &name, None).await.expect("it gets there");
    assert!(began.elapsed() >= Duration::from_secs(1), "it waited: {:?}", began.elapsed());
    forget(&name);
    proxy.set(MANIFESTS, Fault::Answer(429, "Retry-After: 7200\r\n"), 1000);
    let began = Instant::now();
    let refused = refusal(&service, &name).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("7200 s"), "{refused:?}");
    proxy.set(MANIFESTS, Fault::Answer(429, ""), 1000);
    let refused = refusal(&service, &name).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_limits_one_credential_is_asked_by_that_how_long_to_wait() {
    let (_registry, proxy, name, service) = behind(true).await;
    proxy.set(MANIFESTS, Fault::Limit("Retry-After: 7200\r\n"), 1000);
    let refused = pull(&service, &name, alice("sesame")).await.expect_err("it is limited");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("7200 s"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_refuses_is_not_found_and_not_asked_for_again_and_again() {
    let (_registry, proxy, name, service) = behind(false).await;
    for status in [401, 403, 404] {
        proxy.set(MANIFESTS, Fault::Answer(status, ""), 1000);
        let refused = refusal(&service, &name).await;
        assert_eq!(refused.code(), Code::NotFound, "{status}: {refused:?}");
        let asked = proxy.seen(MANIFESTS, false);
        assert!((1..=4).contains(&asked), "{status}: asked {asked} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_those_of_the_digest_become_no_image() {
    let (_registry, proxy, name, service) = behind(false).await;
    proxy.set(BLOBS, Fault::Change, 1000);
    let refused = refusal(&service, &name).await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(docker(&["images", "-q", &name]), "");
    proxy.pass();
    pull(&service, &name, None).await.expect("nothing is left of it");
    forget(&name);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_share_a_download_with_those_of_their_credential_alone() {
    let (_registry, proxy, name, service) = behind(true).await;
    proxy.pass();
    let calls = (0..20).map(|at| {
        let password = if at % 2 == 0 { "sesame".to_owned() } else { format!("wrong-{at}") };
        let (service, name) = (&service, &name);
        async move { (at, pull(service, name, alice(&password)).await) }
    });
    for (at, ended) in futures_util::future::join_all(calls).await {
        match ended {
            Ok(messages) => {
                assert_eq!(at % 2, 0, "nobody gets an image by another's credential");
                assert!(messages.last().is_some_and(|last| last.image_id == id_of(&name)));
            }
            Err(refused) => {
                assert_eq!((at % 2, refused.code()), (1, Code::NotFound), "{refused:?}");
                assert!(!refused.message().contains("wrong-"), "{refused:?}");
            }
        }
    }
    // One download fetches the layer of noise once, its base and its configuration.
    let layers: usize = docker(&["image", "inspect", "-f", "{{len .RootFS.Layers}}", &name])
        .parse()
        .expect("a number");
    let fetched = proxy.seen(BLOBS, true);
    assert!((1..=layers + 1).contains(&fetched), "{fetched} of {layers} layers");
    forget(&name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_a_run_or_a_build_opens_a_registry_for_it_alone() {
    let registry = Registry::start(true).await;
    let tree = Tree::new("", &[]);
    let (nobody, root) = (registry.config_of("nobody"), tree.root().to_owned());
    let service = Service::with(|config: &mut Config| {
        config.docker_config = Some(nobody);
        config.build_roots = vec![root];
    });
    let service = service.await.synced().await;
    let image = registry.push("closed");
    let name = unique("closed");
    let body = |password: &str| {
        json!({
            "image": image, "names": [name], "command": ["sleep", "1000"],
            "pullPolicy": "PULL_POLICY_ALWAYS",
            "credential": {"username": "alice", "password": password},
        })
        .to_string()
    };
    let run =
        async |password| service.rest("PUT", "/container-svc/container", &body(password)).await;
    let (status, answer) = run("hush").await;
    assert_eq!((status, answer.to_string().contains("hush")), (404, false), "{answer}");
    let (status, answer) = run("sesame").await;
    assert_eq!((status, &answer["action"]), (200, &"RUN_ACTION_CREATED".into()), "{answer}");
    let (status, answer) = run("sesame").await;
    assert_eq!((status, &answer["action"]), (200, &"RUN_ACTION_UNCHANGED".into()), "{answer}");
    let made = service.made().remove(0);
    assert!(!docker(&["inspect", &made]).contains("sesame"), "no label or variable has it");
    let gone = format!("/container-svc/container?name={name}&force=true");
    assert_eq!(service.rest("DELETE", &gone, "").await.0, 200);
    docker(&["rmi", "-f", &image]);

    for builder in [pb::BuilderKind::Classic, pb::BuilderKind::Buildkit] {
        let base = registry.push(&unique("base"));
        // In quotes, which only the builder reads.
        let text = format!("FROM \"{base}\"\nLABEL of={}\n", unique("label"));
        tree.write("ctx/Dockerfile", &text);
        let with = |password: &str| pb::BuildImageRequest {
            builder: builder.into(),
            credentials: vec![pb::BuildCredential {
                registry: registry.host.clone(),
                username: "alice".into(),
                password: password.into(),
            }],
            ..tree.request()
        };
        let (events, refused) = build(&service, with("hush")).await;
        let refused = refused.expect("it is closed");
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
        assert!(!format!("{events:?}{refused:?}").contains("hush"));
        finished(&build(&service, with("sesame")).await);
    }
}
