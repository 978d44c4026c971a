//! Runs, stops and crashes of one name in any order (F22).

use container_svc::rpc::pb;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{engine_names, is_running, only, run};
use crate::{
    proxy::{Mode, Proxy},
    support::{DEADLINE, Service, docker, eventually, unique},
};

#[derive(Debug, Clone, Copy)]
enum Step {
    Run(u8),
    Stop,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![(0..3_u8).prop_map(Step::Run), Just(Step::Stop), Just(Step::Crash)];
    // What stands together is asked for at once.
    prop::collection::vec(prop::collection::vec(step, 1..4), 6)
}

fn request(service: &Service, name: &str, version: u8) -> pb::RunContainerRequest {
    let mut request = service.request(name);
    request.envs = vec![pb::EnvVar { key: "VERSION".into(), value: version.to_string() }];
    request
}

async fn take(service: &Service, name: &str, step: Step) {
    let mut client = service.grpc().await;
    match step {
        Step::Run(version) => {
            if let Err(status) = client.run_container(request(service, name, version)).await {
                // What was asked for later came first.
                assert_eq!(status.code(), tonic::Code::Aborted, "{status:?}");
            }
        }
        Step::Stop => {
            let stop = pb::StopContainerRequest { name: name.to_owned(), ..Default::default() };
            if let Err(status) = client.stop_container(stop).await {
                assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
            }
        }
        Step::Crash => {
            docker(&["kill", name]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_interleaving_leaves_one_container_as_last_asked() {
    let service = Service::start().await.synced().await;
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[22; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), seed);
    for _ in 0..2 {
        let name = unique("any");
        let groups = steps().new_tree(&mut runner).expect("steps").current();
        for group in &groups {
            let all = group.iter().map(|step| take(&service, &name, *step));
            futures_util::future::join_all(all).await;
            let there = engine_names(&service);
            let mine: Vec<_> = there.iter().filter(|have| have.starts_with(&name)).collect();
            assert!(mine.len() <= 1, "after {group:?} of {groups:?}: {mine:?}");
        }
        // The last that is acknowledged holds.
        take(&service, &name, Step::Run(7)).await;
        assert!(is_running(&service, &name).await, "{groups:?}");
        let version = docker(&["inspect", "-f", "{{.Config.Env}}", &name]);
        assert!(version.contains("VERSION=7"), "{groups:?}: {version}");
        take(&service, &name, Step::Stop).await;
        eventually("the stop holds", || async { !is_running(&service, &name).await }).await;
        let remove = pb::RemoveContainerRequest { name: name.clone(), ..Default::default() };
        assert_eq!(engine_names(&service), only(&name));
        service.grpc().await.remove_container(remove).await.expect("it is stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_those_who_work_on_the_one_that_has_the_alias_by_then() {
    let removals = Proxy::start();
    let creations = Proxy::before(removals.socket());
    let service = Service::with(|config| {
        creations.under(config);
        config.engine_timeout = DEADLINE;
    });
    let service = service.await.synced().await;
    let (one, two, alias) = (unique("one"), unique("two"), unique("alias"));
    let aliased = |name: &str, version| {
        let mut request = request(&service, name, version);
        request.names.push(alias.clone());
        request
    };
    run(&service, aliased(&one, 1)).await;

    // A removal has the first one's locks, and a stop by the alias waits for them.
    removals.set_for(Mode::Late, "/stop");
    let (begun, begun_too) = (removals.met_now(), removals.met_now());
    let (tell, told) = tokio::sync::oneshot::channel();
    let removal = async {
        let remove =
            pb::RemoveContainerRequest { name: one.clone(), force: true, ..Default::default() };
        service.grpc().await.remove_container(remove).await.expect("it is removed");
        tell.send(()).expect("somebody waits for it");
    };
    let stop = async {
        begun.await;
        let stop = pb::StopContainerRequest { name: alias.clone(), ..Default::default() };
        service.grpc().await.stop_container(stop).await.expect("it is stopped");
    };
    let rest = async {
        begun_too.await;
        for _ in 0..20 {
            assert!(is_running(&service, &alias).await, "meanwhile the stop comes to its wait");
        }
        // The removal goes on, but does not hear that it is done.
        let met = removals.met_now();
        removals.set_for(Mode::Hold, "DELETE ");
        met.await;
        eventually("nobody has the alias", || async {
            super::named(&service, &alias).await.0 == 404
        })
        .await;
        run(&service, aliased(&two, 1)).await;
        // A replacement of the second one has its locks.
        let met = creations.met_now();
        creations.set_for(Mode::Late, "/containers/create");
        let release = async {
            met.await;
            removals.set(Mode::Pass);
            told.await.expect("it is removed");
            creations.set(Mode::Pass);
        };
        tokio::join!(run(&service, aliased(&two, 2)), release).0
    };
    let (_, _, replaced) = tokio::join!(removal, stop, rest);
    assert_eq!(replaced.action(), pb::RunAction::Replaced);
    eventually("the stop came last", || async { !is_running(&service, &two).await }).await;
}
