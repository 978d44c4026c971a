//! What builds where the engine has no BuildKit, and what is chosen where it has.

use container_svc::rpc::pb::{self, BuilderKind, build_image_stream_response::Event};
use tonic::Code;

use super::{Tree, build, count, finished};
use crate::{
    proxy::{Mode, Proxy},
    support::{Service, docker, unique},
};

/// An engine that answers 404 where BuildKit would ask us, as other engines do.
async fn without_buildkit(tree: &Tree) -> (Proxy, Service) {
    let (proxy, root) = (Proxy::start(), tree.root().to_owned());
    proxy.set_for(Mode::Status404, "/session");
    let service = Service::with(|config| {
        config.engine = proxy.address();
        config.build_roots = vec![root];
    });
    let service = service.await.synced().await;
    (proxy, service)
}

#[tokio::test(flavor = "multi_thread")]
async fn buildkit_builds_where_nothing_is_said_and_the_engine_has_it() {
    let word = unique("plain");
    let tree = Tree::new("COPY a /a\n", &[("a", &word)]);
    let service = tree.service().await;
    for (asked, built) in [
        (BuilderKind::Unspecified, BuilderKind::Buildkit),
        (BuilderKind::Classic, BuilderKind::Classic),
        (BuilderKind::Buildkit, BuilderKind::Buildkit),
    ] {
        let request = pb::BuildImageRequest { builder: asked.into(), ..tree.request() };
        let told = build(&service, request).await;
        assert_eq!(finished(&told).builder(), built, "for {asked:?}");
        let started =
            |event: &Event| matches!(event, Event::Started(told) if told.builder() == built);
        assert_eq!(count(&told.0, started), 1, "{told:?}");
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/a"]), word);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_builder_builds_on_an_engine_without_buildkit_which_is_asked_once() {
    let word = unique("classic");
    let tree = Tree::new("COPY a /a\n", &[("a", &word)]);
    let (proxy, service) = without_buildkit(&tree).await;
    for _ in 0..2 {
        let told = build(&service, tree.plain()).await;
        assert_eq!(finished(&told).builder(), BuilderKind::Classic, "{told:?}");
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/a"]), word);
    }
    assert_eq!(proxy.times_met(), 1);
    // To the classic builder it is a comment, also for who may have a frontend.
    let text = std::fs::read_to_string(tree.root().join("ctx/Dockerfile")).expect("a file");
    tree.write("ctx/Dockerfile", &format!("# syntax=none.invalid/x\n{text}"));
    let told = build(&service, tree.plain()).await;
    assert_eq!(finished(&told).builder(), BuilderKind::Classic, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_buildkit_is_refused_by_name_where_the_engine_has_none() {
    let tree = Tree::new("RUN true\n", &[]);
    let (_proxy, service) = without_buildkit(&tree).await;
    let secret = pb::BuildSecret { id: "s".into(), value: b"hush".to_vec() };
    let syntax = pb::EnvVar { key: "BUILDKIT_SYNTAX".into(), value: "none.invalid/x".into() };
    let entitlements = vec![pb::BuildEntitlement::NetworkHost.into()];
    let kit = BuilderKind::Buildkit.into();
    for (request, words) in [
        (pb::BuildImageRequest { secrets: vec![secret], ..tree.plain() }, "secrets"),
        (pb::BuildImageRequest { entitlements, ..tree.plain() }, "entitlements"),
        (pb::BuildImageRequest { build_args: vec![syntax], ..tree.plain() }, "BUILDKIT_SYNTAX"),
        (pb::BuildImageRequest { builder: kit, ..tree.plain() }, "builder"),
    ] {
        let (events, refused) = build(&service, request).await;
        let refused = refused.expect("it is refused");
        assert_eq!((refused.code(), events.len()), (Code::FailedPrecondition, 0), "{refused:?}");
        assert!(refused.message().contains("has no BuildKit"), "{refused:?}");
        assert!(refused.message().contains(words), "{words} in {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_say_what_builds_is_asked_again() {
    let tree = Tree::new(&format!("RUN echo {}\n", unique("again")), &[]);
    let (proxy, service) = without_buildkit(&tree).await;
    proxy.set_for(Mode::Status500, "/session");
    let refused = build(&service, tree.plain()).await.1.expect("it cannot");
    assert!(refused.message().contains("does not say what builds"), "{refused:?}");
    proxy.set(Mode::Pass);
    assert_eq!(finished(&build(&service, tree.plain()).await).builder(), BuilderKind::Buildkit);
}
