//! What a crash or a restart of the service leaves is mended.

use container_svc::rpc::pb;

use super::{engine_names, is_running, named, only, port, run};
use crate::support::{Service, docker, eventually, image, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_service_forgets_nothing() {
    let mut service = Service::start().await.synced().await;
    let name = unique("again");
    let mut request = service.request(&name);
    request.ports = vec![port(80, 0), port(81, 0)];
    let before = run(&service, request.clone()).await;
    let token = service.token.clone();

    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    assert_eq!(service.token, token);
    assert!(is_running(&service, &name).await);
    let after = run(&service, request).await;
    assert_eq!(after.action(), pb::RunAction::Unchanged);
    assert_eq!((&after.id, &after.ports, &after.hash), (&before.id, &before.ports, &before.hash));
    let (_, body) = named(&service, &name).await;
    assert_eq!(body["history"][0]["action"], "created", "{body}");
}

/// Stops the service, leaves the engine as a crash would have, and starts it
/// again: the name runs, and nothing else is left.
async fn mends(leave: impl FnOnce(&str, &str)) {
    let mut service = Service::start().await.synced().await;
    let name = unique("mend");
    let id = run(&service, service.request(&name)).await.id;
    service.stop().await;
    leave(&name, &id);
    service.resume().await;
    let service = service.synced().await;
    let there =
        || async { is_running(&service, &name).await && engine_names(&service) == only(&name) };
    eventually("the name runs and nothing else is left", there).await;
    let again = run(&service, service.request(&name)).await;
    assert!(!again.started, "{again:?}");
    assert_eq!(service.made(), [again.id]);
}

/// A container with all that makes one the service's own.
fn twin(name: &str, of: &str, called: &str) -> String {
    let labels = docker(&[
        "inspect",
        "--format",
        "{{range $key, $value := .Config.Labels}}{{$key}}={{$value}}\n{{end}}",
        of,
    ]);
    let mut args = vec!["create", "--name", called];
    for label in labels.lines().filter(|label| !label.is_empty()) {
        args.extend(["--label", label]);
    }
    args.extend([image(), "sleep", "1000"]);
    let id = docker(&args);
    assert_eq!(id.len(), 64, "{name}: {id}");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_successor_is_made_is_mended() {
    mends(|name, id| drop(twin(name, id, &format!("{name}__new")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_predecessor_is_stopped_is_mended() {
    mends(|name, id| {
        twin(name, id, &format!("{name}__new"));
        docker(&["kill", id]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_predecessor_gave_its_name_is_mended() {
    mends(|name, id| {
        twin(name, id, &format!("{name}__new"));
        docker(&["kill", id]);
        docker(&["rename", id, &format!("{name}__old")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_successor_starts_is_mended() {
    mends(|name, id| {
        docker(&["kill", id]);
        docker(&["rename", id, &format!("{name}__old")]);
        twin(name, id, name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_predecessor_is_removed_is_mended() {
    mends(|name, id| {
        docker(&["kill", id]);
        docker(&["rename", id, &format!("{name}__old")]);
        let new = twin(name, id, name);
        docker(&["start", &new]);
    })
    .await;
}
