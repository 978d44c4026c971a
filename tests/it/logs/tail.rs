//! Following: history and then live, without a seam.

use std::time::Duration;

use super::*;
use crate::support::DEADLINE;

/// Reads lines from a tail until there are so many; answers them and the cursor.
async fn take(
    stream: &mut tonic::Streaming<pb::TailLogsResponse>,
    count: usize,
) -> (Vec<pb::Log>, String) {
    let (mut lines, mut cursor) = (Vec::new(), String::new());
    let read = async {
        while lines.len() < count {
            let message = stream.next().await.expect("more").expect("a message");
            lines.extend(message.logs);
            cursor = message.cursor;
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("in time");
    (lines, cursor)
}

fn numbers(lines: &[pb::Log]) -> Vec<u32> {
    lines.iter().map(|line| line.content.parse().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_live_lines_come_without_a_seam_and_a_cursor_resumes() {
    let service = Service::start().await.synced().await;
    let name = unique("seam");
    run(
        &service,
        &name,
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; exec sleep 1000",
    )
    .await;
    let mut client = client(&service).await;
    let from_start = pb::TailLogsRequest {
        name: name.clone(),
        since: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let mut stream = client.tail_logs(from_start).await.expect("a tail").into_inner();
    let (first, cursor) = take(&mut stream, 500).await;
    drop(stream);
    let resumed = pb::TailLogsRequest { name: name.clone(), cursor, ..Default::default() };
    let mut stream = client.tail_logs(resumed).await.expect("a tail").into_inner();
    let (rest, _) = take(&mut stream, 3000 - first.len()).await;
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    assert_eq!(numbers(&all), (1..=3000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_come_first_and_without_follow_the_stream_ends() {
    let service = Service::start().await.synced().await;
    let name = unique("last");
    run(&service, &name, "seq 2500; exec sleep 1000").await;
    reaches(&service, &name, 2500).await;
    let mut client = client(&service).await;
    let request = pb::TailLogsRequest {
        name: name.clone(),
        last_lines: Some(1500),
        no_follow: true,
        ..Default::default()
    };
    let stream = client.tail_logs(request).await.expect("a tail").into_inner();
    let read = stream.collect::<Vec<_>>();
    let messages = tokio::time::timeout(DEADLINE, read).await.expect("it ends");
    let messages: Vec<_> = messages.into_iter().map(|message| message.expect("ok")).collect();
    let lines: Vec<_> = messages.iter().flat_map(|message| message.logs.clone()).collect();
    assert_eq!(numbers(&lines), (1001..=2500).collect::<Vec<_>>());
    assert_eq!(
        messages.last().map(pb::TailLogsResponse::r#type),
        Some(pb::TailEventType::CaughtUp)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_containers_are_followed_by_pattern_and_a_new_one_joins() {
    let service = Service::start().await.synced().await;
    let (first, second) = (unique("many"), unique("many"));
    run(&service, &first, "echo one; exec sleep 1000").await;
    reaches(&service, &first, 1).await;
    let mut client = client(&service).await;
    let request = pb::TailLogsRequest {
        label: format!("container-svc-test={}", service.node),
        last_lines: Some(10),
        heartbeat: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let mut stream = client.tail_logs(request).await.expect("a tail").into_inner();
    assert_eq!(take(&mut stream, 1).await.0[0].content, "one");
    let mut kinds = Vec::new();
    while !kinds.contains(&pb::TailEventType::Heartbeat) {
        let next = tokio::time::timeout(Duration::from_secs(5), stream.next()).await;
        kinds.push(next.expect("a heartbeat in time").expect("more").expect("ok").r#type());
    }
    assert_eq!(kinds, [pb::TailEventType::CaughtUp, pb::TailEventType::Heartbeat]);
    run(&service, &second, "echo two; exec sleep 1000").await;
    assert_eq!(take(&mut stream, 1).await.0[0].content, "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_streams_a_tail_as_lines_and_as_events() {
    let service = Service::start().await.synced().await;
    let name = unique("rest");
    run(&service, &name, "echo hello; exec sleep 1000").await;
    reaches(&service, &name, 1).await;
    let path = format!("/container-svc/logs/tail?name={name}&lastLines=5&noFollow=true");
    let (status, head, body) = service.raw("GET", &path, "", &[]).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("application/json"), "{head}");
    let first: serde_json::Value =
        serde_json::from_str(body.lines().next().expect("a line")).expect("json");
    assert_eq!(first["result"]["type"], "TAIL_EVENT_TYPE_LINES");
    assert_eq!(first["result"]["logs"][0]["content"], "hello");
    let accept = ["-H", "Accept: text/event-stream"];
    let (_, head, body) = service.raw("GET", &path, "", &accept).await;
    assert!(head.contains("text/event-stream"), "{head}");
    assert!(body.starts_with("data: ") || body.starts_with("event: "), "{body}");
    assert!(body.contains("hello"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_can_be_read_within_a_moment_of_being_written() {
    let service = Service::start().await.synced().await;
    let name = unique("fresh");
    run(&service, &name, "while true; do date +%s.%N; sleep 0.2; done").await;
    reaches(&service, &name, 1).await;
    let mut client = client(&service).await;
    let request = pb::TailLogsRequest { name, ..Default::default() };
    let mut stream = client.tail_logs(request).await.expect("a tail").into_inner();
    let mut ages = Vec::new();
    while ages.len() < 10 {
        let message = stream.next().await.expect("more").expect("ok");
        for line in message.logs {
            let at = line.created_at.expect("a time");
            let written = Duration::new(at.seconds.unsigned_abs(), at.nanos.unsigned_abs());
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            ages.push(now.expect("after 1970").saturating_sub(written));
        }
    }
    ages.sort();
    // The bar is 100 ms; a busy machine gets some room.
    assert!(ages[5] < Duration::from_millis(300), "{ages:?}");
}
