//! How builds end that nobody waits for, and when the engine goes away.

use std::{process::Command, time::Duration};

use container_svc::rpc::pb::{self, build_image_stream_response::Event};
use serde_json::json;
use tonic::Code;

use super::{
    BUILDERS, Tree, begin, build,
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

/// A step that goes on. Its shell, which has more to do then, is not replaced by what it
/// runs, so that its arguments tell which step it is.
pub(super) fn endless(word: &str) -> String {
    format!("RUN echo {word}; sleep 1000; echo\n")
}

/// Processes of steps whose command has this word, by whichever builder.
fn steps_of(word: &str) -> usize {
    let all = Command::new("ps").args(["-eo", "args"]).output().expect("ps");
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    all.lines().filter(|line| line.starts_with("/bin/sh -c ") && line.contains(word)).count()
}

/// The step is gone, and so is the container that the classic builder ran it in.
pub(super) async fn no_step_runs(word: &str) {
    eventually("the step is gone", || async {
        let all = docker(&["ps", "-a", "--no-trunc", "--format", "{{.Command}}"]);
        steps_of(word) == 0 && !all.contains(word)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_nobody_listens_to_ends_and_leaves_nothing() {
    let word = unique("cancelled");
    let tree = Tree::new(&endless(&word), &[]);
    let service = tree.service().await;
    for builder in BUILDERS {
        let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let mut stream = begin(&service, request).await.expect("it begins");
        reads(&mut stream, &word).await;
        eventually("a step runs", || async { steps_of(&word) == 1 }).await;
        drop(stream);
        no_step_runs(&word).await;

        // By REST too, where the caller is cut off once the step runs.
        let body = json!({
            "name": tree.name, "contextPath": tree.path("ctx"), "builder": builder.as_str_name()
        });
        let cut = async {
            eventually("a step runs", || async { steps_of(&word) == 1 }).await;
        };
        let body = body.to_string();
        tokio::select! {
            answer = service.rest("PUT", "/container-svc/image", &body) => panic!("{answer:?}"),
            () = cut => {}
        }
        no_step_runs(&word).await;
        assert_eq!(docker(&["images", "-q", &tree.name]), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_ends_its_builds() {
    for builder in BUILDERS {
        let word = unique("stopped");
        let tree = Tree::new(&endless(&word), &[]);
        let mut service = tree.service().await;
        let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let mut stream = begin(&service, request).await.expect("it begins");
        reads(&mut stream, &word).await;
        let stop = service.stop();
        let (end, ()) = tokio::join!(stream.message(), stop);
        let end = end.expect_err("it does not go on");
        let codes = [Code::Cancelled, Code::Unavailable, Code::Unknown];
        assert!(codes.contains(&end.code()), "{end:?}");
        no_step_runs(&word).await;
    }
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
