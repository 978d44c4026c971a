//! Restarts after the service was killed, and after the engine was.

use super::*;
use crate::faults::private_engine::{Engine, TAG};

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_outlives_the_service_and_what_ends_meanwhile_comes_back() {
    let mut service = Service::program(|_| {}).await.synced().await;
    let (waits, dies, stopped, done) =
        (unique("waits"), unique("dies"), unique("stopped"), unique("done"));
    let with = |name: &str, end: &str, restart| pb::RunContainerRequest {
        restart,
        ..script(&service, name, &format!("echo start; {end}"))
    };
    let sleep = "exec sleep 1000";
    run(&service, with(&waits, "exit 1", quick(8000, 8000, 100))).await;
    for name in [&dies, &stopped] {
        run(&service, with(name, sleep, quick(100, 100, 100))).await;
    }
    run(&service, with(&done, "exit 0", None)).await;
    let before = becomes(&service, &waits, pb::RestartState::BackingOff).await;
    eventually("the job is done", || did(&service, &done, pb::EventKind::Died)).await;
    service.kill();
    docker(&["kill", &dies]);
    docker(&["stop", &stopped]);

    service.resume().await;
    let service = service.synced().await;
    let after = restart(&service, &waits).await;
    // Unless this machine took longer than the wait.
    if Timestamp::now() < time(before.next_try_at) {
        assert_eq!(after, before);
    }
    eventually("the wait ends", || async { starts(&waits) > 1 }).await;
    assert!(Timestamp::now() >= time(before.next_try_at), "not before its time");
    let count = |name: &str| docker(&["logs", name]).matches("start").count();
    eventually("it comes back", || async { count(&dies) == 2 && runs(&service, &dies).await })
        .await;
    eventually("the stop is seen", || did(&service, &stopped, pb::EventKind::Stopped)).await;
    assert!(!runs(&service, &stopped).await, "a stop while nobody looked wins too");
    assert_eq!((count(&stopped), count(&done)), (1, 1), "what was done is not done again");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_go_on_counting_over_a_kill_of_the_service() {
    let mut service = Service::program(|_| {}).await.synced().await;
    let name = unique("counts");
    let request = pb::RunContainerRequest {
        restart: quick(100, 400, 8),
        ..script(&service, &name, "echo start; exit 1")
    };
    run(&service, request).await;
    for round in 0..3 {
        eventually("it was restarted again", || async { starts(&name) > 2 * (round + 1) }).await;
        service.kill();
        service.resume().await;
    }
    let service = service.synced().await;
    let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
    assert_eq!(status.attempts, 8);
    // A kill between a start and writing it down may cost one count a kill.
    assert!((9..=12).contains(&starts(&name)), "{}", starts(&name));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_nobody_saw_outlives_a_start_of_the_engine() {
    let mut engine = Engine::start(false).await;
    let address = engine.address();
    let mut service = Service::program(|config| config.engine = address).await.synced().await;
    let (stopped, lives) = (unique("stopped"), unique("lives"));
    for name in [&stopped, &lives] {
        let request = pb::RunContainerRequest {
            image: TAG.into(),
            restart_policy: pb::RestartPolicy::Always.into(),
            ..service.request(name)
        };
        run(&service, request).await;
    }
    service.kill();
    engine.docker(&["stop", "-t", "0", &stopped]).expect("it is stopped");
    // One that was stopped as the engine started may have been stopped by it.
    for _ in 0..2 {
        let later = Timestamp::now() + jiff::SignedDuration::from_secs(16);
        holds_until(later, || async { engine.docker(&["inspect", &lives]).is_some() }).await;
    }
    engine.stop();
    engine.resume().await;
    service.resume().await;
    let service = service.synced().await;
    eventually("what nobody stopped runs again", || async { runs(&service, &lives).await }).await;
    eventually("the stop is seen", || did(&service, &stopped, pb::EventKind::Stopped)).await;
    assert!(!runs(&service, &stopped).await);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_took_with_it_comes_back_with_it() {
    let mut engine = Engine::start(false).await;
    let address = engine.address();
    let service = Service::with(|config| config.engine = address).await.synced().await;
    let (lives, stopped, never) = (unique("lives"), unique("stopped"), unique("never"));
    let with = |name: &str, policy: pb::RestartPolicy| pb::RunContainerRequest {
        image: TAG.into(),
        restart_policy: policy.into(),
        ..service.request(name)
    };
    run(&service, with(&lives, pb::RestartPolicy::Unspecified)).await;
    run(&service, with(&stopped, pb::RestartPolicy::Always)).await;
    run(&service, with(&never, pb::RestartPolicy::Never)).await;
    stop(&service, &stopped).await;
    let started = async || container(&service, &lives).await.started_at;
    let mut before = started().await;
    for kindly in [false, true] {
        if kindly {
            engine.stop();
        } else {
            engine.kill();
        }
        engine.resume().await;
        eventually("it runs again", || async {
            started().await != before && runs(&service, &lives).await
        })
        .await;
        before = started().await;
        assert!(!runs(&service, &stopped).await && !runs(&service, &never).await);
    }
    assert!(did(&service, &lives, pb::EventKind::Restarted).await);
    drop(service);
    engine.end().await;
}
