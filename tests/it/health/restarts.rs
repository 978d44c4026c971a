//! Which ends are followed by a start, when, and when no more.

use super::*;
use crate::proxy::{Mode, Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_comes_back_after_waits_that_double_and_is_given_up_with_its_last_lines() {
    let service = Service::start().await.synced().await;
    let name = unique("fails");
    let lines = "for i in $(seq 30); do echo line $i; done; exit 3";
    let request = pb::RunContainerRequest {
        restart: quick(200, 800, 4),
        ..script(&service, &name, &format!("echo start; {lines}"))
    };
    run(&service, request.clone()).await;
    let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
    assert_eq!(
        (status.reason.as_str(), status.policy()),
        ("exit code 3", pb::RestartPolicy::OnFailure)
    );
    assert_eq!((status.attempts, status.next_try_at), (4, None));
    let expected: Vec<String> = (11..=30).map(|line| format!("line {line}")).collect();
    assert_eq!(status.last_log_lines, expected);
    assert_eq!(starts(&name), 5, "once by us, four times again");
    assert!(!runs(&service, &name).await);

    // The schedule, by the times that were written down.
    use pb::EventKind::{BackingOff, Created, Died, GaveUp, Restarted};
    let count = || async { kinds(&service, &name).await.len() };
    eventually("all of it is told", || async { count().await == 1 + 5 + 4 + 4 + 1 }).await;
    let history = events(&service, &name).await;
    let at = |kind: pb::EventKind| -> Vec<Timestamp> {
        let those = history.iter().filter(|event| event.kind() == kind);
        those.map(|event| time(event.at)).collect()
    };
    let (waits, restarts) = (at(BackingOff), at(Restarted));
    let counts = [Created, Died, BackingOff, Restarted, GaveUp].map(|kind| at(kind).len());
    assert_eq!(counts, [1, 5, 4, 4, 1], "{history:?}");
    let last = history.iter().find(|event| event.kind() == GaveUp).expect("it is there");
    let Some(pb::event::Detail::GaveUp(detail)) = &last.detail else { panic!("{last:?}") };
    assert_eq!((detail.exit_code, &detail.last_lines), (Some(3), &expected));
    // What was planned is exact: the wait, less a fifth at most by chance.
    let plans = history.iter().filter(|event| event.kind() == BackingOff);
    for (event, base) in plans.zip([200_i128, 400, 800, 800]) {
        let Some(pb::event::Detail::Restart(detail)) = &event.detail else { panic!("{event:?}") };
        // It is decided a moment before it is told.
        let wait = time(detail.next_try).duration_since(time(event.at)).as_millis();
        assert!(wait <= base, "{wait} ms planned of {base}: {event:?}");
    }
    for ((begin, end), base) in waits.iter().zip(&restarts).zip([200, 400, 800, 800]) {
        let waited = end.duration_since(*begin).as_millis();
        assert!(waited >= base * 8 / 10, "waited {waited} ms of {base}: {history:?}");
    }
    for (end, next) in restarts.iter().zip(&waits[1..]) {
        assert!(end <= next, "one after the other: {history:?}");
    }

    // Somebody who runs it again begins anew.
    let again = run(&service, request).await;
    assert_eq!(again.action(), pb::RunAction::Started);
    eventually("it comes back again", || async { starts(&name) > 6 }).await;
    let summary = format!("/container-svc/container/summary?name={name}");
    becomes(&service, &name, pb::RestartState::GaveUp).await;
    let (_, summary) = service.get(&summary).await;
    assert!(
        summary["status"].as_str().expect("text").contains("given up: exit code 3"),
        "{summary}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_has_its_own_ends_back() {
    use pb::RestartPolicy::{Always, Never, OnFailure, Unspecified};
    let service = Service::start().await.synced().await;
    for (policy, code, named, back) in [
        (Never, 1, true, false),
        (OnFailure, 0, true, false),
        (OnFailure, 1, true, true),
        (Always, 0, true, true),
        (Unspecified, 1, true, true),
        (Unspecified, 0, true, false),
        (Unspecified, 1, false, false),
        (Always, 1, false, true),
    ] {
        let mark = unique("policy");
        let request = pb::RunContainerRequest {
            restart_policy: policy.into(),
            restart: quick(100, 100, 100),
            names: if named { vec![mark.clone()] } else { Vec::new() },
            hash: mark.clone(),
            ..script(&service, &mark, &format!("echo start; exit {code}"))
        };
        let name = run(&service, request).await.name;
        eventually("its end is seen", || did(&service, &name, pb::EventKind::Died)).await;
        if back {
            eventually("it comes back", || async { starts(&name) > 1 }).await;
        } else {
            let status = restart(&service, &name).await;
            assert_eq!(status.state(), pb::RestartState::Watching, "{policy:?} {code}");
            let end = Timestamp::now() + Duration::from_millis(500);
            holds_until(end, || async { starts(&name) == 1 }).await;
            assert!(!did(&service, &name, pb::EventKind::BackingOff).await);
        }
        let own = docker(&["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &name]);
        assert_eq!(own, "no", "the engine restarts nothing of ours");
        let remove = format!("/container-svc/container?name={name}&force=true");
        assert_eq!(service.rest("DELETE", &remove, "").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_policy_decides_where_a_request_says_nothing() {
    let service = Service::with(|config| {
        config.restart_policy = container_svc::config::Policy::Never;
    });
    let service = service.await.synced().await;
    let name = unique("silent");
    run(&service, script(&service, &name, "exit 1")).await;
    eventually("its end is seen", || did(&service, &name, pb::EventKind::Died)).await;
    let status = restart(&service, &name).await;
    assert_eq!(
        (status.state(), status.policy()),
        (pb::RestartState::Watching, pb::RestartPolicy::Never)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_the_wait_wins() {
    let service = Service::start().await.synced().await;
    let name = unique("stopped");
    let request = pb::RunContainerRequest {
        // Longer than a busy machine takes to come to the stop.
        restart: quick(8000, 8000, 100),
        ..script(&service, &name, "echo start; exit 1")
    };
    run(&service, request).await;
    let status = becomes(&service, &name, pb::RestartState::BackingOff).await;
    assert_eq!(status.reason, "exit code 1");
    let next = time(status.next_try_at);
    eventually("its end is told", || did(&service, &name, pb::EventKind::Died)).await;
    stop(&service, &name).await;
    assert!(Timestamp::now() < next, "the stop came in the middle of the wait");
    holds_until(next + Duration::from_millis(500), || async {
        let status = restart(&service, &name).await;
        status.state() == pb::RestartState::Watching && starts(&name) == 1
    })
    .await;
    assert!(!runs(&service, &name).await);
    assert_eq!(kinds(&service, &name).await.last(), Some(&pb::EventKind::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_the_engine_wins_a_start_there_counts_and_a_kill_is_a_crash() {
    let service = Service::start().await.synced().await;
    let name = unique("hands");
    let request = pb::RunContainerRequest {
        restart_policy: pb::RestartPolicy::Always.into(),
        restart: quick(100, 100, 100),
        ..script(&service, &name, "echo start; exec sleep 1000")
    };
    run(&service, request).await;
    docker(&["kill", &name]);
    eventually("it comes back", || async { starts(&name) == 2 && runs(&service, &name).await })
        .await;

    docker(&["stop", &name]);
    eventually("the stop is seen", || did(&service, &name, pb::EventKind::Stopped)).await;
    let end = Timestamp::now() + Duration::from_secs(1);
    holds_until(end, || async { starts(&name) == 2 && !runs(&service, &name).await }).await;

    docker(&["start", &name]);
    eventually("the start is seen", || did(&service, &name, pb::EventKind::Started)).await;
    docker(&["kill", &name]);
    eventually("it comes back", || async { starts(&name) == 4 && runs(&service, &name).await })
        .await;

    docker(&["restart", &name]);
    let end = Timestamp::now() + Duration::from_secs(1);
    eventually("it is past", || async { Timestamp::now() > end }).await;
    eventually("a restart there is left as it is", || runs(&service, &name)).await;
    assert_eq!(starts(&name), 5);
    docker(&["kill", &name]);
    eventually("it comes back", || async { starts(&name) == 6 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_much_memory_is_given_up_for_that() {
    let service = Service::start().await.synced().await;
    // A busy engine may hear of the want of memory after the end, and then it never tells.
    for _ in 0..5 {
        let name = unique("greedy");
        let request = pb::RunContainerRequest {
            command: vec!["tail".into(), "/dev/zero".into()],
            resources: Some(pb::Resources { memory_mb: 8, ..Default::default() }),
            restart: quick(100, 100, 1),
            ..service.request(&name)
        };
        run(&service, request).await;
        let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
        if docker(&["inspect", "-f", "{{.State.OOMKilled}}", &name]) == "true" {
            assert_eq!(status.reason, "out of memory (exit code 137)");
            assert!(container(&service, &name).await.oom_killed);
            return;
        }
        assert_eq!(status.reason, "exit code 137");
    }
    panic!("the engine never told of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_again_is_tried_until_the_budget_is_used_up() {
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    let name = unique("port");
    let request = pb::RunContainerRequest {
        ports: vec![pb::PortMapping { internal: 80, ..Default::default() }],
        restart: quick(500, 500, 2),
        ..script(&service, &name, "exec sleep 1000")
    };
    let host = run(&service, request).await.ports[0].host;
    let host = u16::try_from(host).expect("a port");
    // Somebody else has its port before the engine hears that it shall start.
    proxy.set_for(Mode::Steal(1), "/start");
    docker(&["kill", &name]);
    let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
    assert!(status.reason.starts_with("does not start: "), "{status:?}");
    assert_eq!((status.attempts, proxy.stolen()), (2, vec![host]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_somebody_else_is_watched_and_never_restarted() {
    let service = Service::start().await.synced().await;
    let name = unique("foreign");
    let check = ["--health-cmd", "false", "--health-interval", "200ms", "--health-retries", "1"];
    let mut args = vec!["run", "-d", "--name", &name];
    args.extend(check);
    args.extend([image(), "sh", "-c", "echo start; exec sleep 1000"]);
    docker(&args);
    eventually("its health is seen", || async {
        let (status, _) = service.get(&format!("/container-svc/container?name={name}")).await;
        status == 200 && health(&service, &name).await == Some(pb::HealthState::Unhealthy)
    })
    .await;
    assert_eq!(container(&service, &name).await.restart, None);
    docker(&["kill", &name]);
    eventually("its end is seen", || async { !runs(&service, &name).await }).await;
    let end = Timestamp::now() + Duration::from_secs(2);
    holds_until(end, || async { starts(&name) == 1 && !runs(&service, &name).await }).await;
    docker(&["rm", "-f", &name]);
}
