//! What happened is told once, in order, and outlives the service.

use container_svc::rpc::pb::{self, event_service_client::EventServiceClient};
use futures_util::StreamExt as _;
use tonic::{Code, Request, transport::Channel};

use crate::{
    proxy::{Mode, Proxy},
    support::{DEADLINE, Service, docker, eventually, image, unique},
};

mod cli;
mod deaths;
mod held;
mod pulled;
mod started;

type Events = Vec<pb::Event>;

/// The service's events of one name, the oldest first.
async fn of(service: &Service, name: &str) -> Events {
    let request = pb::ListEventsRequest {
        name: name.to_owned(),
        order: pb::EventOrder::OldestFirst.into(),
        ..Default::default()
    };
    list(service, request).await.events
}

async fn client(service: &Service) -> EventServiceClient<Channel> {
    EventServiceClient::connect(service.url.clone()).await.expect("it listens")
}

fn bearing<T>(service: &Service, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", service.token).parse().expect("ascii");
    request.metadata_mut().insert("authorization", bearer);
    request
}

async fn list(service: &Service, request: pb::ListEventsRequest) -> pb::ListEventsResponse {
    let answer = client(service).await.list_events(bearing(service, request)).await;
    answer.expect("a page").into_inner()
}

async fn watch(
    service: &Service,
    request: pb::WatchEventsRequest,
) -> tonic::Streaming<pb::WatchEventsResponse> {
    let answer = client(service).await.watch_events(bearing(service, request)).await;
    answer.expect("a stream").into_inner()
}

