//! Steps without their sandbox, by an entitlement that the engine's settings allow.

use std::process::Command;

use container_svc::rpc::pb::{self, build_image_stream_response::Event};
use pb::BuilderKind;
use tonic::Code;

use super::{
    Tree, begin, build, count,
    ends::reads,
    finished,
    powers::frontend,
    sources::{nothing_is_held, of, packed, upload},
};
use crate::{
    cli::cli,
    faults::private_engine::{Engine, TAG},
    support::{Service, docker, eventually, unique},
};

/// Succeeds without a sandbox alone.
const MOUNT: &str = "busybox mount -t tmpfs none /mnt";

fn entitled(request: pb::BuildImageRequest) -> pb::BuildImageRequest {
    let entitlements = vec![pb::BuildEntitlement::SecurityInsecure.into()];
    pb::BuildImageRequest { entitlements, ..request }
}

/// An engine that allows it, with the frontend that knows the flag.
async fn engine() -> Engine {
    let engine = Engine::with_insecure_builds().await;
    let tar = tempfile::NamedTempFile::new().expect("a file");
    let path = tar.path().display().to_string();
    docker(&["save", "-o", &path, frontend()]);
    engine.docker(&["load", "-i", &path]).expect("it is loaded");
    engine
}

async fn service(engine: &Engine, tree: &Tree) -> Service {
    let (address, root) = (engine.address(), tree.root().to_owned());
    let settings = |config: &mut container_svc::config::Config| {
        config.engine = address;
        config.build_roots = vec![root];
    };
    Service::with(settings).await.synced().await
}

