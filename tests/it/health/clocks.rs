//! Restarts while the clock is put back: what was before is ahead of all that comes.

use super::*;
use crate::proxy::{Mode, Proxy};

async fn service(proxy: &Proxy) -> Service {
    let address = proxy.address();
    Service::with(|config| config.engine = address).await.synced().await
}

/// Fails in its first run, and goes on in the next.
fn fails_once(service: &Service, name: &str, wait: u64) -> pb::RunContainerRequest {
    let words = "echo start; [ -e /tmp/x ] && exec sleep 1000; touch /tmp/x; sleep 1; exit 1";
    pb::RunContainerRequest { restart: quick(wait, wait, 1000), ..script(service, name, words) }
}

async fn comes_back(service: &Service, name: &str) {
    eventually("it comes back", || async { starts(name) == 2 && runs(service, name).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_comes_back_though_the_clock_is_put_back() {
    let proxy = Proxy::start();
    let service = service(&proxy).await;
    let name = unique("waits");
    run(&service, fails_once(&service, &name, 2000)).await;
    becomes(&service, &name, pb::RestartState::BackingOff).await;
    proxy.set(Mode::PutBack(Timestamp::now()));
    comes_back(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_comes_back_though_the_engine_began_ahead_of_now() {
    let proxy = Proxy::start();
    proxy.set_for(Mode::PutBack(Timestamp::now()), "/networks/bridge");
    let service = service(&proxy).await;
    let name = unique("ahead");
    run(&service, fails_once(&service, &name, 100)).await;
    comes_back(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ill_comes_back_though_its_run_began_ahead_of_now() {
    let proxy = Proxy::start();
    let service = service(&proxy).await;
    let name = unique("ill");
    let request = pb::RunContainerRequest {
        health_check: Some(pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Tcp(pb::TcpProbe { port: 81 })),
            interval: ms(500),
            retries: Some(3),
            ..Default::default()
        }),
        restart: quick(100, 100, 100),
        ..script(&service, &name, "echo start; exec sleep 1000")
    };
    run(&service, request).await;
    proxy.set(Mode::PutBack(Timestamp::now()));
    eventually("it is started again", || async { starts(&name) == 2 }).await;
    eventually("that is told", || did(&service, &name, pb::EventKind::Restarted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_nobody_saw_wins_though_the_clock_was_put_back_since() {
    let proxy = Proxy::start();
    let mut service = service(&proxy).await;
    let [stopped, done, killed] = ["stopped", "done", "killed"].map(unique);
    for name in [&stopped, &done, &killed] {
        let words = "echo start; trap 'exit 0' USR1; while :; do sleep 0.05; done";
        let restart = quick(100, 100, 100);
        run(&service, pb::RunContainerRequest { restart, ..script(&service, name, words) }).await;
        eventually("it has begun", || async { starts(name) == 1 }).await;
    }
    service.stop().await;
    docker(&["stop", "-t", "0", &stopped]);
    docker(&["kill", "-s", "USR1", &done]);
    docker(&["kill", &killed]);
    proxy.set(Mode::PutBack(Timestamp::now()));
    service.resume().await;
    let service = service.synced().await;
    eventually("the stop is seen", || did(&service, &stopped, pb::EventKind::Stopped)).await;
    comes_back(&service, &killed).await;
    let end = Timestamp::now() + Duration::from_millis(500);
    holds_until(end, || async { starts(&stopped) == 1 && starts(&done) == 1 }).await;
}
