//! Clocks that jump forward and back change neither order nor place.

use std::{fs, io::Write as _, time::Duration};

use container_svc::config::SourceChoice;

use super::*;
use crate::support::{DEADLINE, docker};

const NOON: i64 = 1_767_268_800_000_000_000;
const HOUR: i64 = 3_600_000_000_000;

/// Time of a line, under a clock that is put back an hour six times out of seven,
/// and forward 40 hours in between. No time comes twice, as on a clock of
/// nanoseconds.
fn time(number: i64) -> i64 {
    NOON + number - (number % 7) * HOUR + (number / 1000) * 40 * HOUR
}

/// Writes lines into a container's log as the engine would under such a clock.
fn write(path: &str, numbers: std::ops::Range<i64>) {
    let record = |number: i64| {
        let at = jiff::Timestamp::from_nanosecond(i128::from(time(number))).expect("in range");
        let stream = if number % 3 == 0 { "stderr" } else { "stdout" };
        let log = format!("{number}\n");
        serde_json::json!({"log": log, "stream": stream, "time": at.to_string()}).to_string() + "\n"
    };
    let text: String = numbers.map(record).collect();
    let mut log = fs::File::options().append(true).open(path).expect("the engine's log is here");
    log.write_all(text.as_bytes()).expect("written");
}

fn numbers(lines: &[pb::Log]) -> Vec<i64> {
    lines.iter().map(|line| line.content.parse().expect("a number")).collect()
}

/// Reads a tail on from its cursor until it has come to a number.
async fn follow(service: &Service, request: &mut pb::TailLogsRequest, to: i64) -> Vec<i64> {
    let mut read = Vec::new();
    let tail = client(service).await.tail_logs(request.clone()).await;
    let mut tail = tail.expect("a tail").into_inner();
    let until = async {
        while read.last() != Some(&to) {
            let message = tail.next().await.expect("more").expect("a message");
            read.extend(numbers(&message.logs));
            (request.cursor, request.since) = (message.cursor, None);
        }
    };
    tokio::time::timeout(DEADLINE, until).await.expect("in time");
    read
}

/// Lines come before, during and after a kill of the service.
async fn jumps(source: SourceChoice) {
    let mut service = Service::program(|config| {
        config.logs_source = source;
        // What is old under the clock of this moment would be taken away.
        config.logs_max_age = Duration::from_secs(3650 * 86_400);
    })
    .await
    .synced()
    .await;
    let name = unique("clocks");
    run(&service, &name, "exec sleep 1000").await;
    let path = docker(&["inspect", "-f", "{{.LogPath}}", &name]);
    let mut tail = pb::TailLogsRequest {
        name: name.clone(),
        since: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let mut page = pb::ListLogsRequest {
        name: name.clone(),
        page_size: 300,
        order: pb::LogOrder::OldestFirst.into(),
        ..Default::default()
    };
    write(&path, 0..1000);
    let mut tailed = follow(&service, &mut tail, 999).await;
    let first = client(&service).await.list_logs(page.clone()).await.expect("a page").into_inner();
    let mut paged = numbers(&first.logs);
    page.page_token = first.next_page_token;

    service.kill();
    write(&path, 1000..2000);
    service.resume().await;
    tailed.extend(follow(&service, &mut tail, 1999).await);
    write(&path, 2000..3000);
    tailed.extend(follow(&service, &mut tail, 2999).await);
    assert!(tailed.iter().copied().eq(0..3000), "the tail: {tailed:?}");

    while !page.page_token.is_empty() {
        let next = client(&service).await.list_logs(page.clone()).await.expect("a page");
        let next = next.into_inner();
        paged.extend(numbers(&next.logs));
        page.page_token = next.next_page_token;
    }
    assert!(paged.iter().copied().eq(0..3000), "the pages: {paged:?}");
    let stored = all(&service, &name).await;
    assert!(stored.iter().map(|line| line.position).eq((0..3000).map(Some)), "no hole, no gap");

    // A range of time is a filter, and no place to begin or to stop.
    let (since, until) = (NOON - 3 * HOUR, NOON + 37 * HOUR);
    let at = |time: i64| prost_types::Timestamp { seconds: time / 1_000_000_000, nanos: 0 };
    let (since_at, until_at) = (Some(at(since)), Some(at(until)));
    let request = pb::ListLogsRequest { name, since: since_at, until: until_at, ..page };
    let ranged = numbers(&pages(&service, request).await);
    let expected = (0..3000).filter(|number| (since..until).contains(&time(*number)));
    assert!(ranged.into_iter().eq(expected), "the range");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_moves_no_cursor_and_no_page_from_files() {
    jumps(SourceChoice::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_moves_no_cursor_and_no_page_through_the_engine() {
    jumps(SourceChoice::Engine).await;
}