fn file(lines: &str) -> String {
    format!("# syntax={}\nFROM {TAG}\nRUN mkdir /mnt\n{lines}", frontend())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_leaves_its_sandbox_by_an_entitlement_and_the_settings_of_the_engine_alone() {
    let engine = engine().await;
    let tree = Tree::new("", &[]);
    let service = service(&engine, &tree).await;
    let word = unique("out");
    tree.write(
        "ctx/Dockerfile",
        &file(&format!("RUN --security=insecure {MOUNT} && echo {word}\n")),
    );
    let (_, refused) = build(&service, tree.plain()).await;
    let refused = refused.expect("the flag alone is nothing");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    for part in ["security.insecure is not allowed", "SECURITY_INSECURE in entitlements"] {
        assert!(refused.message().contains(part), "{part} in {refused:?}");
    }
    let told = build(&service, entitled(tree.plain())).await;
    assert_eq!(finished(&told).builder(), BuilderKind::Buildkit, "chosen by itself");
    let step = told.0.iter().find_map(|event| match event {
        Event::Step(step) if step.name.contains(&word) => Some(step.clone()),
        _ => None,
    });
    let step = step.expect("the step is told");
    assert_eq!((step.number, step.total, step.line), (3, 3, 4), "{step:?}");
    let wrote = |event: &Event| matches!(event, Event::Log(log) if log.vertex == step.vertex && String::from_utf8_lossy(&log.data).contains(&word));
    assert_eq!(count(&told.0, wrote), 1, "{told:?}");
    let id = engine.docker(&["image", "inspect", "--format", "{{.Id}}", tree.name()]);
    assert_eq!(id, Some(finished(&told).image_id));
    let line = ["build", "-q", "-t", tree.name(), "--no-cache", "--allow", "security.insecure"];
    cli(&service, &[&line[..], &[&tree.path("ctx")]].concat()).await.done();

    // A step that does not ask for it keeps its sandbox, and how it fails is told as ever.
    tree.write("ctx/Dockerfile", &file(&format!("RUN {MOUNT} || exit 7\n")));
    let by_kit = pb::BuildImageRequest { builder: BuilderKind::Buildkit.into(), ..tree.plain() };
    let (_, plain) = build(&service, by_kit).await;
    let (events, failed) = build(&service, entitled(tree.plain())).await;
    let (plain, failed) = (plain.expect("no power"), failed.expect("no power"));
    assert_eq!((failed.code(), failed.message()), (plain.code(), plain.message()));
    let last = events.last().expect("some");
    let Event::Failed(failure) = last else { panic!("{last:?}") };
    let step = failure.step.as_ref().expect("a step");
    assert_eq!((failure.exit_code, step.number, step.line), (Some(7), 3, 4), "{failure:?}");

    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_makes_the_same_image_as_without_the_entitlement() {
    let engine = engine().await;
    let tree = Tree::new("", &[("a", "a"), ("b", "b")]);
    let service = service(&engine, &tree).await;
    let secret = unique("secret");
    let lines = "ARG word\nCOPY . /ctx/\nFROM build AS wanted\nARG word\n\
                 RUN --mount=type=secret,id=key cat /run/secrets/key; echo $word > /word\n\
                 FROM wanted\nRUN false\n";
    let head = format!("# syntax={}\nFROM {TAG} AS build\n", frontend());
    tree.write("ctx/Dockerfiles/One", &format!("{head}{lines}"));
    tree.write("ctx/.dockerignore", "b\n");
    let pair = |key: &str, value: &str| pb::EnvVar { key: key.into(), value: value.into() };
    let platform = engine.docker(&["version", "-f", "{{.Server.Os}}/{{.Server.Arch}}"]);
    let request = pb::BuildImageRequest {
        dockerfile_path: "Dockerfiles/One".into(),
        tags: vec![format!("{}-also", tree.name())],
        target: "wanted".into(),
        platform: platform.expect("it answers"),
        build_args: vec![pair("word", "a,b=\"c\""), pair("BUILDKIT_INLINE_CACHE", "1")],
        labels: vec![pb::Label { key: "of".into(), value: "a,\"b\"".into() }],
        secrets: vec![pb::BuildSecret { id: "key".into(), value: secret.clone().into() }],
        builder: BuilderKind::Buildkit.into(),
        ..tree.plain()
    };
    let plain = finished(&build(&service, request.clone()).await);
    let told = build(&service, entitled(request.clone())).await;
    assert_eq!(finished(&told).image_id, plain.image_id, "all of it by the cache");
    let cached = count(&told.0, |event| matches!(event, Event::Cached(_)));
    assert!(cached >= 2, "{told:?}");
    // And anew, with both names; what a step prints of a secret is not told.
    engine.docker(&["rmi", tree.name(), &format!("{}-also", tree.name())]).expect("removed");
    let anew = pb::BuildImageRequest { no_cache: true, ..entitled(request) };
    let told = build(&service, anew).await;
    let made = finished(&told);
    assert!(!format!("{told:?}").contains(&secret), "{told:?}");
    let masked = |event: &Event| matches!(event, Event::Log(log) if String::from_utf8_lossy(&log.data).contains("[redacted]"));
    assert_eq!(count(&told.0, masked), 1, "{told:?}");
    for name in [tree.name().to_owned(), format!("{}-also", tree.name())] {
        let format = "{{.Id}} {{index .Config.Labels \"of\"}}";
        let found = engine.docker(&["image", "inspect", "--format", format, &name]);
        assert_eq!(found, Some(format!("{} a,\"b\"", made.image_id)));
    }
    let run = |script: &str| {
        let line = ["run", "--rm", "--network=none", tree.name(), "sh", "-c", script];
        engine.docker(&line).expect("it runs")
    };
    assert_eq!(run("cat /word; ls /ctx"), "a,b=\"c\"\nDockerfile\nDockerfiles\na");
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_caller_and_with_its_engine() {
    let mut engine = engine().await;
    let tree = Tree::new("", &[]);
    let service = service(&engine, &tree).await;
    // So many seconds as no other sleeps.
    let sleep = format!("busybox sleep {}", 1_000_000 + std::process::id());
    let lines = format!("RUN --security=insecure echo begun; exec {sleep}\n");
    tree.write("ctx/Dockerfile", &file(&lines));
    let steps = || {
        let all = Command::new("pgrep").args(["-xf", &sleep]).output().expect("pgrep");
        String::from_utf8_lossy(&all.stdout).trim().to_owned()
    };
    let mut stream = begin(&service, entitled(tree.plain())).await.expect("it begins");
    reads(&mut stream, "begun").await;
    eventually("the step runs", || async { !steps().is_empty() }).await;
    drop(stream);
    eventually("the step is gone", || async { steps().is_empty() }).await;

    packed(&tree, &tree.path("ctx"), &["."]);
    let (_, uploaded) = upload(&service, &tree).await;
    let id = uploaded["uploadId"].as_str().expect("an id").to_owned();
    let request = entitled(of(&tree, pb::build_source::Source::UploadId(id)));
    let mut stream = begin(&service, request).await.expect("it begins");
    reads(&mut stream, "begun").await;
    engine.kill();
    let end = loop {
        if let Err(end) = stream.message().await {
            break end;
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(end.message().contains("cannot be reached"), "{end:?}");
    nothing_is_held(&service).await;
    // A step outlives an engine that is killed, which forgets it.
    let _ = Command::new("kill").args(["-9", &steps()]).status();
    engine.resume().await;
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_allow_it_is_told_with_its_setting() {
    let tree = Tree::new("", &[]);
    let service = tree.service().await;
    let (events, refused) = build(&service, entitled(tree.plain())).await;
    let refused = refused.expect("it is refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    for part in ["security.insecure is not allowed", "builder.entitlements"] {
        assert!(refused.message().contains(part), "{part} in {refused:?}");
    }
    assert_eq!(count(&events, |event| matches!(event, Event::Step(_))), 0, "{events:?}");
}
