//! Containers that come back when they end, and are asked whether they are well (F18).

use std::{future::Future, sync::OnceLock, time::Duration};

use container_svc::rpc::pb::{self, event_service_client::EventServiceClient};
use jiff::Timestamp;
use tonic::{metadata::MetadataValue, transport::Channel};

use crate::support::{DEADLINE, Service, docker, eventually, image, unique};

mod bad;
mod clocks;
mod crowds;
mod engines;
mod hanging;
mod hangs;
mod late;
mod probes;
mod restarts;
mod stops;
mod unhealthy;

fn ms(millis: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(millis).try_into().ok()
}

fn time(at: Option<prost_types::Timestamp>) -> Timestamp {
    let at = at.expect("a time");
    Timestamp::new(at.seconds, at.nanos).expect("a time")
}

/// Restarts with short waits, so that tests need not wait long.
fn quick(least: u64, most: u64, max_restarts: i32) -> Option<pb::RestartOptions> {
    Some(pb::RestartOptions {
        min_backoff: ms(least),
        max_backoff: ms(most),
        max_restarts: Some(max_restarts),
        ..Default::default()
    })
}

/// A container that runs a script.
fn script(service: &Service, name: &str, script: &str) -> pb::RunContainerRequest {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    pb::RunContainerRequest { command, ..service.request(name) }
}

async fn run(service: &Service, request: pb::RunContainerRequest) -> pb::RunContainerResponse {
    service.grpc().await.run_container(request).await.expect("it runs").into_inner()
}

async fn stop(service: &Service, name: &str) {
    let request = pb::StopContainerRequest { name: name.to_owned(), ..Default::default() };
    service.grpc().await.stop_container(request).await.expect("it is stopped");
}

async fn told(service: &Service, name: &str) -> pb::GetContainerResponse {
    let request = pb::GetContainerRequest { name: name.to_owned(), ..Default::default() };
    service.grpc().await.get_container(request).await.expect("it is there").into_inner()
}

async fn container(service: &Service, name: &str) -> pb::Container {
    told(service, name).await.container.expect("a container")
}

async fn restart(service: &Service, name: &str) -> pb::RestartStatus {
    container(service, name).await.restart.expect("one of ours")
}

async fn runs(service: &Service, name: &str) -> bool {
    container(service, name).await.state() == pb::ContainerState::Running
}

async fn health(service: &Service, name: &str) -> Option<pb::HealthState> {
    container(service, name).await.health.map(|health| health.state())
}

/// What happened, oldest first.
async fn events(service: &Service, name: &str) -> Vec<pb::Event> {
    let bearer: MetadataValue<_> = format!("Bearer {}", service.token).parse().expect("ascii");
    let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
    let mut client = EventServiceClient::new(channel.expect("it listens"));
    let mut request = tonic::Request::new(pb::ListEventsRequest {
        name: name.to_owned(),
        page_size: 1000,
        order: pb::EventOrder::OldestFirst.into(),
        ..Default::default()
    });
    request.metadata_mut().insert("authorization", bearer);
    client.list_events(request).await.expect("events").into_inner().events
}

/// Their kinds.
async fn kinds(service: &Service, name: &str) -> Vec<pb::EventKind> {
    events(service, name).await.iter().map(pb::Event::kind).collect()
}

async fn did(service: &Service, name: &str, kind: pb::EventKind) -> bool {
    kinds(service, name).await.contains(&kind)
}

/// Waits for a state and answers with what was told then: it may pass soon.
async fn becomes(service: &Service, name: &str, state: pb::RestartState) -> pb::RestartStatus {
    let found = OnceLock::new();
    eventually(&format!("{name} becomes {state:?}"), || async {
        let now = restart(service, name).await;
        now.state() == state && found.set(now).is_ok()
    })
    .await;
    found.into_inner().expect("it was seen")
}

/// How often the engine started it.
fn starts(name: &str) -> usize {
    docker(&["logs", name]).lines().filter(|line| *line == "start").count()
}

/// Looks all the time until a moment has passed, and fails when it does not hold.
async fn holds_until<F: Future<Output = bool>>(end: Timestamp, mut holds: impl FnMut() -> F) {
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let late = std::time::Instant::now() + DEADLINE;
    while Timestamp::now() < end {
        assert!(std::time::Instant::now() < late, "the end is too far away");
        ticks.tick().await;
        assert!(holds().await, "it held, and does not any more");
    }
}
