//! Many follow at once, and some of them badly: who reads well notices nothing, who
//! is slow is told exactly what it missed.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    numbered::{Burst, Checker, Tally},
    *,
};
use crate::support::{DEADLINE, docker, image};

/// Most memory of the program with a hundred followers. Their lines take several
/// times as much.
const MEMORY: u64 = 192 << 20;
/// How long those who read well may take.
const PATIENCE: Duration = Duration::from_secs(120);

type Tail = tonic::Streaming<pb::TailLogsResponse>;

fn everything(service: &Service) -> pb::TailLogsRequest {
    pb::TailLogsRequest {
        label: format!("container-svc-test={}", service.node),
        view: pb::LogView::Full.into(),
        ..Default::default()
    }
}

/// Follows what comes from now on, over a connection of its own. The server may
/// send only 64 KiB ahead of what is read.
async fn follow(service: &Service, request: pb::TailLogsRequest) -> Tail {
    begin(service, request).await.0
}

/// The same, with the cursor of the beginning.
async fn begin(service: &Service, request: pb::TailLogsRequest) -> (Tail, String) {
    let endpoint = Channel::from_shared(service.url.clone()).expect("a url");
    let narrow = endpoint.initial_stream_window_size(0xffff).initial_connection_window_size(0xffff);
    let mut client = over(narrow.connect().await.expect("it listens"), service);
    let mut tail = client.tail_logs(request).await.expect("a tail").into_inner();
    let first = tail.next().await.expect("a message").expect("ok");
    assert_eq!(first.r#type(), pb::TailEventType::CaughtUp);
    (tail, first.cursor)
}

/// Reads until so many lines were told or missed; answers how many were missed.
async fn read(tail: &mut Tail, checker: &mut Checker, lines: usize) -> usize {
    let mut missed = 0;
    let reads = async {
        while checker.lines() + missed < lines {
            let message = tail.next().await.expect("more").expect("ok");
            message.logs.iter().for_each(|log| checker.take(log));
            let count = message.missed.map_or(0, i64::unsigned_abs);
            missed += usize::try_from(count).expect("few");
        }
    };
    tokio::time::timeout(PATIENCE, reads).await.expect("in time");
    missed
}

/// Containers that print some lines, once there is a reader.
async fn ready(service: &Service, lines: usize) -> Burst {
    Burst::ready(service, image(), (4, lines), Duration::from_secs(1)).await
}

async fn all_stored(service: &Service, burst: &Burst) {
    for name in &burst.names {
        reaches(service, name, 2 * burst.each).await;
    }
}

/// Lets some follow who read well, and some who leave midway. Answers how long the
/// first took.
async fn crowd(service: &Service, burst: &Burst, well: usize, leave: usize) -> Duration {
    let mut readers = JoinSet::new();
    for at in 0..well + leave {
        let mut tail = follow(service, everything(service)).await;
        let (all, expected) = (burst.lines(), burst.exact());
        let names = Burst { names: burst.names.clone(), each: burst.each };
        readers.spawn(async move {
            let mut checker = Checker::default();
            if at < leave {
                read(&mut tail, &mut checker, all / 2).await;
            } else {
                read(&mut tail, &mut checker, all).await;
                assert_eq!(checker.result(&names), expected);
            }
        });
    }
    let begin = Instant::now();
    docker(&burst.signal());
    while let Some(ended) = readers.join_next().await {
        ended.expect("each reads well");
    }
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_followers_get_each_line_once_whatever_the_bad_ones_do() {
    let service = Service::program(|_| {}).await.synced().await;
    let alone = crowd(&service, &ready(&service, 8000).await, 48, 0).await;

    let burst = ready(&service, 8000).await;
    let mut stalled = follow(&service, everything(&service)).await;
    let label = format!("container-svc-test%3D{}", service.node);
    let bearer = format!("Authorization: Bearer {}", service.token);
    let mut trickle = tokio::process::Command::new("curl")
        .args(["-sN", "--limit-rate", "1K", "-H", &bearer])
        .arg(format!("{}/container-svc/logs/tail?label={label}", service.url))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("curl");
    let together = crowd(&service, &burst, 48, 50).await;
    let bound = alone * 4 + Duration::from_secs(5);
    assert!(together < bound, "alone {alone:?}, with the bad ones {together:?}");
    let memory = service.most_memory();
    assert!(memory < MEMORY, "{} MiB", memory >> 20);
    assert!(trickle.try_wait().expect("curl").is_none(), "the slow one is not cut off");
    println!("alone {alone:.1?}, with bad ones {together:.1?}, {} MiB", memory >> 20);

    // The one that stood still has lost nothing by that.
    let mut checker = Checker::default();
    assert_eq!(read(&mut stalled, &mut checker, burst.lines()).await, 0);
    assert_eq!(checker.result(&burst), burst.exact());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_skips_is_told_exactly_how_many_lines_it_missed() {
    let service = Service::start().await.synced().await;
    let burst = ready(&service, 20_000).await;
    let request = pb::TailLogsRequest {
        slow_reader: pb::SlowReader::Skip.into(),
        max_lag: 100,
        ..everything(&service)
    };
    let mut tail = follow(&service, request).await;
    docker(&burst.signal());
    all_stored(&service, &burst).await;
    let mut checker = Checker::default();
    let missed = read(&mut tail, &mut checker, burst.lines()).await;
    assert_eq!(checker.lines() + missed, burst.lines());
    let Tally { lost, repeated, strange, .. } = checker.result(&burst);
    assert_eq!((lost, repeated, strange), (missed, 0, Vec::new()));
    assert!(missed > burst.lines() / 2, "it was slow: {missed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_is_cut_off_goes_on_from_its_cursor() {
    let service = Service::start().await.synced().await;
    let burst = ready(&service, 20_000).await;
    let request = pb::TailLogsRequest {
        slow_reader: pb::SlowReader::CutOff.into(),
        max_lag: 100,
        ..everything(&service)
    };
    let (mut tail, mut cursor) = begin(&service, request).await;
    docker(&burst.signal());
    all_stored(&service, &burst).await;
    let mut checker = Checker::default();
    let end = loop {
        let next = tokio::time::timeout(DEADLINE, tail.next()).await.expect("in time");
        match next.expect("an error comes first") {
            Ok(message) => {
                message.logs.iter().for_each(|log| checker.take(log));
                cursor = message.cursor;
            }
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), tonic::Code::ResourceExhausted, "{end}");
    assert!(checker.lines() < burst.lines(), "{}", checker.lines());
    let request = pb::TailLogsRequest { cursor, ..everything(&service) };
    let tail = client(&service).await.tail_logs(request).await;
    read(&mut tail.expect("a tail").into_inner(), &mut checker, burst.lines()).await;
    assert_eq!(checker.result(&burst), burst.exact());
}

/// Retention takes most lines before a reader asks for them. They are counted in
/// whatever way the reader wants to be treated.
async fn is_overtaken(slow_reader: pb::SlowReader) {
    let service = Service::with(|config| config.logs_max_bytes_each = 16 << 10).await;
    let service = service.synced().await;
    let name = unique("overtaken");
    let lines = 40_000_i64;
    // More than is kept in memory for those who follow.
    let script = format!(
        r#"trap go=1 USR1; until [ "$go" ]; do sleep 0.05; done
        seq {lines} | sed "s/$/{}/"; exec sleep 1000"#,
        " padding".repeat(40)
    );
    run(&service, &name, &script).await;
    let request = pb::TailLogsRequest {
        slow_reader: slow_reader.into(),
        max_lag: 100,
        ..everything(&service)
    };
    let mut tail = follow(&service, request).await;
    let mut keen = follow(&service, everything(&service)).await;
    docker(&["kill", "--signal", "USR1", &name]);
    let collected = async {
        let last = |log: &pb::Log| log.position == Some(lines - 1);
        while !keen.next().await.expect("more").expect("ok").logs.iter().any(last) {}
    };
    tokio::time::timeout(DEADLINE, collected).await.expect("all is collected");
    eventually("retention has taken some", || async {
        let request = pb::GetContainerRequest { name: name.clone(), ..Default::default() };
        let container = service.grpc().await.get_container(request).await.expect("it is there");
        container.into_inner().log.is_some_and(|log| log.lines < lines)
    })
    .await;
    let (mut next, mut missed, mut told) = (0, 0, 0);
    let reads = async {
        while next < lines {
            let message = tail.next().await.expect("more").expect("ok");
            if message.r#type() == pb::TailEventType::Missed {
                let count = message.missed.expect("the count is known");
                missed += count;
                next += count;
            }
            for line in message.logs {
                assert_eq!(line.position, Some(next), "after {missed} missed");
                let number = line.content.split(' ').next().and_then(|word| word.parse().ok());
                assert_eq!(number, Some(next + 1));
                (next, told) = (next + 1, told + 1);
            }
        }
    };
    tokio::time::timeout(DEADLINE, reads).await.expect("in time");
    assert!(missed > 0 && told + missed == lines, "{told} told, {missed} missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_retention_took_from_a_slow_reader_are_counted() {
    is_overtaken(pb::SlowReader::CatchUp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_retention_took_from_a_reader_that_skips_are_counted() {
    is_overtaken(pb::SlowReader::Skip).await;
}
