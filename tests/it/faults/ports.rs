//! Host ports: taken by others, before the choice or after it (F17).

use std::{collections::BTreeSet, net::TcpListener};

use container_svc::{config::Config, rpc::pb};
use tonic::{Code, Status};

use super::{engine_names, is_running, only, port, run};
use crate::{
    proxy::{Mode, Proxy},
    support::{DEADLINE, Service, docker, eventually, image, unique},
};

/// Leaves the service so many ports to choose from.
fn narrow(config: &mut Config, ports: u16) {
    config.port_range.1 = config.port_range.0 + ports - 1;
}

/// Behind a proxy that takes chosen ports, with so many to choose from.
async fn among_thieves(proxy: &Proxy, ports: u16) -> Service {
    let service = Service::with(|config| {
        proxy.under(config);
        config.engine_timeout = DEADLINE;
        narrow(config, ports);
    });
    service.await.synced().await
}

fn with_port(service: &Service, name: &str) -> pb::RunContainerRequest {
    let mut request = service.request(name);
    request.ports = vec![port(80, 0)];
    request
}

fn host(answer: &pb::RunContainerResponse) -> u16 {
    u16::try_from(answer.ports[0].host).expect("a port")
}

async fn refused(service: &Service, request: pb::RunContainerRequest) -> Status {
    service.grpc().await.run_container(request).await.expect_err("the ports are taken")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_process_holds_is_refused_with_the_holder() {
    let service = Service::start().await.synced().await;
    let (taken, _) = service.ports.range;
    let holder = TcpListener::bind(("0.0.0.0", taken)).expect("a port");
    let taken = i32::from(taken);
    let name = unique("fixed");
    let mut request = service.request(&name);
    request.ports = vec![port(80, taken)];
    let refused = service.grpc().await.run_container(request.clone()).await;
    let refused = refused.expect_err("the port is taken");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&self::holder()), "{}", refused.message());

    let body = format!(
        "{{\"image\":\"{}\",\"names\":[\"{name}\"],\"ports\":[{{\"internal\":80,\"host\":{taken}}}]}}",
        image()
    );
    let (status, body) = service.rest("PUT", "/container-svc/container", &body).await;
    assert_eq!(status, 400, "{body}");
    assert_eq!(service.made(), [""; 0], "nothing is left behind");

    drop(holder);
    assert_eq!(run(&service, request).await.ports[0].host, taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_port_is_a_free_one_until_the_range_is_used_up() {
    let service = Service::with(|config| narrow(config, 3)).await.synced().await;
    let (first, _) = service.ports.range;
    let holder = TcpListener::bind(("0.0.0.0", first)).expect("the port");
    let mut ports = BTreeSet::new();
    let with_port = |name: &str| with_port(&service, name);
    for _ in 0..2 {
        ports.insert(run(&service, with_port(&unique("dyn"))).await.ports[0].host);
    }
    assert_eq!(ports, BTreeSet::from([i32::from(first + 1), i32::from(first + 2)]));

    let last = unique("dyn");
    let made = service.made();
    let refused = service.grpc().await.run_container(with_port(&last)).await;
    assert_eq!(refused.expect_err("none is left").code(), Code::ResourceExhausted);
    let body = format!(
        "{{\"image\":\"{}\",\"names\":[\"{last}\"],\"ports\":[{{\"internal\":80}}]}}",
        image()
    );
    let (status, body) = service.rest("PUT", "/container-svc/container", &body).await;
    assert_eq!(status, 429, "{body}");
    assert_eq!(service.made(), made, "nothing is left behind");

    drop(holder);
    // A program that another test starts just now may hold a copy of it for a moment.
    eventually("the port is free", || async { TcpListener::bind(("0.0.0.0", first)).is_ok() })
        .await;
    assert_eq!(run(&service, with_port(&last)).await.ports[0].host, i32::from(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_port_that_another_takes_first_is_chosen_again_and_not_leaked() {
    let proxy = Proxy::start();
    let service = among_thieves(&proxy, 3).await;
    let name = unique("thief");
    proxy.set_for(Mode::Steal(1), "/start");
    let ran = run(&service, with_port(&service, &name)).await;
    let [stolen] = proxy.stolen()[..] else { panic!("one port was taken") };
    assert_eq!((ran.started, ran.action()), (true, pb::RunAction::Created));
    assert_ne!(host(&ran), stolen);
    assert_eq!(service.made(), std::slice::from_ref(&ran.id), "the first try is gone");
    assert_eq!(engine_names(&service), only(&name));
    let published = docker(&["port", &name, "80/tcp"]);
    assert!(published.contains(&format!(":{}", host(&ran))), "{published}");

    // Free again, it can be chosen: with two more, the range is used up.
    proxy.give_back();
    proxy.set(Mode::Pass);
    let mut ports = BTreeSet::from([host(&ran)]);
    for _ in 0..2 {
        ports.insert(host(&run(&service, with_port(&service, &unique("thief"))).await));
    }
    assert_eq!(ports.len(), 3);
    assert!(ports.contains(&stolen), "{ports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_choice_is_taken_the_caller_learns_which_and_nothing_stays() {
    let proxy = Proxy::start();
    // Five tries end before ten ports do, and three ports before five tries.
    for (range, tries, code) in [(10, 5, Code::FailedPrecondition), (3, 3, Code::ResourceExhausted)]
    {
        let service = among_thieves(&proxy, range).await;
        let name = unique("thieves");
        proxy.set_for(Mode::Steal(usize::from(range)), "/start");
        let told = refused(&service, with_port(&service, &name)).await;
        assert_eq!(told.code(), code, "{told:?}");
        let stolen = proxy.stolen();
        assert_eq!(stolen.len(), tries, "each try is another port: {stolen:?}");
        assert!(told.message().contains("port_range"), "{}", told.message());
        if code == Code::FailedPrecondition {
            for part in stolen.iter().map(u16::to_string).chain([holder()]) {
                assert!(told.message().contains(&part), "{part} in {}", told.message());
            }
        }
        assert_eq!(service.made(), [""; 0], "nothing is left behind");

        proxy.give_back();
        proxy.set(Mode::Pass);
        let all = (0..range).map(|_| run(&service, with_port(&service, &unique("thieves"))));
        let answers = futures_util::future::join_all(all).await;
        let ports: BTreeSet<u16> = answers.iter().map(host).collect();
        assert_eq!(ports.len(), usize::from(range), "no port is lost: {ports:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_asked_for_is_not_tried_again() {
    let proxy = Proxy::start();
    let service = among_thieves(&proxy, 3).await;
    let mut request = with_port(&service, &unique("asked"));
    request.ports[0].host = i32::from(service.ports.range.0);
    proxy.set_for(Mode::Steal(3), "/start");
    let told = refused(&service, request.clone()).await;
    assert_eq!(told.code(), Code::FailedPrecondition, "{told:?}");
    assert!(told.message().contains(&holder()), "{}", told.message());
    assert_eq!(proxy.stolen(), [service.ports.range.0]);
    assert_eq!(service.made(), [""; 0], "nothing is left behind");
    proxy.give_back();
    proxy.set(Mode::Pass);
    assert_eq!(host(&run(&service, request).await), service.ports.range.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_whose_port_was_taken_comes_back_with_another() {
    let service = Service::with(|config| narrow(config, 2)).await.synced().await;
    let name = unique("meanwhile");
    let first = run(&service, with_port(&service, &name)).await;
    let stop = pb::StopContainerRequest { name: name.clone(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("it stops");
    let taken = TcpListener::bind(("0.0.0.0", host(&first))).expect("it is free");

    let second = run(&service, with_port(&service, &name)).await;
    assert_eq!((second.started, second.action()), (true, pb::RunAction::Replaced));
    assert_eq!(second.differing_fields, ["ports"]);
    assert_ne!(host(&second), host(&first));
    assert_eq!(service.made(), std::slice::from_ref(&second.id));
    assert_eq!(engine_names(&service), only(&name));

    // The new one is kept from now on, and the old one is free for others.
    drop(taken);
    let again = run(&service, with_port(&service, &name)).await;
    assert_eq!((again.action(), host(&again)), (pb::RunAction::Unchanged, host(&second)));
    let other = run(&service, with_port(&service, &unique("other"))).await;
    assert_eq!(host(&other), host(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_stays_when_every_port_is_taken() {
    let service = Service::with(|config| narrow(config, 2)).await.synced().await;
    let name = unique("stays");
    let first = run(&service, with_port(&service, &name)).await;
    let stop = pb::StopContainerRequest { name: name.clone(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("it stops");
    let (least, most) = (service.ports.range.0, service.ports.range.0 + 1);
    let taken = [least, most].map(|port| TcpListener::bind(("0.0.0.0", port)).expect("it is free"));
    let told = refused(&service, with_port(&service, &name)).await;
    assert_eq!(told.code(), Code::ResourceExhausted, "{told:?}");
    assert_eq!(service.made(), std::slice::from_ref(&first.id));
    assert_eq!(engine_names(&service), only(&name));

    drop(taken);
    let again = run(&service, with_port(&service, &name)).await;
    assert_eq!((again.action(), again.id), (pb::RunAction::Started, first.id));
    assert_eq!(again.ports, first.ports);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_during_a_replacement_is_chosen_again() {
    let proxy = Proxy::start();
    let service = among_thieves(&proxy, 3).await;
    let name = unique("between");
    let first = run(&service, with_port(&service, &name)).await;
    let mut request = with_port(&service, &name);
    request.envs = vec![pb::EnvVar { key: "A".into(), value: "b".into() }];

    // All are taken: neither the successor nor the predecessor can run.
    proxy.set_for(Mode::Steal(3), "/start");
    let told = refused(&service, request.clone()).await;
    assert_eq!(told.code(), Code::ResourceExhausted, "{told:?}");
    assert!(told.message().contains("predecessor does not run"), "{}", told.message());
    assert_eq!(service.made(), std::slice::from_ref(&first.id), "the predecessor is kept");
    assert_eq!(engine_names(&service), only(&name));
    assert!(!is_running(&service, &name).await);

    // One is taken, the one that is to be kept: another is chosen.
    proxy.give_back();
    proxy.set(Mode::Pass);
    assert_eq!(host(&run(&service, with_port(&service, &name)).await), host(&first));
    proxy.set_for(Mode::Steal(1), "/start");
    let second = run(&service, request).await;
    assert_eq!(second.action(), pb::RunAction::Replaced);
    assert_eq!(second.differing_fields, ["envs"]);
    assert_eq!(proxy.stolen(), [host(&first)]);
    assert_ne!(host(&second), host(&first));
    assert_eq!(service.made(), std::slice::from_ref(&second.id));
    assert_eq!(engine_names(&service), only(&name));
}

/// How a holder in this process is named.
fn holder() -> String {
    format!("process {}", std::process::id())
}
