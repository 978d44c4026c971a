//! Images come from a registry, with progress, credentials and honest errors.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use container_svc::rpc::pb::{self, image_service_client::ImageServiceClient};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::{
    registry::{ALICE, Registry},
    support::{Service, docker, unique},
};

mod faults;
mod manage;
mod secrets;
mod turns;

/// `alice` with the password `wrong`.
const WRONG: &str = "YWxpY2U6d3Jvbmc=";

/// A client, and what it has to send along.
async fn client(service: &Service) -> (ImageServiceClient<Channel>, MetadataValue<Ascii>) {
    let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
    let bearer = format!("Bearer {}", service.token).parse().expect("ascii");
    (ImageServiceClient::new(channel.expect("it listens")), bearer)
}

/// All messages of one pull.
async fn pull(
    service: &Service,
    name: &str,
    credential: Option<pb::RegistryCredential>,
) -> Result<Vec<pb::PullImageResponse>, Status> {
    let (mut client, bearer) = client(service).await;
    let mut request = Request::new(pb::PullImageRequest { name: name.to_owned(), credential });
    request.metadata_mut().insert("authorization", bearer);
    let mut stream = client.pull_image(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

fn alice(password: &str) -> Option<pb::RegistryCredential> {
    Some(pb::RegistryCredential { username: "alice".into(), password: password.into() })
}

async fn pullable(service: &Service, form: &str) -> (u16, serde_json::Value) {
    let (status, body) = service.get(&format!("/container-svc/image/{form}/pullable")).await;
    (status, body["pullable"].clone())
}

fn id_of(name: &str) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}}", name])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_how_far_it_is_and_ends_with_the_image() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let name = registry.push("x");
    let messages = pull(&service, &name, None).await.expect("it is pulled");
    let (last, before) = messages.split_last().expect("messages");
    assert!(last.done && before.iter().all(|message| !message.done));
    assert_eq!(last.image_id, id_of(&name));
    let digests = docker(&["image", "inspect", "--format", "{{.RepoDigests}}", &name]);
    assert!(
        last.digest.starts_with("sha256:") && digests.contains(&last.digest),
        "{last:?} {digests}"
    );
    let progress = last.progress.expect("progress");
    assert!(progress.layers_total > 0, "{progress:?}");
    assert_eq!(progress.layers_done, progress.layers_total);
    assert_eq!(progress.current_bytes, progress.total_bytes);
    assert!(progress.total_bytes >= 1 << 20, "a layer has a mebibyte: {progress:?}");
    assert!(before.iter().any(|message| message.layer.is_some()), "no layer moved");

    let again = pull(&service, &name, None).await.expect("it is up to date");
    assert_eq!(again.last().map(|last| (last.done, &last.image_id)), Some((true, &last.image_id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_pull_one_image_both_get_it() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let name = registry.push("both");
    let (one, two) = tokio::join!(pull(&service, &name, None), pull(&service, &name, None));
    for messages in [one, two] {
        let messages = messages.expect("it is pulled");
        let last = messages.last().expect("messages");
        assert!(last.done);
        assert_eq!(last.image_id, id_of(&name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_registry_has_not_is_not_found() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let missing = format!("{}/missing:1", registry.host);
    let refused = pull(&service, &missing, None).await.expect_err("there is none");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");

    let mut request = service.request(&unique("missing"));
    request.image = missing;
    let refused = service.grpc().await.run_container(request).await.expect_err("there is none");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_fetches_its_image_unless_it_must_not() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let (name, image) = (unique("fetch"), registry.push("app"));
    let body = |policy: &str| {
        format!(
            "{{\"image\":\"{image}\",\"names\":[\"{name}\"],\"command\":[\"sleep\",\"1000\"],\
             \"pullPolicy\":\"{policy}\"}}"
        )
    };
    let run = |policy| service.raw("PUT", "/container-svc/container", policy, &[]);
    let (never, needed) = (body("PULL_POLICY_NEVER"), body("PULL_POLICY_IF_NOT_PRESENT"));
    let (status, _, answer) = run(&never).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("NEVER"), "{answer}");

    let (status, _, answer) = run(&needed).await;
    assert_eq!(status, 200, "{answer}");
    let made = service.made();
    assert_eq!(made.len(), 1);
    assert_eq!(docker(&["inspect", "--format", "{{.Image}}", &made[0]]), id_of(&image));
    let (status, _, answer) = run(&never).await;
    assert_eq!(status, 200, "it is here now: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_decides_what_runs_whatever_its_tag_means_later() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let tag = registry.push("moves");
    let digest = async || {
        let messages = pull(&service, &tag, None).await.expect("it is pulled");
        messages.last().expect("messages").digest.clone()
    };
    let (name, first) = (unique("pinned"), digest().await);
    let pinned = format!("{}@{first}", tag.trim_end_matches(":1"));
    let always = pb::PullPolicy::Always.into();
    let run = async |image: &str| {
        let request = pb::RunContainerRequest {
            image: image.to_owned(),
            pull_policy: always,
            ..service.request(&name)
        };
        service.grpc().await.run_container(request).await.map(tonic::Response::into_inner)
    };
    let made = run(&pinned).await.expect("it runs");
    assert_eq!(made.action(), pb::RunAction::Created);
    let has = || docker(&["inspect", "-f", "{{.Image}}", &name]);
    let old = has();
    registry.push("moves");
    assert_ne!(digest().await, first, "the tag means another content now");
    assert_eq!(run(&pinned).await.expect("it runs").action(), pb::RunAction::Unchanged);
    assert_eq!(has(), old);
    let moved = run(&tag).await.expect("it runs");
    assert_eq!((moved.action(), has() != old), (pb::RunAction::Replaced, true), "{moved:?}");

    let nobodys = format!("{}@sha256:{}", tag.trim_end_matches(":1"), "0".repeat(64));
    let refused = run(&nobodys).await.expect_err("no registry has it");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert_eq!(service.made(), [moved.id], "what runs runs on");
    docker(&["rm", "-f", &name]);
    docker(&["rmi", &pinned]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pullable_is_what_the_registry_has_however_the_path_is_written() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let name = registry.push("team/app");
    let here = registry.make("only/here");
    let other_tag = name.replace(":1", ":2");
    assert_eq!(pullable(&service, &other_tag).await, (200, false.into()), "no such tag");
    let encoded = name.replace('/', "%2F");
    for form in
        [name.clone(), encoded.clone(), encoded.replace(':', "%3A"), name.replace(':', "%3A")]
    {
        assert_eq!(pullable(&service, &form).await, (200, true.into()), "{form}");
        let missing = form.replace("app", "missing");
        assert_eq!(pullable(&service, &missing).await, (200, false.into()), "{missing}");
    }
    assert_eq!(pullable(&service, &here).await, (200, false.into()), "only on the node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_opens_a_registry_for_its_own_call_only() {
    let registry = Registry::start(true).await;
    let service = registry.service().await;
    let name = registry.push("secret");
    assert_eq!(pullable(&service, &name).await, (200, false.into()));
    for credential in [None, alice("wrong")] {
        let refused = pull(&service, &name, credential).await.expect_err("it is closed");
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    }
    // Side by side, the wrong one must not ride along with the right one.
    let (right, wrong) = tokio::join!(
        pull(&service, &name, alice("sesame")),
        pull(&service, &name, alice("wrong")),
    );
    let messages = right.expect("it is pulled");
    assert_eq!(messages.last().map(|last| last.image_id.clone()), Some(id_of(&name)));
    assert_eq!(wrong.expect_err("it is closed").code(), Code::NotFound);
    assert_eq!(pullable(&service, &name).await, (200, false.into()), "it was not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_config_opens_a_registry_and_is_read_at_each_use() {
    let registry = Registry::start(true).await;
    let config = registry.config_of("alice");
    let service = Service::with(|with| with.docker_config = Some(config)).await.synced().await;
    let name = registry.push("known");
    assert_eq!(pullable(&service, &name).await, (200, true.into()));
    for (login, opens) in [(WRONG, false), ("", false), (ALICE, true)] {
        registry.write_config("alice", login);
        assert_eq!(pullable(&service, &name).await, (200, opens.into()), "{login}");
        match pull(&service, &name, None).await {
            Ok(messages) => assert!(opens && messages.last().is_some_and(|last| last.done)),
            Err(refused) => assert_eq!((opens, refused.code()), (false, Code::NotFound)),
        }
    }
}
