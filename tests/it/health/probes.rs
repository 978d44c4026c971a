//! Each kind of probe, and what containers do that are slow, paused or undecided.

use pb::health_check::Probe;
use tonic_health::server::health_reporter;

use super::*;

fn check(probe: Probe) -> pb::HealthCheck {
    pb::HealthCheck {
        probe: Some(probe),
        interval: ms(100),
        retries: Some(2),
        ..Default::default()
    }
}

/// For one that is well once it listens.
fn patient(check: pb::HealthCheck) -> pb::HealthCheck {
    pb::HealthCheck { start_period: ms(20_000), ..check }
}

fn http(path: &str) -> Probe {
    Probe::Http(pb::HttpProbe { port: 80, path: path.to_owned() })
}

/// A container whose health nobody does anything about.
fn checked(
    request: pb::RunContainerRequest,
    health_check: pb::HealthCheck,
) -> pb::RunContainerRequest {
    let restart = pb::RestartOptions { on_unhealthy: Some(false), ..Default::default() };
    pb::RunContainerRequest { health_check: Some(health_check), restart: Some(restart), ..request }
}

fn httpd(service: &Service, name: &str) -> pb::RunContainerRequest {
    script(service, name, "exec httpd -f -p 80 -h /www")
}

async fn is(service: &Service, name: &str, state: pb::HealthState) -> pb::GetContainerResponse {
    eventually(&format!("{name} becomes {state:?}"), || async {
        health(service, name).await == Some(state)
    })
    .await;
    told(service, name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_tcp_are_asked_from_the_host_without_a_published_port() {
    let service = Service::start().await.synced().await;
    let (web, port) = (unique("http"), unique("tcp"));
    run(&service, checked(httpd(&service, &web), patient(check(http("/index.html"))))).await;
    let tcp = Probe::Tcp(pb::TcpProbe { port: 80 });
    run(&service, checked(httpd(&service, &port), patient(check(tcp)))).await;
    let well = is(&service, &web, pb::HealthState::Healthy).await;
    assert_eq!(well.probes[0].output, "HTTP 200 OK");
    docker(&["exec", &web, "rm", "/www/index.html"]);
    let ill = is(&service, &web, pb::HealthState::Unhealthy).await;
    assert!(ill.probes[0].output.starts_with("HTTP 404 Not Found\n"), "{:?}", ill.probes);
    assert!(ill.container.and_then(|it| it.health).expect("health").failing_streak >= 2);
    eventually("it is told", || did(&service, &web, pb::EventKind::Unhealthy)).await;
    let event = events(&service, &web).await.pop().expect("an event");
    let Some(pb::event::Detail::Unhealthy(detail)) = &event.detail else { panic!("{event:?}") };
    assert!(detail.output.starts_with("HTTP 404"), "{event:?}");

    is(&service, &port, pb::HealthState::Healthy).await;
    docker(&["exec", &port, "sh", "-c", "kill -STOP 1; true"]);
    let (status, summary) =
        service.get(&format!("/container-svc/container/summary?name={web}")).await;
    assert_eq!(status, 200);
    assert!(summary["status"].as_str().expect("text").contains("(unhealthy)"), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_is_ill_and_the_answer_says_so() {
    let service = Service::start().await.synced().await;
    let name = unique("tcp");
    let tcp = Probe::Tcp(pb::TcpProbe { port: 81 });
    run(&service, checked(httpd(&service, &name), check(tcp))).await;
    let ill = is(&service, &name, pb::HealthState::Unhealthy).await;
    assert!(ill.probes.iter().all(|probe| !probe.success), "{:?}", ill.probes);
    assert!(ill.probes[0].output.contains("takes no connection"), "{:?}", ill.probes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_run_by_the_engine_and_its_answers_are_told() {
    let service = Service::start().await.synced().await;
    let name = unique("exec");
    let exec = Probe::Exec(pb::ExecProbe { command: vec!["cat".into(), "/tmp/well".into()] });
    run(&service, checked(service.request(&name), check(exec))).await;
    let ill = is(&service, &name, pb::HealthState::Unhealthy).await;
    assert!(ill.probes[0].output.contains("/tmp/well"), "{:?}", ill.probes);
    docker(&["exec", &name, "sh", "-c", "echo fine > /tmp/well"]);
    let well = is(&service, &name, pb::HealthState::Healthy).await;
    assert_eq!((well.probes[0].output.as_str(), well.probes[0].success), ("fine", true));
    eventually("it is written down", || did(&service, &name, pb::EventKind::Healthy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_is_asked_with_the_name_of_a_service() {
    let service = Service::start().await.synced().await;
    // A real server in this process; the container hands connections on to it.
    let (reporter, server) = health_reporter();
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serving = tonic::transport::Server::builder().add_service(server);
    #[expect(clippy::disallowed_methods, reason = "the test owns the server")]
    let serving = tokio::spawn(serving.serve_with_incoming(incoming));
    let (status, host) = service.get("/container-svc/host").await;
    assert_eq!(status, 200);
    let gateway = host["host"].as_str().expect("an address");

    let name = unique("grpc");
    let relay = script(&service, &name, &format!("exec nc -ll -p 50051 -e nc {gateway} {port}"));
    let probe = Probe::Grpc(pb::GrpcProbe { port: 50_051, service: "my.Service".into() });
    run(&service, checked(relay, check(probe))).await;
    is(&service, &name, pb::HealthState::Unhealthy).await;
    eventually("it says that there is no such service", || async {
        told(&service, &name).await.probes[0].output.contains("NotFound")
    })
    .await;
    reporter.set_service_status("my.Service", tonic_health::ServingStatus::NotServing).await;
    eventually("it says that it does not serve", || async {
        told(&service, &name).await.probes[0].output == "NOT_SERVING"
    })
    .await;
    reporter.set_service_status("my.Service", tonic_health::ServingStatus::Serving).await;
    let well = is(&service, &name, pb::HealthState::Healthy).await;
    assert_eq!(well.probes[0].output, "SERVING");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_an_image_counts_unless_it_is_disabled_or_replaced() {
    let service = Service::start().await.synced().await;
    let tag = format!("{}:1", unique("checked"));
    let made = docker(&["create", image(), "sleep", "1000"]);
    let change = "HEALTHCHECK --interval=200ms --retries=1 CMD cat /tmp/well";
    docker(&["commit", "--change", change, &made, &tag]);
    docker(&["rm", &made]);
    let with = |name: &str| pb::RunContainerRequest { image: tag.clone(), ..service.request(name) };
    let (own, off, other) = (unique("own"), unique("off"), unique("other"));
    run(&service, with(&own)).await;
    let disabled = pb::HealthCheck { disabled: true, ..Default::default() };
    run(&service, pb::RunContainerRequest { health_check: Some(disabled), ..with(&off) }).await;
    let mut replaced = httpd(&service, &other);
    replaced.image = tag.clone();
    run(&service, checked(replaced, check(http("/")))).await;
    let ill = is(&service, &own, pb::HealthState::Unhealthy).await;
    let restart = ill.container.and_then(|it| it.restart).expect("one of ours");
    assert_eq!(restart.state(), pb::RestartState::Watching, "nobody asked for more");
    is(&service, &other, pb::HealthState::Healthy).await;
    let test = docker(&["inspect", "-f", "{{.Config.Healthcheck.Test}}", &other]);
    assert_eq!(test, "[NONE]", "the engine does not ask too");
    assert_eq!(container(&service, &off).await.health, None);
    docker(&["exec", &own, "touch", "/tmp/well"]);
    is(&service, &own, pb::HealthState::Healthy).await;
    let found = service.made();
    let mut args = vec!["rm", "-f"];
    args.extend(found.iter().map(String::as_str));
    docker(&args);
    docker(&["rmi", &tag]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_the_start_period_do_not_count() {
    let service = Service::start().await.synced().await;
    let name = unique("start");
    let tcp = Probe::Tcp(pb::TcpProbe { port: 81 });
    let slow = pb::HealthCheck { start_period: ms(1500), retries: Some(1), ..check(tcp) };
    run(&service, checked(service.request(&name), slow)).await;
    let ill = is(&service, &name, pb::HealthState::Unhealthy).await;
    let container = ill.container.expect("a container");
    let since = time(container.health.expect("health").since);
    let after = since.duration_since(time(container.started_at));
    assert!(after.as_millis() >= 1500, "{after:?}");
    assert!(ill.probes.len() > 3, "it was asked before, too: {:?}", ill.probes);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_that_are_slower_than_their_interval_never_overlap() {
    let service = Service::start().await.synced().await;
    let name = unique("slow");
    // It takes connections and says nothing.
    let silent = script(&service, &name, "exec nc -ll -p 80 -e sleep 1000");
    let slow = pb::HealthCheck { timeout: ms(350), ..check(http("/")) };
    run(&service, checked(silent, slow)).await;
    // Once it listens.
    let answers = async || {
        let mut probes = told(&service, &name).await.probes;
        probes.retain(|probe| !probe.output.contains("takes no connection"));
        probes
    };
    eventually("it was asked often", || async { answers().await.len() >= 5 }).await;
    let mut probes = answers().await;
    probes.reverse();
    for pair in probes.windows(2) {
        let took = pair[0].took.expect("a duration");
        let took = Duration::try_from(took).expect("a duration");
        assert!(took >= Duration::from_millis(350), "{probes:?}");
        assert!(time(pair[1].at) >= time(pair[0].at) + took, "they overlap: {probes:?}");
        assert!(pair[1].output.contains("within 350ms"), "{probes:?}");
    }
    assert_eq!(health(&service, &name).await, Some(pb::HealthState::Unhealthy));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_paused_is_not_asked_and_stays_as_it_was() {
    let service = Service::start().await.synced().await;
    let name = unique("paused");
    let often = pb::HealthCheck { timeout: ms(500), retries: Some(4), ..check(http("/")) };
    run(
        &service,
        pb::RunContainerRequest { health_check: Some(patient(often)), ..httpd(&service, &name) },
    )
    .await;
    is(&service, &name, pb::HealthState::Healthy).await;
    docker(&["pause", &name]);
    eventually("the pause is seen", || async {
        container(&service, &name).await.state() == pb::ContainerState::Paused
    })
    .await;
    let newest = || async { told(&service, &name).await.probes[0].at };
    let before = newest().await;
    let end = Timestamp::now() + Duration::from_secs(1);
    holds_until(end, || async {
        newest().await == before && health(&service, &name).await == Some(pb::HealthState::Healthy)
    })
    .await;
    docker(&["unpause", &name]);
    eventually("it is asked again", || async { newest().await != before }).await;
    assert_eq!(health(&service, &name).await, Some(pb::HealthState::Healthy));
    assert!(!did(&service, &name, pb::EventKind::Unhealthy).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_decide_is_not_ill() {
    let service = Service::start().await.synced().await;
    let name = unique("flaps");
    let flap = "#!/bin/sh\nif [ -f /tmp/ill ]; then rm /tmp/ill; s=500; else touch /tmp/ill; s=200; fi\n\
                printf \"Status: $s\\r\\nContent-Type: text/plain\\r\\n\\r\\n\"";
    let server = script(
        &service,
        &name,
        "printf '%s' \"$FLAP\" > /www/cgi-bin/env; exec httpd -f -p 80 -h /www",
    );
    let request = pb::RunContainerRequest {
        envs: vec![pb::EnvVar { key: "FLAP".into(), value: flap.into() }],
        ..checked(server, patient(check(http("/cgi-bin/env"))))
    };
    run(&service, request).await;
    eventually("both were answered, often", || async {
        let probes = told(&service, &name).await.probes;
        probes.len() == 10 && probes.iter().filter(|probe| probe.success).count() == 5
    })
    .await;
    let now = told(&service, &name).await;
    for pair in now.probes.windows(2) {
        assert_ne!(pair[0].success, pair[1].success, "{:?}", now.probes);
    }
    assert_eq!(health(&service, &name).await, Some(pb::HealthState::Healthy));
    assert!(!did(&service, &name, pb::EventKind::Unhealthy).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_outlives_the_service() {
    let mut service = Service::start().await.synced().await;
    let name = unique("known");
    let rare =
        pb::HealthCheck { interval: ms(3_600_000), retries: Some(1), ..check(http("/none")) };
    run(&service, checked(httpd(&service, &name), rare)).await;
    let before = is(&service, &name, pb::HealthState::Unhealthy).await;
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    let after = is(&service, &name, pb::HealthState::Unhealthy).await;
    let since = |told: &pb::GetContainerResponse| {
        told.container.as_ref().and_then(|it| it.health).expect("health").since
    };
    assert_eq!(since(&after), since(&before));
    assert!(after.probes.contains(&before.probes[0]), "{:?}", after.probes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_found_while_the_service_was_away_is_told_once() {
    let mut service = Service::start().await.synced().await;
    let name = unique("away");
    let command = ["cat", "/tmp/well"].map(str::to_owned).to_vec();
    let exec = || {
        let probe = Probe::Exec(pb::ExecProbe { command: command.clone() });
        pb::HealthCheck { interval: ms(1000), retries: Some(1), ..check(probe) }
    };
    run(&service, checked(service.request(&name), exec())).await;
    let tells = async |service: &Service| {
        let mut told = kinds(service, &name).await;
        told.retain(|kind| matches!(kind, pb::EventKind::Healthy | pb::EventKind::Unhealthy));
        told
    };
    eventually("it is ill", || did(&service, &name, pb::EventKind::Unhealthy)).await;
    for (change, now) in [("touch", pb::EventKind::Healthy), ("rm", pb::EventKind::Unhealthy)] {
        let before = tells(&service).await;
        service.stop().await;
        docker(&["exec", &name, change, "/tmp/well"]);
        let word = if change == "rm" { "unhealthy" } else { "healthy" };
        eventually("the engine sees it", || async {
            docker(&["inspect", "-f", "{{.State.Health.Status}}", &name]) == word
        })
        .await;
        service.resume().await;
        service = service.synced().await;
        eventually("it is told", || async { tells(&service).await.len() > before.len() }).await;
        assert_eq!(tells(&service).await, [before, vec![now]].concat());
    }
    // What ended is ill to the engine, and to nobody else.
    let found = told(&service, &name).await.probes;
    let before = tells(&service).await;
    stop(&service, &name).await;
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    run(&service, checked(service.request(&name), exec())).await;
    eventually("it is ill again", || async { tells(&service).await.len() > before.len() }).await;
    assert_eq!(tells(&service).await, [before, vec![pb::EventKind::Unhealthy]].concat());
    // The engine forgets what it found in the run before.
    let now = told(&service, &name).await;
    assert!(now.container.and_then(|it| it.health).expect("health").since.is_some());
    assert!(now.probes.contains(&found[0]), "{found:?}: {:?}", now.probes);
}
