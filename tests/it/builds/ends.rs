//! How builds end that nobody waits for, and when the engine goes away.

use std::time::{Duration, Instant};

use container_svc::rpc::pb::{self, build_image_stream_response::Event};
use tonic::Code;

use super::{
    Tree, begin, build,
    sources::{held, nothing_is_held, of, packed, upload},
};
use crate::{
    faults::private_engine::{Engine, TAG},
    support::{Service, docker, eventually, unique, within},
};

/// Reads until the build writes this.
pub(crate) async fn reads(
    stream: &mut tonic::Streaming<container_svc::rpc::pb::BuildImageStreamResponse>,
    word: &str,
) {
    loop {
        let message = stream.message().await.expect("it goes on").expect("it goes on");
        if let Some(Event::Log(log)) = message.event
            && String::from_utf8_lossy(&log.data).contains(word)
        {
            return;
        }
    }
}

fn containers_of(word: &str) -> Vec<String> {
    let all = docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Command}}"]);
    all.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_nobody_listens_to_ends_and_leaves_nothing() {
    let word = unique("cancelled");
    let tree = Tree::new(&format!("RUN echo {word}; sleep 1000\n"), &[]);
    let service = tree.service().await;
    let mut stream = begin(&service, tree.request()).await.expect("it begins");
    reads(&mut stream, &word).await;
    assert_eq!(containers_of(&word).len(), 1, "a step runs");
    let began = Instant::now();
    drop(stream);
    eventually("the step's container is gone", || async { containers_of(&word).is_empty() }).await;
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    assert_eq!(docker(&["images", "-q", &tree.name]), "");

    // By REST too, where the caller is cut off.
    let body = format!("{{\"name\":\"{}\",\"contextPath\":\"{}\"}}", tree.name, tree.path("ctx"));
    let path = "/container-svc/image";
    let (status, ..) = service.raw("PUT", path, &body, &["--max-time", "2"]).await;
    assert_eq!(status, 0, "it is cut off");
    eventually("the step's container is gone", || async { containers_of(&word).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_ends_its_builds() {
    let word = unique("stopped");
    let tree = Tree::new(&format!("RUN echo {word}; sleep 1000\n"), &[]);
    let mut service = tree.service().await;
    let mut stream = begin(&service, tree.request()).await.expect("it begins");
    reads(&mut stream, &word).await;
    let stop = service.stop();
    let (end, ()) = tokio::join!(stream.message(), stop);
    let end = end.expect_err("it does not go on");
    assert!(matches!(end.code(), Code::Cancelled | Code::Unavailable | Code::Unknown), "{end:?}");
    eventually("the step's container is gone", || async { containers_of(&word).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_room_is_told_and_builds_again_when_it_has_some() {
    let engine = Engine::with_little_room().await;
    let tree = Tree::new("", &[]);
    tree.write("ctx/Dockerfile", &format!("FROM {TAG}\nCOPY file /file\n"));
    let (address, root) = (engine.address(), tree.root().to_owned());
    let service = Service::with(|config| {
        config.engine = address;
        config.build_roots = vec![root];
    });
    let service = service.await.synced().await;
    for builder in [pb::BuilderKind::Classic, pb::BuilderKind::Buildkit] {
        let request = || pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let file = std::fs::File::create(tree.root().join("ctx/file")).expect("a file");
        file.set_len(100 << 20).expect("its length");
        let (_, refused) = build(&service, request()).await;
        let refused = refused.expect("there is no room");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{builder:?}: {refused:?}");
        assert!(refused.message().contains("no space left"), "{builder:?}: {refused:?}");
        file.set_len(1 << 20).expect("its length");
        // BuildKit takes a moment to let go of what came of the file.
        let builds = || async { build(&service, request()).await.1.is_none() };
        eventually("there is room again", builds).await;
    }
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_during_a_build_is_told_and_nothing_is_left() {
    let mut engine = Engine::start(false).await;
    let tree = Tree::new("", &[]);
    tree.write("ctx/Dockerfile", &format!("FROM {TAG}\nRUN echo begun; sleep 1000\n"));
    let address = engine.address();
    let service = Service::with(|config| config.engine = address).await.synced().await;
    packed(&tree, &tree.path("ctx"), &["."]);
    for builder in [pb::BuilderKind::Buildkit, pb::BuilderKind::Classic] {
        let (status, uploaded) = upload(&service, &tree).await;
        assert_eq!((status, held(&service)), (200, 1), "{uploaded}");
        let id = uploaded["uploadId"].as_str().expect("an id").to_owned();
        let source = pb::build_source::Source::UploadId(id);
        let request = pb::BuildImageRequest { builder: builder.into(), ..of(&tree, source) };
        let mut stream = begin(&service, request).await.expect("it begins");
        reads(&mut stream, "begun").await;
        engine.kill();
        let end = stream.message().await.expect_err("there is no engine");
        assert_eq!(end.code(), Code::Unavailable, "{builder:?}: {end:?}");
        assert!(end.message().contains("cannot be reached"), "{builder:?}: {end:?}");
        nothing_is_held(&service).await;
        engine.resume().await;
        eventually("the view follows the engine again", || async {
            let (_, node) = service.get("/container-svc/node").await;
            node["node"]["engine"]["synced"] == true
        })
        .await;
    }
    // An engine that is busy with its start takes its time.
    within(Duration::from_secs(120), "the step's container is gone", || async {
        engine.docker(&["ps", "-aq"]).is_some_and(|ids| ids.is_empty())
    })
    .await;
    drop(service);
    engine.end().await;
}