/// Events of a stream until there are so many, and the last cursor.
async fn take(
    stream: &mut tonic::Streaming<pb::WatchEventsResponse>,
    count: usize,
) -> (Events, String) {
    let (mut events, mut cursor) = (Vec::new(), String::new());
    let read = async {
        while events.len() < count {
            let message = stream.next().await.expect("more").expect("a message");
            events.extend(message.event);
            cursor = message.cursor;
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("in time");
    (events, cursor)
}

fn kinds(events: &Events) -> Vec<pb::EventKind> {
    events.iter().map(pb::Event::kind).collect()
}

/// Those that are not of the end of a run, which comes when it comes.
fn deeds(events: Events) -> Events {
    events.into_iter().filter(|event| event.kind() != pb::EventKind::Died).collect()
}

async fn run(service: &Service, request: pb::RunContainerRequest) -> String {
    service.grpc().await.run_container(request).await.expect("it runs").into_inner().id
}

async fn stop(service: &Service, name: &str) {
    let request = pb::StopContainerRequest { name: name.to_owned(), ..Default::default() };
    service.grpc().await.stop_container(request).await.expect("it stops");
}

async fn remove(service: &Service, name: &str) {
    let name = name.to_owned();
    let request = pb::RemoveContainerRequest { name, force: true, ..Default::default() };
    service.grpc().await.remove_container(request).await.expect("it goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_told_in_order_with_reasons() {
    use pb::EventKind as Kind;
    let service = Service::start().await.synced().await;
    let name = unique("life");
    let mut request = service.request(&name);
    request.names.push(format!("{name}-alias"));
    request.keeps = vec![pb::Keep { path: "/data".into(), read_only: None }];
    let first = run(&service, request.clone()).await;
    request.envs = vec![pb::EnvVar { key: "A".into(), value: "1".into() }];
    let second = run(&service, request.clone()).await;
    stop(&service, &name).await;
    stop(&service, &name).await;
    run(&service, request).await;
    remove(&service, &name).await;
    let path = format!("/container-svc/keep?name={name}&path=/data");
    assert_eq!(service.rest("DELETE", &path, "").await.0, 200);

    let events = deeds(of(&service, &name).await);
    let told = [
        Kind::KeepCreated,
        Kind::Created,
        Kind::Replaced,
        Kind::Stopped,
        Kind::Started,
        Kind::Removed,
        Kind::KeepRemoved,
    ];
    assert_eq!(kinds(&events), told);
    let replaced = &events[2];
    assert_eq!((&replaced.container_id, &replaced.node_id), (&second, &service.node));
    assert_eq!(replaced.message, "replaced: envs");
    let detail =
        pb::ReplacedDetail { differing_fields: vec!["envs".into()], predecessor_id: first };
    assert_eq!(replaced.detail, Some(pb::event::Detail::Replaced(detail)));
    assert_eq!(replaced.image, image());
    assert!(replaced.hash.starts_with("v1:"), "{replaced:?}");
    let removed = pb::event::Detail::Removed(pb::RemovedDetail { by_service: true });
    assert_eq!(events[5].detail, Some(removed));
    let aliased = deeds(of(&service, &format!("{name}-alias")).await);
    let of_container = aliased.iter().all(|event| !event.container_id.is_empty());
    assert!(aliased.len() == 5 && of_container, "keeps belong to the name alone: {aliased:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_cursors_outlive_the_service() {
    let mut service = Service::start().await.synced().await;
    let name = unique("again");
    run(&service, service.request(&name)).await;
    let before = of(&service, &name).await;
    let from_the_first = pb::WatchEventsRequest {
        name: name.clone(),
        cursor: before[0].id.clone(),
        ..Default::default()
    };
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    assert_eq!(of(&service, &name).await, before);
    stop(&service, &name).await;
    let mut stream = watch(&service, from_the_first).await;
    let (after, _) = take(&mut stream, 2).await;
    let mut told = kinds(&after);
    told.sort_unstable();
    assert_eq!(told, [pb::EventKind::Stopped, pb::EventKind::Died], "and not the first again");
    let (_, body) = service.get(&format!("/container-svc/container?name={name}")).await;
    let history: Vec<_> =
        body["history"].as_array().expect("a list").iter().map(|one| &one["action"]).collect();
    assert_eq!(history, ["stopped", "created"], "what was done, without the end: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_live_events_come_without_a_seam() {
    let service = Service::start().await.synced().await;
    let name = unique("seam");
    let request = pb::WatchEventsRequest {
        name: name.clone(),
        since: Some(prost_types::Timestamp::default()),
        kinds: vec![pb::EventKind::Created.into(), pb::EventKind::Removed.into()],
        heartbeat: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    run(&service, service.request(&name)).await;
    let mut stream = watch(&service, request.clone()).await;
    let (first, _) = take(&mut stream, 1).await;
    let caught_up = stream.next().await.expect("more").expect("a message");
    assert_eq!(caught_up.r#type(), pb::EventMessageType::CaughtUp);
    let heartbeat = tokio::time::timeout(DEADLINE, stream.next()).await.expect("a sign of life");
    let heartbeat = heartbeat.expect("more").expect("a message");
    assert_eq!(heartbeat.r#type(), pb::EventMessageType::Heartbeat);
    remove(&service, &name).await;
    let (second, cursor) = take(&mut stream, 1).await;
    assert_eq!(kinds(&first), [pb::EventKind::Created]);
    assert_eq!(kinds(&second), [pb::EventKind::Removed]);

    let resumed =
        pb::WatchEventsRequest { since: None, cursor, no_follow: true, ..request.clone() };
    let mut stream = watch(&service, resumed).await;
    let only = stream.next().await.expect("more").expect("a message");
    assert_eq!(only.r#type(), pb::EventMessageType::CaughtUp, "nothing comes twice");
    assert!(stream.next().await.is_none(), "it ends");
    let last = pb::WatchEventsRequest { since: None, last: Some(1), no_follow: true, ..request };
    let (last, _) = take(&mut watch(&service, last).await, 1).await;
    assert_eq!(last, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_both_ways_and_their_tokens_belong_to_their_query() {
    let service = Service::start().await.synced().await;
    let name = unique("pages");
    for turn in 0..4 {
        let mut request = service.request(&name);
        request.envs = vec![pb::EnvVar { key: "TURN".into(), value: turn.to_string() }];
        run(&service, request).await;
    }
    let whole = deeds(of(&service, &name).await);
    let mut request = pb::ListEventsRequest {
        name: name.clone(),
        kinds: vec![pb::EventKind::Created.into(), pb::EventKind::Replaced.into()],
        page_size: 3,
        ..Default::default()
    };
    for order in [pb::EventOrder::NewestFirst, pb::EventOrder::OldestFirst] {
        request.order = order.into();
        request.page_token = String::new();
        let first = list(&service, request.clone()).await;
        request.page_token = first.next_page_token;
        let second = list(&service, request.clone()).await;
        assert_eq!((first.events.len(), second.events.len()), (3, 1));
        assert_eq!(second.next_page_token, "");
        let mut all: Events = first.events.into_iter().chain(second.events).collect();
        if order == pb::EventOrder::NewestFirst {
            all.reverse();
        }
        assert_eq!(all, whole);
    }
    request.kinds.pop();
    let refused = client(&service).await.list_events(bearing(&service, request)).await;
    assert_eq!(refused.expect_err("of another query").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_told_apart() {
    let service = Service::start().await;
    for (body, part) in [
        (r#"{"pageSize":1001}"#, "pageSize"),
        (r#"{"pageSize":-1}"#, "pageSize"),
        (r#"{"pageToken":"AAAA"}"#, "pageToken"),
        (r#"{"kinds":["EVENT_KIND_UNSPECIFIED"]}"#, "kinds[0]"),
        (r#"{"kinds":[1,99]}"#, "kinds[1]"),
        (r#"{"containerId":"abc"}"#, "containerId"),
        (r#"{"since":"2026-01-02T00:00:00Z","until":"2026-01-01T00:00:00Z"}"#, "until"),
        (r#"{"since":"0001-01-01T00:00:00Z"}"#, "since"),
    ] {
        let (status, answer) = service.rest("POST", "/container-svc/events", body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(part), "{body}: {status} {answer}");
    }
    for query in [
        "cursor=nonsense",
        "cursor=1-1",
        "last=1001",
        "last=-1",
        "heartbeat=0s",
        "last=1&since=2026-01-01T00:00:00Z",
        "kinds=99",
        "kinds=EVENT_KIND_UNSPECIFIED",
        "containerId=a",
    ] {
        let path = format!("/container-svc/events/watch?{query}&noFollow=true");
        let (status, answer) = service.get(&path).await;
        assert_eq!(status, 400, "{query}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_tells_the_same_and_streams() {
    let service = Service::start().await.synced().await;
    let name = unique("rest");
    run(&service, service.request(&name)).await;
    let body = format!(r#"{{"name":"{name}","kinds":["EVENT_KIND_CREATED"]}}"#);
    let (status, page) = service.rest("POST", "/container-svc/events", &body).await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["events"][0]["kind"], "EVENT_KIND_CREATED");
    assert_eq!(page["events"][0]["message"], "created");
    let path =
        format!("/container-svc/events/watch?name={name}&since=1970-01-01T00:00:00Z&noFollow=true");
    let (status, _, lines) = service.raw("GET", &path, "", &[]).await;
    assert_eq!(status, 200, "{lines}");
    let first: serde_json::Value =
        serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["result"]["event"], page["events"][0]);
    let other = r#"{"nodeId":"another"}"#;
    let (status, page) = service.rest("POST", "/container-svc/events", other).await;
    assert_eq!((status, page["events"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_are_taken_and_a_late_reader_learns_how_many() {
    let service = Service::with(|config| config.events_max_count = 3).await.synced().await;
    let name = unique("taken");
    run(&service, service.request(&name)).await;
    let all = || list(&service, pb::ListEventsRequest::default());
    // The newest now, of whomever: what other tests end is told too.
    let first = all().await.events.remove(0);
    for _ in 0..4 {
        stop(&service, &name).await;
        run(&service, service.request(&name)).await;
    }
    eventually("the oldest are taken", || async { all().await.events.len() <= 3 }).await;
    let late = pb::WatchEventsRequest { cursor: first.id, no_follow: true, ..Default::default() };
    let message = watch(&service, late).await.next().await.expect("more").expect("a message");
    assert_eq!(message.r#type(), pb::EventMessageType::Missed);
    assert!(message.missed() >= 5, "{message:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_costs_nothing_and_misses_nothing() {
    let service = Service::start().await.synced().await;
    let name = unique("slow");
    let request = pb::WatchEventsRequest { name: name.clone(), ..Default::default() };
    let mut slow = watch(&service, request).await;
    let id = run(&service, service.request(&name)).await;
    for _ in 0..5 {
        stop(&service, &name).await;
        run(&service, service.request(&name)).await;
    }
    let (events, _) = take(&mut slow, 16).await;
    let mut told = kinds(&events);
    told.sort_unstable();
    told.dedup_by_key(|kind| *kind);
    assert_eq!(told.len(), 4, "created, started, stopped, died: {events:?}");
    assert!(events.iter().all(|event| event.container_id == id));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_view_events_needs_the_permission() {
    let service = Service::start().await;
    let body = r#"{"name":"p","permissions":["container-svc:container:view"]}"#;
    let (_, made) = service.rest("POST", "/container-svc/token", body).await;
    let bearer = format!("Bearer {}", made["secret"].as_str().expect("a token"));
    let mut request = Request::new(pb::ListEventsRequest::default());
    request.metadata_mut().insert("authorization", bearer.parse().expect("ascii"));
    let refused = client(&service).await.list_events(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("container-svc:event:view"), "{refused:?}");
}
