//! What goes wrong around the service, and what holds nevertheless.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use container_svc::rpc::pb;
use serde_json::Value;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    proxy::{self, Mode, Proxy},
    support::{DEADLINE, Service, docker, eventually, image, unique},
};

mod endings;
mod failpoints;
mod interleavings;
mod ports;
pub(crate) mod private_engine;
mod recovery;
mod steps;

/// How soon the service must be well again once an engine is that only it uses.
pub(crate) const RECOVERY: Duration = Duration::from_secs(5);

async fn health(service: &Service) -> ServingStatus {
    let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
    let mut client = HealthClient::new(channel.expect("it listens"));
    let request = HealthCheckRequest { service: "containersvc.v1.ContainerService".into() };
    client
        .check(request)
        .await
        .map_or(ServingStatus::Unknown, |answer| answer.into_inner().status())
}

pub(crate) async fn becomes(service: &Service, wanted: ServingStatus) -> Duration {
    let begin = Instant::now();
    eventually("the health changes", || async { health(service).await == wanted }).await;
    begin.elapsed()
}

async fn behind(proxy: &Proxy) -> Service {
    Service::with(|config| config.engine = proxy.address()).await.synced().await
}

async fn run(service: &Service, request: pb::RunContainerRequest) -> pb::RunContainerResponse {
    let answer = service.grpc().await.run_container(request).await;
    answer.expect("the container runs").into_inner()
}

async fn named(service: &Service, name: &str) -> (u16, Value) {
    service.get(&format!("/container-svc/container?name={name}")).await
}

async fn is_running(service: &Service, name: &str) -> bool {
    let (_, body) = service.get(&format!("/container-svc/container/is-running?name={name}")).await;
    body["isRunning"] == true
}

fn port(internal: i32, host: i32) -> pb::PortMapping {
    pb::PortMapping { internal, host, ..Default::default() }
}

/// Names of all containers of the service, by the engine.
fn engine_names(service: &Service) -> BTreeSet<String> {
    let label = format!("label=container-svc.node={}", service.node);
    let names = docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
    names.lines().map(str::to_owned).collect()
}

