//! What a crash or a restart of the service leaves is mended.

use container_svc::rpc::pb;

use super::{engine_names, is_running, named, only, port, run};
use crate::{
    proxy::{Mode, Proxy},
    support::{DEADLINE, Service, docker, eventually, image, unique},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_runs_is_not_removed_for_what_was_last_heard_of_it() {
    let inspections = Proxy::start();
    let renames = Proxy::before(inspections.socket());
    let service = Service::with(|config| {
        renames.under(config);
        config.engine_timeout = DEADLINE;
    });
    let service = service.await.synced().await;
    let name = unique("stale");
    run(&service, service.request(&name)).await;
    let mut second = service.request(&name);
    second.envs = vec![pb::EnvVar { key: "VERSION".into(), value: "2".into() }];
    let ask = async || service.grpc().await.run_container(second.clone()).await;

    renames.set_for(Mode::Late, "/rename");
    let met = renames.met_now();
    let successor = format!("{name}__new");
    let stale = async {
        met.await;
        eventually("the successor is known", || async {
            named(&service, &successor).await.0 == 200
        })
        .await;
        // From here on, nothing is heard of it.
        let id = docker(&["inspect", "-f", "{{.Id}}", &successor]);
        inspections.set_for(Mode::Status500, &format!("/containers/{id}/json"));
        renames.set(Mode::Pass);
        id
    };
    let (first, id) = tokio::join!(ask(), stale);
    first.expect_err("nobody could see what came of it");
    let state = || docker(&["inspect", "-f", "{{.Name}} {{.State.Running}}", &id]);
    assert_eq!(state(), format!("/{name} true"));
    assert_eq!(named(&service, &successor).await.0, 200, "what was last heard of it");
    ask().await.expect_err("it cannot be seen yet");
    assert_eq!(state(), format!("/{name} true"), "it is not taken for a left-over");
    inspections.set(Mode::Pass);
    eventually("it is known again", || async { named(&service, &name).await.0 == 200 }).await;
    assert_eq!(ask().await.expect("it runs").into_inner().id, id);
    assert_eq!(service.made(), [id]);
}
