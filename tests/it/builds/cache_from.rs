//! Layers that a build takes from images in place of making them.

use container_svc::rpc::pb::{self, build_image_stream_response::Event};

use super::{Tree, build, count, finished};
use crate::{
    registry::{Registry, fault_proxy::FaultProxy},
    support::{docker, unique},
};

fn cached(told: &[Event]) -> usize {
    count(told, |event| matches!(event, Event::Cached(_)))
}

/// Leaves the image as it is, and nothing of how it was made: no cache has its steps.
fn forget_steps(tree: &Tree) {
    let packed = tree.path("image.tar");
    docker(&["save", "-o", &packed, tree.name()]);
    docker(&["rmi", "-f", tree.name()]);
    docker(&["load", "-q", "-i", &packed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_taken_from_the_images_that_are_named_and_else_are_made() {
    let word = unique("from");
    let tree = Tree::new(&format!("RUN echo {word} > /word\n"), &[]);
    let service = tree.service().await;
    finished(&build(&service, tree.request()).await);
    forget_steps(&tree);
    let from = pb::BuildImageRequest { cache_from: vec![tree.name().into()], ..tree.request() };
    let told = build(&service, from).await;
    finished(&told);
    assert_eq!(cached(&told.0), 1, "{told:?}");
    forget_steps(&tree);
    let told = build(&service, tree.request()).await;
    finished(&told);
    assert_eq!(cached(&told.0), 0, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_registry_is_asked_for_layers_with_the_credentials_of_the_build() {
    let registry = Registry::start(true).await;
    let proxy = FaultProxy::before(&registry.host).await;
    let name = proxy.name(&registry.push("layers"));
    let tree = Tree::new("RUN true\n", &[]);
    let service = tree.service().await;
    let login = pb::BuildCredential {
        registry: proxy.host.clone(),
        username: "alice".into(),
        password: "sesame".into(),
    };
    let request = pb::BuildImageRequest {
        builder: pb::BuilderKind::Buildkit.into(),
        cache_from: vec![name],
        credentials: vec![login],
        ..tree.request()
    };
    finished(&build(&service, request).await);
    assert!(proxy.seen("/manifests/", true) > 0, "nobody asked for it by its credential");
}
