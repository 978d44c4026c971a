//! A disk that is full: nothing is lost while the engine keeps it (F10). On an
//! engine of its own, since the logs of other tests would fill the disk too.

use std::path::Path;

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    foreign::{Foreign, SOURCES, told},
    *,
};
use crate::{
    faults::private_engine::{Engine, TAG},
    small_disk::SmallDisk,
};

async fn serves(service: &Service, what: &str) -> ServingStatus {
    let channel = tonic::transport::Channel::from_shared(service.url.clone()).expect("a url");
    let mut health = HealthClient::new(channel.connect().await.expect("it listens"));
    let request = HealthCheckRequest { service: format!("containersvc.v1.{what}") };
    health.check(request).await.expect("known").into_inner().status()
}

async fn log_error(service: &Service) -> String {
    let (_, node) = service.get("/container-svc/node").await;
    node["node"]["logs"]["error"].as_str().unwrap_or_default().to_owned()
}

fn integrity(database: &Path) -> String {
    let db = rusqlite::Connection::open(database).expect("a database");
    db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict")
}

/// Our request, of the image that the private engine has.
fn on(request: pb::RunContainerRequest) -> pb::RunContainerRequest {
    pb::RunContainerRequest { image: TAG.into(), ..request }
}

const LINES: u64 = 30_000;

/// Prints some lines, and many when it is told to.
fn container(engine: &Engine) -> Foreign {
    Foreign::run_on(
        Some(engine.address()),
        TAG,
        &[],
        &format!(
            "seq 100; while [ ! -e /tmp/go ]; do sleep 0.05; done; \
             i=100; while [ $i -lt {LINES} ]; do i=$((i+1)); echo $i; done"
        ),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_disk_stops_only_collection_and_everything_is_back_filled() {
    let engine = Engine::start(false).await;
    for source in SOURCES {
        let disk = SmallDisk::mount();
        let database = disk.path("logs.db");
        let mut service = Service::with(|config| {
            config.engine = engine.address();
            config.logs_source = source;
            disk.hold(&config.log_database());
        })
        .await
        .synced()
        .await;
        let container = container(&engine);
        reaches(&service, &container.name, 100).await;
        eventually("LogService serves", || async {
            serves(&service, "LogService").await == ServingStatus::Serving
        })
        .await;
        disk.fill();
        container.exec("touch /tmp/go");
        container.ended().await;
        eventually("the node says that its log disk is full", || async {
            log_error(&service).await.contains("full")
        })
        .await;
        eventually("LogService does not serve", || async {
            serves(&service, "LogService").await == ServingStatus::NotServing
        })
        .await;
        assert_eq!(serves(&service, "ContainerService").await, ServingStatus::Serving);
        // Containers run as before, and what was stored is still told.
        let name = unique("full");
        let request = on(shell(&service, &name, "echo hello; exec sleep 1000"));
        let ran = service.grpc().await.run_container(request).await.expect("it runs");
        assert!(ran.into_inner().started);
        assert!(all(&service, &container.name).await.len() >= 100);

        disk.relieve();
        let lines = reaches(&service, &container.name, LINES as usize).await;
        assert_eq!(told(&lines, LINES), (LINES, 0), "{source}");
        reaches(&service, &name, 1).await;
        eventually("LogService serves again", || async {
            serves(&service, "LogService").await == ServingStatus::Serving
        })
        .await;
        assert_eq!(log_error(&service).await, "", "{source}");
        service.stop().await;
        assert_eq!(integrity(&database), "ok", "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_disk_is_full_loses_nothing() {
    let engine = Engine::start(false).await;
    let disk = SmallDisk::mount();
    let database = disk.path("logs.db");
    let mut service = Service::program(|config| {
        config.engine = engine.address();
        disk.hold(&config.log_database());
    })
    .await
    .synced()
    .await;
    let container = container(&engine);
    reaches(&service, &container.name, 100).await;
    disk.fill();
    container.exec("touch /tmp/go");
    container.ended().await;
    eventually("the node says that its log disk is full", || async {
        log_error(&service).await.contains("full")
    })
    .await;
    service.kill();
    assert_eq!(integrity(&database), "ok");
    disk.relieve();
    service.resume().await;
    let lines = reaches(&service, &container.name, LINES as usize).await;
    assert_eq!(told(&lines, LINES), (LINES, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_data_on_a_full_disk_a_run_is_done_or_refused_in_words() {
    let engine = Engine::start(false).await;
    let disk = SmallDisk::mount();
    let mut service = Service::with(|config| {
        config.engine = engine.address();
        config.data_dir = disk.path("data");
        config.token_file = disk.path("data/admin.token");
    })
    .await
    .synced()
    .await;
    let container = container(&engine);
    reaches(&service, &container.name, 100).await;
    disk.fill();
    container.exec("touch /tmp/go");
    eventually("the node says that its log disk is full", || async {
        log_error(&service).await.contains("full")
    })
    .await;
    let name = unique("full");
    let request = on(shell(&service, &name, "exec sleep 1000"));
    let refused =
        service.grpc().await.run_container(request.clone()).await.expect_err("a full disk");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("full"), "{refused:?}");

    disk.relieve();
    let lines = reaches(&service, &container.name, LINES as usize).await;
    assert_eq!(told(&lines, LINES), (LINES, 0));
    // It may have been started before the disk was full.
    service.grpc().await.run_container(request).await.expect("it runs");
    let (_, is) = service.get(&format!("/container-svc/container/is-running?name={name}")).await;
    assert_eq!(is["isRunning"], true, "{is}");
    service.stop().await;
    for file in ["data/logs.db", "data/container-svc.db"] {
        assert_eq!(integrity(&disk.path(file)), "ok", "{file}");
    }
}
