//! A start on the engine is told once, whatever ended the run before.

use super::*;

/// Deeds that are told of a name, oldest first, once there are so many.
async fn told(service: &Service, name: &str, count: usize) -> Vec<pb::EventKind> {
    let deeds = async || kinds(&deeds(of(service, name).await));
    eventually(&format!("{count} deeds are told"), || async { deeds().await.len() >= count }).await;
    deeds().await
}

fn policy(
    service: &Service,
    name: &str,
    policy: pb::RestartPolicy,
    words: &str,
) -> pb::RunContainerRequest {
    pb::RunContainerRequest {
        restart_policy: policy.into(),
        command: ["sh", "-c", words].map(str::to_owned).to_vec(),
        ..service.request(name)
    }
}

async fn ended(service: &Service, name: &str, times: usize) {
    eventually("its end is told", || async {
        let died = kinds(&of(service, name).await);
        died.iter().filter(|kind| **kind == pb::EventKind::Died).count() == times
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_the_engine_of_one_that_its_policy_left_stopped_is_told_once() {
    use pb::{EventKind as Kind, RestartPolicy as Policy};
    let mut service = Service::start().await.synced().await;
    let [never, done] = [unique("never"), unique("done")];
    run(&service, policy(&service, &never, Policy::Never, "exit 1")).await;
    run(&service, policy(&service, &done, Policy::OnFailure, "exit 0")).await;
    for name in [&never, &done] {
        ended(&service, name, 1).await;
        docker(&["start", name]);
        ended(&service, name, 2).await;
        assert_eq!(told(&service, name, 2).await, [Kind::Created, Kind::Started]);
    }
    // A run says so itself, and what went on is not told again by the next service.
    run(&service, policy(&service, &never, Policy::Never, "exit 1")).await;
    ended(&service, &never, 3).await;
    let all = [Kind::Created, Kind::Started, Kind::Started, Kind::Started];
    assert_eq!(told(&service, &never, 3).await, all[..3]);
    service.stop().await;
    docker(&["start", &done]);
    service.resume().await;
    let service = service.synced().await;
    assert_eq!(told(&service, &done, 3).await, all[..3], "also of a start while it was away");
    docker(&["start", &never]);
    assert_eq!(told(&service, &never, 4).await, all, "it is told after all that came before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_the_engine_is_told_as_a_start_and_one_by_the_policy_is_not() {
    use pb::EventKind as Kind;
    let service = Service::start().await.synced().await;
    let name = unique("again");
    // Longer than the engine takes for a restart.
    let wait = std::time::Duration::from_secs(5).try_into().ok();
    let restart =
        Some(pb::RestartOptions { min_backoff: wait, max_backoff: wait, ..Default::default() });
    let request = policy(&service, &name, pb::RestartPolicy::Always, "exec sleep 1000");
    run(&service, pb::RunContainerRequest { restart, ..request }).await;
    docker(&["kill", &name]);
    let by_policy = [Kind::Created, Kind::BackingOff, Kind::Restarted];
    assert_eq!(told(&service, &name, 3).await, by_policy);
    docker(&["restart", "-t", "0", &name]);
    let count = async |kind| {
        let deeds = kinds(&of(&service, &name).await);
        deeds.iter().filter(|deed| **deed == kind).count()
    };
    eventually("it is told", || async { count(Kind::Started).await == 1 }).await;
    docker(&["kill", &name]);
    eventually("it comes back", || async { count(Kind::Restarted).await == 2 }).await;
    // Whether the end between was seen, and as a stop, is by chance.
    let mut deeds = kinds(&deeds(of(&service, &name).await));
    deeds.retain(|kind| !matches!(kind, Kind::Stopped | Kind::BackingOff));
    assert_eq!(deeds, [Kind::Created, Kind::Restarted, Kind::Started, Kind::Restarted]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_that_is_back_was_started_by_nobody_else() {
    use pb::EventKind as Kind;
    let mut service = Service::start().await.synced().await;
    let name = unique("back");
    let request = policy(&service, &name, pb::RestartPolicy::Always, "exec sleep 1000");
    run(&service, request.clone()).await;
    let restarts = async |service: &Service, times| {
        docker(&["kill", &name]);
        eventually("it comes back", || async {
            let deeds = kinds(&deeds(of(service, &name).await));
            deeds.iter().filter(|kind| **kind == Kind::Restarted).count() == times
        })
        .await;
    };
    restarts(&service, 1).await;
    let broken = pb::RunContainerRequest { command: vec!["/none".into()], ..request };
    service.grpc().await.run_container(broken).await.expect_err("it does not start");
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    restarts(&service, 2).await;
    let by_policy = [Kind::BackingOff, Kind::Restarted];
    let all = [&[Kind::Created], &by_policy[..], &by_policy[..]].concat();
    assert_eq!(kinds(&deeds(of(&service, &name).await)), all);
    let (_, body) = service.get(&format!("/container-svc/container?name={name}")).await;
    assert_eq!(body["container"]["restart"]["attempts"], 2, "{body}");
}
