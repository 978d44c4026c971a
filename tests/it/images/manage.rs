//! Images are listed, pushed and removed, never one that a container has.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use container_svc::rpc::pb;
use serde_json::json;
use tonic::{Code, Request, Status};

use super::{alice, client, id_of, pull};
use crate::{
    builds::{Tree, begin, ends::reads},
    faults::private_engine::{Engine, TAG},
    proxy::{Mode, Proxy},
    registry::{
        Registry,
        fault_proxy::{Fault, FaultProxy},
    },
    support::{DEADLINE, Service, docker, eventually, image, unique, within},
};

/// All messages of one push.
pub(super) async fn push(
    service: &Service,
    name: &str,
    credential: Option<pb::RegistryCredential>,
) -> Result<Vec<pb::PushImageResponse>, Status> {
    let request = pb::PushImageRequest { name: name.to_owned(), credential };
    let (mut client, bearer) = client(service).await;
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", bearer);
    let mut stream = client.push_image(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_tells_how_far_it_is_and_the_image_comes_back_by_its_digest() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let name = registry.make("pushed");
    let id = id_of(&name);
    let messages = push(&service, &name, None).await.expect("it is pushed");
    let (last, before) = messages.split_last().expect("messages");
    assert!(last.done && before.iter().all(|message| !message.done));
    assert!(last.digest.starts_with("sha256:"), "{last:?}");
    let progress = last.progress.expect("progress");
    assert!(progress.layers_total > 0 && progress.layers_done == progress.layers_total);
    assert_eq!(progress.current_bytes, progress.total_bytes, "{progress:?}");
    assert!(progress.total_bytes >= 1 << 20, "a layer has a mebibyte: {progress:?}");
    docker(&["rmi", &name]);
    let pinned = format!("{}@{}", name.trim_end_matches(":1"), last.digest);
    let pulled = pull(&service, &pinned, None).await.expect("it is there");
    let pulled = pulled.last().expect("messages");
    assert_eq!((&pulled.image_id, &pulled.digest), (&id, &last.digest));
    let (status, listed) = service.get(&format!("/container-svc/images?name={pinned}")).await;
    assert_eq!((status, &listed["images"][0]["id"]), (200, &json!(id)), "{listed}");
    let other =
        pinned.replace("sha256:", "sha256:f").chars().take(pinned.len()).collect::<String>();
    let (status, none) = service.get(&format!("/container-svc/images?name={other}")).await;
    assert_eq!((status, none["images"].as_array().map(Vec::len)), (200, Some(0)), "{none}");
    docker(&["rmi", &pinned]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_which_the_registry_takes_nothing_is_given_up() {
    let registry = Registry::start(false).await;
    let proxy = FaultProxy::before(&registry.host).await;
    let service = Service::with(|config| config.pull_stall_timeout = Duration::from_secs(2));
    let service = service.await.synced().await;
    let made = registry.make("mute");
    let name = proxy.name(&made);
    docker(&["tag", &made, &name]);
    proxy.set("/blobs/uploads", Fault::Stall, 1000);
    let refused = push(&service, &name, None).await.expect_err("it hangs");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("took nothing for 2 s"), "{refused:?}");
    docker(&["rmi", &name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_cannot_be_is_refused_with_its_reason() {
    let registry = Registry::start(true).await;
    let service = registry.service().await;
    let name = registry.make("closed");
    for credential in [None, alice("wrong")] {
        let refused = push(&service, &name, credential).await.expect_err("it is closed");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(!refused.message().contains("wrong"), "{refused:?}");
    }
    let messages = push(&service, &name, alice("sesame")).await.expect("it is pushed");
    assert!(messages.last().is_some_and(|last| last.done));
    let missing = push(&service, &format!("{}/none:1", registry.host), None).await;
    assert_eq!(missing.expect_err("there is none").code(), Code::NotFound);
    let pinned = format!("a@sha256:{}", "0".repeat(64));
    for bad in ["Not A Name", &pinned] {
        let refused = push(&service, bad, None).await.expect_err("it is no tag");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_container_has_is_listed_with_it_and_not_removed() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let (name, image) = (unique("user"), registry.make("used"));
    let mut request = service.request(&name);
    request.image = image.clone();
    service.grpc().await.run_container(request).await.expect("it runs");
    let path = format!("/container-svc/images?name={}", image.trim_end_matches(":1"));
    let (status, listed) = service.get(&path).await;
    assert_eq!(status, 200, "{listed}");
    assert_eq!(listed["images"].as_array().map(Vec::len), Some(1), "{listed}");
    let row = &listed["images"][0];
    assert_eq!((&row["names"], &row["usedBy"]), (&json!([image]), &json!([name])), "{row}");
    assert_eq!(row["id"], id_of(&image));
    let (_, unused) = service.get(&format!("{path}&unused=true")).await;
    assert_eq!(unused["images"], json!([]));

    let remove = format!("/container-svc/image?name={image}");
    let (status, refused) = service.rest("DELETE", &remove, "").await;
    assert_eq!((status, &refused["code"]), (400, &9.into()), "{refused}");
    assert!(refused["message"].as_str().is_some_and(|told| told.contains(&name)), "{refused}");
    let second = image.replace(":1", ":2");
    docker(&["tag", &image, &second]);
    let other = format!("/container-svc/image?name={second}");
    let (status, removed) = service.rest("DELETE", &other, "").await;
    assert_eq!((status, &removed["names"]), (200, &json!([second])), "{removed}");

    let gone = format!("/container-svc/container?name={name}&force=true");
    assert_eq!(service.rest("DELETE", &gone, "").await.0, 200);
    let id = id_of(&image);
    let by_id = format!("/container-svc/image?id={}", &id[7..19]);
    let (status, removed) = service.rest("DELETE", &by_id, "").await;
    assert_eq!((status, &removed["names"]), (200, &json!([image])), "{removed}");
    assert!(removed["ids"].as_array().is_some_and(|ids| ids.contains(&json!(id))), "{removed}");
    assert_eq!(service.rest("DELETE", &remove, "").await.0, 404);
    assert_eq!(service.rest("DELETE", "/container-svc/image", "").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_leads_to_something_else_in_the_engine_is_refused() {
    let service = Service::start().await.synced().await;
    let name = unique("victim");
    docker(&["create", "--name", &name, image(), "true"]);
    for id in ["..%2Fcontainers%2F", "%2E%2E/containers/", "x/../../containers/"] {
        let path = format!("/container-svc/image?id={id}{name}");
        let (status, refused) = service.rest("DELETE", &path, "").await;
        assert_eq!((status, &refused["code"]), (400, &3.into()), "{path}: {refused}");
    }
    docker(&["inspect", "--format", "{{.Id}}", &name]);
    docker(&["rm", &name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_which_a_run_is_making_a_container_is_not_removed() {
    let registry = Registry::start(false).await;
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    let (name, image) = (unique("making"), registry.make("making"));
    let mut request = service.request(&name);
    request.image = image.clone();
    proxy.set_for(Mode::Cut { step: 1, done: false }, "/containers/create");
    let met = proxy.met_now();
    let mut client = service.grpc().await;
    let run = async {
        let run = client.run_container(request);
        let cut = tokio::time::timeout(DEADLINE, run).await.expect("in time");
        assert_eq!(cut.expect_err("the engine was cut off").code(), Code::Unavailable);
    };
    let remove = format!("/container-svc/image?name={image}");
    let ask = async {
        met.await;
        let (status, refused) = service.rest("DELETE", &remove, "").await;
        assert_eq!((status, &refused["code"]), (400, &9.into()), "{refused}");
        let told = refused["message"].as_str().unwrap_or_default();
        assert!(told.contains("is making"), "{told}");
        proxy.set(Mode::Pass);
    };
    tokio::join!(run, ask);
    eventually("the view follows the engine again", || async {
        let (_, node) = service.get("/container-svc/node").await;
        node["node"]["engine"]["synced"] == true
    })
    .await;
    let (status, removed) = service.rest("DELETE", &remove, "").await;
    assert_eq!(status, 200, "it is nobody's any more: {removed}");
}

/// Makes an image with a layer of its own, in a later second than the one before.
async fn made(engine: &Engine, name: &str) {
    let container = unique("layer");
    engine.docker(&["create", "--name", &container, TAG, "true"]).expect("made");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x");
    std::fs::write(&file, name.repeat(200_000)).expect("a file");
    engine.docker(&["cp", &file.to_string_lossy(), &format!("{container}:/x")]).expect("copied");
    engine.docker(&["commit", &container, name]).expect("committed");
    engine.docker(&["rm", &container]).expect("removed");
    // Times are compared by whole seconds.
    let second = || std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs();
    let now = second();
    eventually("the next second", || async { second() > now }).await;
}

/// On an engine of its own, since it removes what others may need.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_takes_the_oldest_unused_images_and_no_other() {
    let engine = Engine::start(false).await;
    let address = engine.address();
    let service = Service::with(|config| config.engine = address).await.synced().await;
    let run = pb::RunContainerRequest { image: TAG.into(), ..service.request("holder") };
    service.grpc().await.run_container(run).await.expect("it runs");
    for name in ["one:1", "two:1", "three:1"] {
        made(&engine, name).await;
    }
    let names = || engine.docker(&["images", "--format", "{{.Repository}}"]).expect("a list");
    let prune = async |body: serde_json::Value| {
        let path = "/container-svc/images/prune";
        let (status, answer) = service.rest("POST", path, &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        let images = answer["images"].as_array().expect("images").iter();
        images.map(|image| image["names"][0].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(prune(json!({})).await, [""; 0], "all have names");
    assert_eq!(prune(json!({"all": true, "olderThan": "3600s"})).await, [""; 0]);
    let dry = json!({"all": true, "dryRun": true});
    assert_eq!(prune(dry).await, ["one:1", "two:1", "three:1"]);
    assert!(names().contains("one"), "it was dry");
    let (_, all) = service.get("/container-svc/images").await;
    let base = all["images"].as_array().expect("images").iter().find(|i| i["names"][0] == TAG);
    let base = base.and_then(|image| image["size"].as_str()?.parse::<i64>().ok()).expect("a size");
    // Room for two of three layers, of 1 to 1.4 MB.
    let keep = (base + 3_000_000).to_string();
    assert_eq!(prune(json!({"all": true, "keepBytes": keep})).await, ["one:1"]);
    assert_eq!(prune(json!({"all": true, "keepBytes": keep})).await, [""; 0], "that is enough");
    assert_eq!(prune(json!({"all": true})).await, ["two:1", "three:1"]);
    assert_eq!(names(), TAG.trim_end_matches(":1"), "what a container has is left");
    let path = "/container-svc/images/prune";
    let (status, refused) = service.rest("POST", path, r#"{"keepBytes": -1}"#).await;
    assert_eq!(status, 400, "{refused}");
    drop(service);
    engine.end().await;
}

/// What a prune of images that are so old would take; it takes nothing, as the engine is
/// that of others too.
async fn would_go(service: &Service, body: serde_json::Value) -> Vec<String> {
    let (status, told) =
        service.rest("POST", "/container-svc/images/prune", &body.to_string()).await;
    assert_eq!((status, &body["dryRun"]), (200, &json!(true)), "{told}");
    let images = told["images"].as_array().expect("images").iter();
    images.map(|image| image["id"].as_str().expect("an id").to_owned()).collect()
}

/// The engine does not measure its disk twice at once.
#[tokio::test(flavor = "multi_thread")]
async fn prunes_wait_for_each_other_and_for_others_that_measure_the_disk() {
    let service = Service::start().await.synced().await;
    let done = AtomicBool::new(false);
    let prunes = async {
        let prunes = (0..8).map(|_| would_go(&service, json!({"dryRun": true})));
        futures_util::future::join_all(prunes).await;
        done.store(true, Ordering::Relaxed);
    };
    let others = async || {
        while !done.load(Ordering::Relaxed) {
            let mut df = tokio::process::Command::new("docker");
            df.args(["system", "df"]).output().await.expect("docker");
        }
    };
    tokio::join!(prunes, others(), others());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_as_old_as_its_pull() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let name = registry.push("old");
    let made = Instant::now();
    eventually("it was made a while ago", || async { made.elapsed().as_secs() >= 20 }).await;
    let pulled = Instant::now();
    pull(&service, &name, None).await.expect("it is there");
    let id = id_of(&name);
    let older = async |than: u64| {
        let body = json!({"all": true, "olderThan": format!("{than}s"), "dryRun": true});
        would_go(&service, body).await.contains(&id)
    };
    let patience = Duration::from_secs(180);
    within(patience, "it is asked about soon after it came", || async {
        // Times are compared by whole seconds.
        let since_made = made.elapsed().as_secs() - 1;
        let old = older(since_made).await;
        let counts = pulled.elapsed().as_secs() + 1 < since_made;
        assert!(!(old && counts), "it came just now");
        counts
    })
    .await;
    assert!(older(0).await);
    within(patience, "it is old", || older(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_makes_on_its_way_is_not_pruned() {
    let word = unique("way");
    let tree = Tree::new(&format!("LABEL of={word}\nRUN echo {word}; sleep 1000\n"), &[]);
    let service = tree.service().await;
    let request =
        pb::BuildImageRequest { builder: pb::BuilderKind::Classic.into(), ..tree.request() };
    let mut stream = begin(&service, request).await.expect("it begins");
    reads(&mut stream, &word).await;
    let filter = format!("label=of={word}");
    let between = docker(&["images", "-q", "--no-trunc", "--filter", &filter]);
    assert!(between.starts_with("sha256:"), "{between}");
    let unnamed = || would_go(&service, json!({"dryRun": true}));
    assert!(!unnamed().await.contains(&between), "the build needs it");
    drop(stream);
    eventually("the build has ended", || async { unnamed().await.contains(&between) }).await;
    docker(&["rmi", &between]);
}

/// On an engine of its own too. The list of images is kept back while a name goes to
/// another image.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_leaves_a_name_that_went_to_another_image_meanwhile() {
    let engine = Engine::start(false).await;
    let socket = engine.address();
    let proxy = Proxy::before(socket.trim_start_matches("unix://").into());
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    for name in ["old:1", "new:1"] {
        made(&engine, name).await;
    }
    engine.docker(&["tag", "old:1", "old:2"]).expect("tagged");
    let id = |name: &str| engine.docker(&["image", "inspect", "-f", "{{.Id}}", name]);
    let new = id("new:1").expect("there");
    // Somebody has it, whom the service does not know of when it looks.
    proxy.set_for(Mode::Hold, "/system/df");
    let met = proxy.met_now();
    let prune = async {
        let body = r#"{"all": true}"#;
        let (status, answer) = service.rest("POST", "/container-svc/images/prune", body).await;
        assert_eq!(status, 200, "{answer}");
    };
    let move_names = async {
        met.await;
        for name in ["old:1", "old:2"] {
            engine.docker(&["tag", TAG, name]).expect("tagged");
        }
        proxy.set(Mode::Pass);
    };
    tokio::join!(prune, move_names);
    assert_eq!(id("new:1").filter(|id| !id.is_empty()), None, "that one was unused: {new}");
    for name in ["old:1", "old:2"] {
        assert!(id(name).is_some_and(|id| !id.is_empty()), "{name} is another image's now");
    }
    drop(service);
    engine.end().await;
}
