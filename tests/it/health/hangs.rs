//! Stops and starts that take long or never end, and a disk that is full: the waits and
//! the budgets of all hold (F9, F10).

use super::{unhealthy::Kindly, *};
use crate::{
    proxy::{Mode, Proxy},
    small_disk::SmallDisk,
};

/// As many as the supervisor lets load the engine at once.
const MANY: usize = 8;

fn always(request: pb::RunContainerRequest) -> pb::RunContainerRequest {
    pb::RunContainerRequest { restart_policy: pb::RestartPolicy::Always.into(), ..request }
}

/// Ends once, and is back soon after the end of its wait.
async fn comes_back_in_time(service: &Service) {
    let name = unique("quick");
    let request = pb::RunContainerRequest {
        restart: quick(200, 200, 100),
        ..script(service, &name, "exit 1")
    };
    run(service, request).await;
    eventually("it comes back", || did(service, &name, pb::EventKind::Restarted)).await;
    let history = events(service, &name).await;
    let at = |kind: pb::EventKind| {
        let first = history.iter().find(|event| event.kind() == kind);
        time(first.expect("it is told").at)
    };
    let waited = at(pb::EventKind::Restarted).duration_since(at(pb::EventKind::BackingOff));
    // A busy machine takes its time; those that hang would take a minute.
    assert!(waited.as_secs() < 10, "it waited for others: {waited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_that_take_long_hold_up_no_restart_of_others() {
    let image = Kindly::make();
    let service = Service::start().await.synced().await;
    let names: Vec<String> = (0..=MANY).map(|_| unique("deaf")).collect();
    for name in &names {
        let request = pb::RunContainerRequest {
            image: image.name().to_owned(),
            stop_timeout: ms(60_000),
            health_check: Some(pb::HealthCheck {
                probe: Some(pb::health_check::Probe::Tcp(pb::TcpProbe { port: 81 })),
                interval: ms(200),
                retries: Some(2),
                ..Default::default()
            }),
            restart: quick(100, 100, 100),
            ..script(&service, name, "trap '' TERM; while :; do sleep 1; done")
        };
        run(&service, always(request)).await;
    }
    for name in &names {
        becomes(&service, name, pb::RestartState::BackingOff).await;
    }
    comes_back_in_time(&service).await;
    for name in &names {
        assert!(runs(&service, name).await, "its stop takes a minute");
    }
    let mut kill = vec!["kill"];
    kill.extend(names.iter().map(String::as_str));
    docker(&kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_hang_hold_up_no_restart_of_others() {
    let proxy = Proxy::start();
    let service = Service::with(|config| {
        proxy.under(config);
        // Four times as long for a start.
        config.engine_timeout = Duration::from_secs(15);
    });
    let service = service.await.synced().await;
    let names: Vec<String> = (0..MANY).map(|_| unique("hangs")).collect();
    for name in &names {
        let request = service.request(name);
        run(&service, always(pb::RunContainerRequest { restart: quick(100, 100, 9), ..request }))
            .await;
    }
    let other = unique("quick");
    let request = pb::RunContainerRequest {
        restart: quick(200, 200, 100),
        ..script(&service, &other, "echo start; exec sleep 1000")
    };
    run(&service, request).await;
    proxy.set_for(Mode::LateFirst(MANY), "/start");
    let mut kill = vec!["kill"];
    kill.extend(names.iter().map(String::as_str));
    docker(&kill);
    eventually("all of them hang", || async { proxy.times_met() == MANY as u64 }).await;
    docker(&["kill", &other]);
    eventually("the other comes back", || async { starts(&other) == 2 }).await;
    for name in &names {
        assert!(!runs(&service, name).await, "its start hangs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_never_answers_uses_the_budget_up() {
    let proxy = Proxy::start();
    let service = Service::with(|config| proxy.under(config)).await.synced().await;
    let name = unique("hangs");
    let request = pb::RunContainerRequest { restart: quick(100, 100, 2), ..service.request(&name) };
    run(&service, request).await;
    proxy.set_for(Mode::Late, "/start");
    docker(&["kill", &name]);
    let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
    assert!(status.reason.starts_with("does not start: "), "{status:?}");
    assert_eq!((status.attempts, proxy.times_met()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_is_lost_counts_and_is_our_own() {
    let proxy = Proxy::start();
    let service = Service::with(|config| proxy.under(config)).await.synced().await;
    for lost in [Mode::Hold, Mode::Truncate, Mode::HangAfterHeaders] {
        let name = unique("lost");
        let request =
            pb::RunContainerRequest { restart: quick(100, 100, 5), ..service.request(&name) };
        run(&service, request).await;
        proxy.set_for(lost, "/start");
        docker(&["kill", &name]);
        eventually("it comes back", || did(&service, &name, pb::EventKind::Restarted)).await;
        proxy.set(Mode::Pass);
        let status = becomes(&service, &name, pb::RestartState::Watching).await;
        assert_eq!((status.attempts, runs(&service, &name).await), (1, true), "{lost:?}");
        assert!(!did(&service, &name, pb::EventKind::Started).await, "{lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_done_after_all_is_our_own() {
    let proxy = Proxy::start();
    let service = Service::with(|config| proxy.under(config)).await.synced().await;
    let name = unique("late");
    let request =
        pb::RunContainerRequest { restart: quick(6000, 6000, 5), ..service.request(&name) };
    run(&service, request).await;
    proxy.set_for(Mode::Late, "/start");
    docker(&["kill", &name]);
    eventually("it was tried", || async {
        restart(&service, &name).await.reason.starts_with("does not start: ")
    })
    .await;
    // As the engine would, when it comes to it.
    docker(&["start", &name]);
    let status = becomes(&service, &name, pb::RestartState::Watching).await;
    assert_eq!((status.attempts, runs(&service, &name).await), (1, true));
    assert!(did(&service, &name, pb::EventKind::Restarted).await);
    assert!(!did(&service, &name, pb::EventKind::Started).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_an_answer_is_tried_again_by_its_waits() {
    let proxy = Proxy::start();
    let service = Service::with(|config| proxy.under(config)).await.synced().await;
    let name = unique("refused");
    let request = pb::RunContainerRequest { restart: quick(100, 100, 3), ..service.request(&name) };
    run(&service, request).await;
    // The engine is there for all else.
    proxy.set_for(Mode::Refuse, "/start");
    docker(&["kill", &name]);
    let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
    assert_eq!((status.attempts, proxy.times_met()), (3, 3), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_and_budgets_hold_while_the_disk_is_full_and_are_told_afterwards() {
    let disk = SmallDisk::mount();
    let service = Service::with(|config| disk.hold(&config.database())).await.synced().await;
    let (fails, dies, last) = (unique("fails"), unique("dies"), unique("last"));
    let (gone, hand) = (unique("gone"), unique("hand"));
    let with = |name: &str, end: &str, restart| pb::RunContainerRequest {
        restart,
        ..script(&service, name, &format!("echo start; {end}"))
    };
    run(&service, with(&dies, "exec sleep 1000", quick(100, 100, 100))).await;
    run(&service, with(&fails, "exit 1", quick(4000, 4000, 100))).await;
    run(&service, with(&last, "sleep 2; exit 1", quick(100, 100, 2))).await;
    becomes(&service, &fails, pb::RestartState::BackingOff).await;
    run(&service, with(&gone, "exec sleep 1000", None)).await;
    run(&service, with(&hand, "exec sleep 1000", quick(100, 100, 100))).await;
    disk.fill();
    let before = starts(&fails);
    // Neither by us nor by others, and neither stops the rest.
    docker(&["rm", "-f", &gone]);
    docker(&["restart", "-t", "0", &hand]);
    for (name, times) in [(&dies, 2), (&hand, 3)] {
        docker(&["kill", name]);
        eventually("what ends now comes back", || async { starts(name) == times }).await;
    }
    let status = becomes(&service, &last, pb::RestartState::GaveUp).await;
    assert_eq!((status.attempts, starts(&last)), (2, 3), "the budget holds");
    let end = Timestamp::now() + Duration::from_secs(9);
    // The shortest waits are a fifth shorter than four seconds.
    holds_until(end, || async { starts(&fails) <= before + 6 }).await;
    let again = starts(&fails) - before;
    assert!((2..=6).contains(&again), "{again} starts");

    let (_, node) = service.get("/container-svc/node").await;
    assert_eq!(node["node"]["engine"]["synced"], true, "{node}");

    disk.relieve();
    let removed = || did(&service, &gone, pb::EventKind::Removed);
    eventually("what went is told", removed).await;
    let restarted = async || {
        let told = kinds(&service, &fails).await;
        told.iter().filter(|kind| **kind == pb::EventKind::Restarted).count()
    };
    eventually("all starts are told", || async {
        restarted().await + 1 == starts(&fails)
            && did(&service, &dies, pb::EventKind::Restarted).await
            && did(&service, &hand, pb::EventKind::Restarted).await
            && did(&service, &last, pb::EventKind::GaveUp).await
    })
    .await;
    let attempts = async || restart(&service, &fails).await.attempts as usize;
    eventually("all of them count", || async { attempts().await + 1 == starts(&fails) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_falls_ill_while_the_disk_is_full_is_told_afterwards() {
    let disk = SmallDisk::mount();
    let service = Service::with(|config| disk.hold(&config.database())).await.synced().await;
    let name = unique("ill");
    let request = pb::RunContainerRequest {
        health_check: Some(pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Tcp(pb::TcpProbe { port: 81 })),
            interval: ms(1000),
            retries: Some(5),
            ..Default::default()
        }),
        restart_policy: pb::RestartPolicy::Never.into(),
        ..script(&service, &name, "exec sleep 1000")
    };
    run(&service, request).await;
    disk.fill();
    eventually("it is ill", || async {
        health(&service, &name).await == Some(pb::HealthState::Unhealthy)
    })
    .await;
    assert!(!did(&service, &name, pb::EventKind::Unhealthy).await, "the disk is full");
    disk.relieve();
    eventually("it is told", || did(&service, &name, pb::EventKind::Unhealthy)).await;
    let told = kinds(&service, &name).await;
    let ill = told.iter().filter(|kind| **kind == pb::EventKind::Unhealthy).count();
    assert_eq!(ill, 1, "{told:?}");
}
