//! What containers wrote is collected once, outlives them, and is found again.

use std::collections::BTreeMap;

use container_svc::rpc::pb::{self, log_service_client::LogServiceClient};
use tokio_stream::StreamExt as _;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::support::{Service, eventually, unique};

mod clocks;
mod database;
mod disk_full;
mod engine_killed;
mod exact;
mod followers;
pub(crate) mod foreign;
mod kills;
mod list;
mod numbered;
mod rotation;
mod tail;

/// A gRPC client of the log service with the admin token.
pub(crate) async fn client(
    service: &Service,
) -> LogServiceClient<
    tonic::service::interceptor::InterceptedService<
        Channel,
        impl tonic::service::Interceptor + Clone + use<>,
    >,
> {
    let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
    over(channel.expect("it listens"), service)
}

/// The same over a connection that is there.
fn over(
    channel: Channel,
    service: &Service,
) -> LogServiceClient<
    tonic::service::interceptor::InterceptedService<
        Channel,
        impl tonic::service::Interceptor + Clone + use<>,
    >,
> {
    let bearer: MetadataValue<_> = format!("Bearer {}", service.token).parse().expect("ascii");
    let with = move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    };
    LogServiceClient::with_interceptor(channel, with).max_decoding_message_size(64 << 20)
}

/// A request that runs a shell script.
pub(crate) fn shell(service: &Service, name: &str, script: &str) -> pb::RunContainerRequest {
    pb::RunContainerRequest {
        command: vec!["sh".into(), "-c".into(), script.into()],
        ..service.request(name)
    }
}

/// Runs a script in a container.
pub(crate) async fn run(service: &Service, name: &str, script: &str) -> pb::RunContainerResponse {
    let request = shell(service, name, script);
    service.grpc().await.run_container(request).await.expect("it runs").into_inner()
}

/// All stored lines of a container, the first one first.
pub(crate) async fn all(service: &Service, name: &str) -> Vec<pb::Log> {
    pages(service, pb::ListLogsRequest { name: name.into(), ..Default::default() }).await
}

/// All stored lines of a question, in full, the first one first.
async fn pages(service: &Service, mut request: pb::ListLogsRequest) -> Vec<pb::Log> {
    let mut client = client(service).await;
    request.page_size = 10_000;
    request.order = pb::LogOrder::OldestFirst.into();
    request.view = pb::LogView::Full.into();
    let mut lines = Vec::new();
    loop {
        let page = client.list_logs(request.clone()).await.expect("a page").into_inner();
        lines.extend(page.logs);
        if page.next_page_token.is_empty() {
            return lines;
        }
        request.page_token = page.next_page_token;
    }
}

/// Waits until a container's log is known and holds so many lines.
pub(crate) async fn reaches(service: &Service, name: &str, count: usize) -> Vec<pb::Log> {
    eventually(&format!("{count} lines of {name}"), || async {
        let mut client = client(service).await;
        let request =
            pb::ListLogsRequest { name: name.into(), limit: 1, view: 2, ..Default::default() };
        match client.list_logs(request).await {
            Ok(page) => page.into_inner().logs.first().is_some_and(|last| {
                last.position.is_some_and(|position| position + 1 >= count as i64)
            }),
            Err(_) => false,
        }
    })
    .await;
    all(service, name).await
}

/// The contents, by stream.
fn contents(lines: &[pb::Log]) -> BTreeMap<i32, Vec<String>> {
    let mut by_stream: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for line in lines {
        by_stream.entry(line.stream.unwrap_or(0)).or_default().push(line.content.clone());
    }
    by_stream
}

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_are_collected_in_their_order_with_times_and_positions() {
    let service = Service::start().await.synced().await;
    let name = unique("both");
    run(
        &service,
        &name,
        "for i in $(seq 100); do echo out $i; echo err $i >&2; done; exec sleep 1000",
    )
    .await;
    let lines = reaches(&service, &name, 200).await;
    let by_stream = contents(&lines);
    let expected = |word: &str| (1..=100).map(|i| format!("{word} {i}")).collect::<Vec<_>>();
    assert_eq!(by_stream[&1], expected("out"));
    assert_eq!(by_stream[&2], expected("err"));
    let positions: Vec<i64> = lines.iter().filter_map(|line| line.position).collect();
    assert_eq!(positions, (0..200).collect::<Vec<i64>>());
    assert!(lines.iter().all(|line| line.created_at.is_some_and(|at| at.seconds > 1_700_000_000)));

    let got = service.grpc().await;
    let mut got = got;
    let request = pb::GetContainerRequest { name: name.clone(), ..Default::default() };
    let status = got.get_container(request).await.expect("there").into_inner().log.expect("a log");
    assert_eq!((status.source(), status.lines), (pb::LogSource::Files, 200));
    assert_eq!(status.error, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_outlive_their_container_and_are_found_by_id_name_and_hash() {
    let service = Service::start().await.synced().await;
    let name = unique("outlive");
    let ran = run(&service, &name, "seq 50; exec sleep 1000").await;
    reaches(&service, &name, 50).await;
    let remove =
        pb::RemoveContainerRequest { name: name.clone(), force: true, ..Default::default() };
    service.grpc().await.remove_container(remove).await.expect("removed");
    for body in [
        format!(r#"{{"containerId":"{}"}}"#, ran.id),
        format!(r#"{{"containerId":"{}"}}"#, &ran.id[..12]),
        format!(r#"{{"name":"{name}"}}"#),
        format!(r#"{{"hash":"{}"}}"#, ran.hash),
    ] {
        let (status, answer) = service.rest("POST", "/container-svc/logs", &body).await;
        assert_eq!(status, 200, "{answer}");
        let logs = answer["logs"].as_array().expect("a list");
        assert_eq!(logs.len(), 50, "{body}");
        assert_eq!(logs[0]["content"], "50", "the newest first");
        let mut keys: Vec<_> = logs[0].as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, ["containerId", "content", "createdAt", "id", "nodeId"], "strict");
    }
    let path = format!("/container-svc/container/summary?name={name}&lines=2");
    let (status, summary) = service.get(&path).await;
    assert_eq!((status, &summary["logs"]), (200, &"49\n50\n".into()), "{summary}");
    assert!(summary["status"].as_str().is_some_and(|text| text.contains("State: removed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replaced_container_wrote_is_found_under_its_name() {
    let service = Service::start().await.synced().await;
    let name = unique("replaced");
    let first = run(&service, &name, "echo first; exec sleep 1000").await;
    reaches(&service, &name, 1).await;
    let second = run(&service, &name, "echo second; exec sleep 1000").await;
    assert_ne!(first.id, second.id);
    eventually("both are there", || async { all(&service, &name).await.len() == 2 }).await;
    let contents: Vec<_> = all(&service, &name).await.into_iter().map(|log| log.content).collect();
    assert_eq!(contents, ["first", "second"]);
}
