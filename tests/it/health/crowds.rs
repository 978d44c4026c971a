//! Many at once, and anything in any order, with health and restarts on (F12, F22).

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::*;

fn watched(request: pb::RunContainerRequest) -> pb::RunContainerRequest {
    pb::RunContainerRequest {
        health_check: Some(pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Exec(pb::ExecProbe {
                command: vec!["true".into()],
            })),
            interval: ms(500),
            ..Default::default()
        }),
        restart_policy: pb::RestartPolicy::Always.into(),
        restart: quick(100, 200, 1000),
        ..request
    }
}

fn names(service: &Service) -> BTreeSet<String> {
    let label = format!("label=container-svc.node={}", service.node);
    let names = docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
    names.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_runs_of_one_that_keeps_ending_make_one_container() {
    let service = Service::start().await.synced().await;
    let name = unique("one");
    let request = watched(script(&service, &name, "sleep 0.3"));
    let calls = (0..100).map(|_| run(&service, request.clone()));
    let answers = futures_util::future::join_all(calls).await;
    let created = answers.iter().filter(|answer| answer.action() == pb::RunAction::Created);
    assert_eq!(created.count(), 1);
    assert!(answers.iter().all(|answer| answer.id == answers[0].id));
    eventually("it comes back", || did(&service, &name, pb::EventKind::Restarted)).await;
    assert_eq!(names(&service), BTreeSet::from([name]));
}

/// A number that `make soak` makes larger.
fn many(variable: &str, few: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Containers of somebody else, which are gone with it.
struct Others(Vec<String>);

impl Others {
    fn create(count: usize) -> Self {
        Self((0..count).map(|_| docker(&["create", image(), "true"])).collect())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for some in self.0.chunks(100) {
            let mut args = vec!["rm", "-f"];
            args.extend(some.iter().map(String::as_str));
            docker(&args);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_that_are_watched_are_made_once_each_and_come_back() {
    let others = Others::create(10);
    let service = Service::start().await.synced().await;
    let all: Vec<String> = (0..100).map(|_| unique("hundred")).collect();
    let request = |name: &String| pb::RunContainerRequest {
        health_check: Some(pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Tcp(pb::TcpProbe { port: 80 })),
            interval: ms(1000),
            ..Default::default()
        }),
        restart_policy: pb::RestartPolicy::Always.into(),
        restart: quick(100, 200, 1000),
        ..script(&service, name, "exec httpd -f -p 80 -h /www")
    };
    let calls = all.iter().map(|name| run(&service, request(name)));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.action() == pb::RunAction::Created));
    for name in &all {
        let well = || async { health(&service, name).await == Some(pb::HealthState::Healthy) };
        eventually("it is well", well).await;
    }
    let ended: Vec<&str> = all.iter().step_by(10).map(String::as_str).collect();
    docker(&[&["kill"], &ended[..]].concat());
    for name in ended {
        eventually("it comes back", || did(&service, name, pb::EventKind::Restarted)).await;
    }
    assert_eq!(names(&service), all.into_iter().collect());
    assert!(!others.0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_that_keep_ending_is_made_once_and_comes_back() {
    let others = Others::create(many("SOAK_OTHERS", 10));
    let service = Service::start().await.synced().await;
    let all: Vec<String> = (0..many("SOAK_SPECS", 8)).map(|_| unique("each")).collect();
    let request = |name: &String| watched(script(&service, name, "echo start; sleep 2"));
    // Each is asked for twice at once.
    let calls = all.iter().chain(&all).map(|name| run(&service, request(name)));
    let answers = futures_util::future::join_all(calls).await;
    let created = answers.iter().filter(|answer| answer.action() == pb::RunAction::Created);
    assert_eq!(created.count(), all.len());
    for name in &all {
        eventually("it comes back", || did(&service, name, pb::EventKind::Restarted)).await;
    }
    assert_eq!(names(&service), all.into_iter().collect());
    assert!(!others.0.is_empty());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Run(u8),
    Stop,
    Crash,
}

async fn take(service: &Service, name: &str, step: Step) {
    match step {
        Step::Run(version) => {
            let mut request = watched(service.request(name));
            request.envs = vec![pb::EnvVar { key: "VERSION".into(), value: version.to_string() }];
            if let Err(status) = service.grpc().await.run_container(request).await {
                // One that was asked for at the same time came after it.
                assert_eq!(status.code(), tonic::Code::Aborted, "{status:?}");
            }
        }
        Step::Stop => {
            let stop = pb::StopContainerRequest { name: name.to_owned(), ..Default::default() };
            if let Err(status) = service.grpc().await.stop_container(stop).await {
                assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
            }
        }
        Step::Crash => {
            docker(&["kill", name]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_interleaving_with_restarts_leaves_one_container_as_last_asked() {
    let service = Service::start().await.synced().await;
    let step = prop_oneof![(0..3_u8).prop_map(Step::Run), Just(Step::Stop), Just(Step::Crash)];
    // What stands together is asked for at once.
    let steps = prop::collection::vec(prop::collection::vec(step, 1..4), 6);
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[23; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), seed);
    for round in 0..4 {
        let name = unique("any");
        let groups = steps.new_tree(&mut runner).expect("steps").current();
        for group in &groups {
            let all = group.iter().map(|step| take(&service, &name, *step));
            futures_util::future::join_all(all).await;
            let mine = names(&service).into_iter().filter(|have| have.starts_with(&name)).count();
            assert!(mine <= 1, "after {group:?} of {groups:?}");
        }
        // The last that is acknowledged holds, and a crash does not undo it.
        take(&service, &name, Step::Run(7)).await;
        take(&service, &name, Step::Crash).await;
        if round % 2 == 0 {
            eventually("it comes back", || async {
                did(&service, &name, pb::EventKind::Restarted).await && runs(&service, &name).await
            })
            .await;
            let version = docker(&["inspect", "-f", "{{.Config.Env}}", &name]);
            assert!(version.contains("VERSION=7"), "{groups:?}: {version}");
        }
        take(&service, &name, Step::Stop).await;
        let end = Timestamp::now() + Duration::from_millis(800);
        holds_until(end, || async { !runs(&service, &name).await }).await;
        let remove = format!("/container-svc/container?name={name}");
        assert_eq!(service.rest("DELETE", &remove, "").await.0, 200, "it is stopped");
    }
    assert!(names(&service).is_empty());
}
