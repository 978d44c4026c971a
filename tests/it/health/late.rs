//! What happens on the engine in quick order, or is told late.

use super::{unhealthy::Kindly, *};
use crate::proxy::{Mode, Proxy};

/// Runs on in its first run, and fails at once in the later ones.
fn fails_later(service: &Service, name: &str) -> pb::RunContainerRequest {
    let words = "echo start; [ -e /tmp/x ] && exit 1; touch /tmp/x; exec sleep 1000";
    pb::RunContainerRequest {
        restart_policy: pb::RestartPolicy::Always.into(),
        restart: quick(100, 200, 1000),
        ..script(service, name, words)
    }
}

/// A service that hears of what happens at once, or a second later.
async fn service(proxy: &Proxy, late: bool) -> Service {
    if late {
        proxy.set_for(Mode::Delay, "/events");
    }
    let address = proxy.address();
    Service::with(|config| config.engine = address).await.synced().await
}

/// It is started again and again.
async fn goes_on(service: &Service, name: &str) {
    let restarted = async || {
        let told = kinds(service, name).await;
        told.iter().filter(|kind| **kind == pb::EventKind::Restarted).count()
    };
    eventually("it comes back each time", || async { restarted().await > 3 }).await;
    assert_ne!(kinds(service, name).await.last(), Some(&pb::EventKind::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_the_engine_is_no_stop_of_a_run_that_fails_at_once() {
    for late in [false, true] {
        let proxy = Proxy::start();
        let service = service(&proxy, late).await;
        let name = unique("again");
        run(&service, fails_later(&service, &name)).await;
        eventually("it runs", || async { starts(&name) == 1 }).await;
        docker(&["restart", "-t", "0", &name]);
        goes_on(&service, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_the_engine_is_a_wish_also_where_its_run_fails_at_once() {
    for late in [false, true] {
        let proxy = Proxy::start();
        let service = service(&proxy, late).await;
        for ours in [false, true] {
            let name = unique("wish");
            run(&service, fails_later(&service, &name)).await;
            eventually("it runs", || async { starts(&name) == 1 }).await;
            if ours {
                stop(&service, &name).await;
            } else {
                docker(&["stop", "-t", "0", &name]);
            }
            eventually("the stop is told", || did(&service, &name, pb::EventKind::Stopped)).await;
            docker(&["start", &name]);
            goes_on(&service, &name).await;
            assert!(did(&service, &name, pb::EventKind::Started).await, "late: {late}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_paused_while_it_was_ill_is_restarted_when_it_goes_on() {
    let image = Kindly::make();
    let proxy = Proxy::start();
    let service = service(&proxy, false).await;
    let name = unique("paused");
    let mut request = pb::RunContainerRequest {
        health_check: Some(pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Tcp(pb::TcpProbe { port: 81 })),
            interval: ms(1000),
            retries: Some(3),
            ..Default::default()
        }),
        restart: quick(100, 100, 100),
        ..script(&service, &name, "echo start; exec sleep 1000")
    };
    run(&service, request.clone()).await;
    // A run of the same name keeps the supervisor waiting for its turn, and fails.
    proxy.set_for(Mode::Late, "/containers/create");
    request.image = image.name().to_owned();
    let mut client = service.grpc().await;
    let other = async { client.run_container(request).await };
    let paused = async {
        proxy.met().await;
        eventually("it is ill", || did(&service, &name, pb::EventKind::Unhealthy)).await;
        assert!(!did(&service, &name, pb::EventKind::BackingOff).await, "it waits for its turn");
        docker(&["pause", &name]);
        let is_paused =
            async || container(&service, &name).await.state() == pb::ContainerState::Paused;
        eventually("that is seen", is_paused).await;
        docker(&["rmi", "-f", image.name()]);
        proxy.set(Mode::Pass);
    };
    let (other, ()) = tokio::join!(other, paused);
    other.expect_err("its image is gone");
    let end = Timestamp::now() + Duration::from_secs(1);
    holds_until(end, || async { !did(&service, &name, pb::EventKind::BackingOff).await }).await;
    docker(&["unpause", &name]);
    eventually("it comes back", || async { starts(&name) == 2 }).await;
    let told = events(&service, &name).await;
    let for_health = |event: &pb::Event| matches!(&event.detail, Some(pb::event::Detail::Restart(it)) if it.reason == "unhealthy");
    assert!(told.iter().any(for_health), "{told:?}");
}
