//! A run that has to pull its image tells that it came.

use super::*;
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_pulls_tells_what_came_once_and_by_its_kind() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let from = registry.push("pulled");
    let pulled = async || {
        let kinds = vec![pb::EventKind::Pulled.into()];
        list(&service, pb::ListEventsRequest { kinds, ..Default::default() }).await.events
    };
    let mut there = Vec::new();
    for _ in 0..2 {
        // The second finds it on the node.
        let name = unique("pulls");
        let request = pb::RunContainerRequest { image: from.clone(), ..service.request(&name) };
        run(&service, request).await;
        there = pulled().await;
        assert_eq!(kinds(&there), [pb::EventKind::Pulled], "{there:?}");
    }
    let event = &there[0];
    let Some(pb::event::Detail::Pulled(detail)) = &event.detail else { panic!("{event:?}") };
    assert_eq!((&event.image, &event.node_id), (&from, &service.node));
    assert_eq!(detail.image_id, docker(&["inspect", "-f", "{{.Id}}", &from]));
    let digests = docker(&["inspect", "-f", "{{.RepoDigests}}", &from]);
    assert!(detail.digest.starts_with("sha256:"), "{event:?}");
    assert!(digests.contains(&detail.digest), "{digests}: {event:?}");
    let all = list(&service, pb::ListEventsRequest::default()).await.events;
    assert!(all.len() > 1 && all.contains(event), "it is one of several: {all:?}");
    for id in service.made() {
        docker(&["rm", "-f", &id]);
    }
}