fn only(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

/// A container that is not the service's; removed when dropped.
struct Foreign(String);

impl Foreign {
    fn create(name: &str) -> Self {
        let id = docker(&["create", "--name", name, image(), "true"]);
        assert_eq!(id.len(), 64, "{id}");
        Self(id)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_it_starts_and_says_what_is_missing() {
    let service = Service::with(|config| config.engine = "unix:///nonexistent".into()).await;
    eventually("the engine was tried", || async {
        let (_, body) = service.get("/container-svc/node").await;
        body["node"]["engine"]["error"].is_string()
    })
    .await;
    let (status, body) = named(&service, "nobody").await;
    assert_eq!(status, 503, "{body}");
    assert!(body["error"].as_str().is_some_and(|e| e.contains("unix:///nonexistent")), "{body}");
    let list = service.rest("POST", "/container-svc/containers", "{\"name\":\"nobody\"}").await;
    assert_eq!(list.0, 503, "{}", list.1);

    let (status, body) = service.get("/container-svc/daemon/info").await;
    assert_eq!((status, &body["available"]), (200, &Value::Bool(false)), "{body}");
    assert!(body["error"].as_str().is_some_and(|e| e.contains("cannot be reached")), "{body}");
    assert_eq!(health(&service).await, ServingStatus::NotServing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_and_returns_is_served_again() {
    let proxy = Proxy::start();
    let service = behind(&proxy).await;
    let (kept, stopped) = (unique("kept"), unique("stopped"));
    run(&service, service.request(&kept)).await;
    let id = run(&service, service.request(&stopped)).await.id;
    becomes(&service, ServingStatus::Serving).await;

    proxy.set(Mode::Refuse);
    becomes(&service, ServingStatus::NotServing).await;
    assert!(is_running(&service, &kept).await, "reads come from memory");
    let failed = service.grpc().await.run_container(service.request(&unique("x"))).await;
    assert_eq!(failed.expect_err("no engine").code(), Code::Unavailable);
    docker(&["kill", &id]);
    let foreign = unique("foreign");
    let _foreign = Foreign::create(&foreign);

    proxy.set(Mode::Pass);
    becomes(&service, ServingStatus::Serving).await;
    assert!(is_running(&service, &kept).await);
    assert!(!is_running(&service, &stopped).await, "its end was missed");
    assert_eq!(named(&service, &foreign).await.0, 200, "a new one was missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_hangs_ends_at_its_deadline_and_harms_no_other() {
    let proxy = Proxy::start();
    let service = Service::with(|config| {
        proxy.under(config);
        // Longer than a busy machine takes for a read.
        config.engine_timeout = Duration::from_secs(5);
    });
    let service = service.await.synced().await;
    let (well, ill) = (unique("well"), unique("ill"));
    run(&service, service.request(&well)).await;

    for question in [format!("/containers/{ill}/json"), format!("/containers/create?name={ill}")] {
        proxy.set_for(Mode::HangAfterHeaders, &question);
        let body = format!("{{\"image\":\"{}\",\"names\":[\"{ill}\"]}}", image());
        let begin = Instant::now();
        let ended = AtomicBool::new(false);
        let asked = async {
            let answer = service.rest("PUT", "/container-svc/container", &body).await;
            ended.store(true, Ordering::Relaxed);
            answer
        };
        let read = async {
            proxy.met().await;
            assert!(is_running(&service, &well).await);
            assert!(!ended.load(Ordering::Relaxed), "a read waited");
        };
        let ((status, body), ()) = tokio::join!(asked, read);
        assert_eq!(status, 503, "{question}: {body}");
        // A creation is given four times as long.
        assert!(begin.elapsed() < DEADLINE * 2, "{question}: {:?}", begin.elapsed());
    }
    proxy.set(Mode::Pass);
    run(&service, service.request(&ill)).await;
    assert_eq!(engine_names(&service), BTreeSet::from([well, ill]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_says_amiss_is_an_error_and_soon_forgotten() {
    let proxy = Proxy::start();
    let service = behind(&proxy).await;
    let name = unique("odd");
    for mode in [Mode::Garbage, Mode::Truncate, Mode::Status500, Mode::HalfClose] {
        for question in [
            format!("/containers/{name}/json"),
            "/images/".to_owned(),
            format!("/containers/create?name={name}"),
            "/start".to_owned(),
            String::new(),
        ] {
            // An answer without a body cannot be garbled.
            if question == "/start" && matches!(mode, Mode::Garbage | Mode::Truncate) {
                continue;
            }
            proxy.set_for(mode, &question);
            let failed = service.grpc().await.run_container(service.request(&name)).await;
            if let Err(status) = &failed {
                let codes = [Code::Unavailable, Code::FailedPrecondition, Code::NotFound];
                assert!(codes.contains(&status.code()), "{mode:?} {question}: {status:?}");
            }
            proxy.set(Mode::Pass);
            eventually("it works again", || async {
                service.grpc().await.run_container(service.request(&name)).await.is_ok()
            })
            .await;
            assert!(is_running(&service, &name).await, "{mode:?} {question}");
            assert_eq!(engine_names(&service), only(&name), "{mode:?} {question}");
            let remove = format!("/container-svc/container?name={name}&force=true");
            let (status, body) = service.rest("DELETE", &remove, "").await;
            assert_eq!(status, 200, "{mode:?} {question}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_runs_of_one_description_make_one_container() {
    let service = Service::start().await.synced().await;
    let name = unique("one");
    let calls = (0..100).map(|_| run(&service, service.request(&name)));
    let answers = futures_util::future::join_all(calls).await;
    let count = |action| answers.iter().filter(|answer| answer.action() == action).count();
    assert_eq!(count(pb::RunAction::Created), 1);
    assert_eq!(count(pb::RunAction::Unchanged), 99);
    assert_eq!(answers.iter().filter(|answer| answer.started).count(), 1);
    assert_eq!(service.made(), [answers[0].id.clone()]);
    assert_eq!(engine_names(&service), only(&name));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_descriptions_at_once_make_ten_containers() {
    let service = Service::start().await.synced().await;
    let names: BTreeSet<String> = (0..10).map(|_| unique("ten")).collect();
    let calls = names.iter().map(|name| {
        let mut request = service.request(name);
        request.ports = vec![port(80, 0)];
        run(&service, request)
    });
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.action() == pb::RunAction::Created));
    let ports: BTreeSet<i32> = answers.iter().map(|answer| answer.ports[0].host).collect();
    assert_eq!(ports.len(), 10, "each has a port of its own: {ports:?}");
    assert_eq!(engine_names(&service), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_events_than_the_engine_remembers_are_made_good_after_a_gap() {
    let proxy = Proxy::start();
    let service = behind(&proxy).await;
    let (first, lost) = (unique("first"), unique("lost"));
    let (renamed, gone) = (Foreign::create(&first), Foreign::create(&lost));
    eventually("both are seen", || async {
        named(&service, &first).await.0 == 200 && named(&service, &lost).await.0 == 200
    })
    .await;

    proxy.set(Mode::Refuse);
    becomes(&service, ServingStatus::NotServing).await;
    drop(gone);
    for round in 0..300 {
        let path = format!("/containers/{}/rename?name={first}-{round}", renamed.0);
        assert_eq!(proxy::engine("POST", &path).await, 204);
    }

    proxy.set(Mode::Pass);
    becomes(&service, ServingStatus::Serving).await;
    // Once it says that it is well, it tells the truth.
    assert_eq!(named(&service, &format!("{first}-299")).await.0, 200);
    for old in [first.clone(), format!("{first}-0"), lost] {
        assert_eq!(named(&service, &old).await.0, 404, "{old}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_engine_is_listed_is_seen() {
    let proxy = Proxy::start();
    // The listing is made, and held back while the node changes.
    proxy.set_for(Mode::Hold, "/containers/json");
    let held = proxy.met();
    let service = Service::with(|config| {
        proxy.under(config);
        config.engine_timeout = DEADLINE;
    });
    let (service, ()) = tokio::join!(service, held);
    let name = unique("between");
    let _foreign = Foreign::create(&name);
    proxy.set(Mode::Pass);
    let service = service.synced().await;
    eventually("it is seen", || async { named(&service, &name).await.0 == 200 }).await;
}
