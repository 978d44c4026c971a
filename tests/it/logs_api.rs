//! Logs through the engine's API: nothing lost, nothing repeated, always bounded.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::{fs, time::Duration};

use container_svc::{
    domain::{
        Kind, Result,
        logs::{Batch, Checkpoint, EntryKind, Gap, GapReason, Stream},
    },
    engine::{
        Engine,
        logs::{EngineLog, Progress},
    },
};

use super::{
    proxy::{Mode, Proxy, engine_socket},
    support::{DEADLINE, docker, image},
};

mod faults;
mod tamper;

type Lines = Vec<(Stream, String)>;

/// More than any test writes.
const ALL: usize = 64 << 20;

/// A container that is removed when it is dropped.
struct Container {
    id: String,
    tty: bool,
}

impl Container {
    /// Runs a script.
    fn run(tty: bool, script: &str) -> Self {
        Self::run_with(tty, &[], script)
    }

    /// Runs a script, with more options.
    fn run_with(tty: bool, options: &[&str], script: &str) -> Self {
        let mut args = vec!["run", "-d", "--label", "container-svc-test=logs-api"];
        if tty {
            args.push("-t");
        }
        args.extend(options);
        args.extend([image(), "sh", "-c", script]);
        let id = docker(&args);
        assert_eq!(id.len(), 64, "{id}");
        Self { id, tty }
    }

    /// Runs a script to its end.
    fn ran(tty: bool, script: &str) -> Self {
        let container = Self::run(tty, script);
        container.wait();
        container
    }

    fn wait(&self) {
        docker(&["wait", &self.id]);
    }

    fn again(&self) {
        docker(&["start", &self.id]);
        self.wait();
    }

    /// One whose log, as the engine keeps it, is replaced.
    fn with_log(records: &[(i64, &str)]) -> Self {
        let container = Self::ran(false, "true");
        container.replace_log(records);
        container
    }

    fn replace_log(&self, records: &[(i64, &str)]) {
        let path = docker(&["inspect", "-f", "{{.LogPath}}", &self.id]);
        let record = |(time, text): &(i64, &str)| {
            let at = jiff::Timestamp::from_nanosecond(i128::from(*time)).expect("in range");
            let text = format!("{text}\n");
            serde_json::json!({"log": text, "stream": "stdout", "time": at.to_string()}).to_string()
                + "\n"
        };
        let text: String = records.iter().map(record).collect();
        fs::write(&path, text).expect("the engine keeps its logs on this machine");
    }

    async fn follow(&self, engine: &Engine, from: Option<&Checkpoint>) -> EngineLog {
        engine.follow_log(&self.id, self.tty, from).await.expect("a log")
    }

    /// All lines from a checkpoint to the end, and the checkpoint there.
    async fn rest(&self, engine: &Engine, from: Option<&Checkpoint>) -> (Lines, Checkpoint) {
        let (mut log, mut out) = (self.follow(engine, from).await, Batch::default());
        while read(&mut log, ALL, &mut out).await.expect("lines") != Progress::Ended {}
        log.finish(&mut out);
        (lines(&out), log.checkpoint())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.id]);
    }
}

fn engine() -> Engine {
    Engine::new(&format!("unix://{}", engine_socket().display()), Duration::from_secs(10))
}

async fn read(log: &mut EngineLog, limit: usize, out: &mut Batch) -> Result<Progress> {
    tokio::time::timeout(DEADLINE, log.read(limit, out)).await.expect("in time")
}

fn lines(batch: &Batch) -> Lines {
    let line = |entry: container_svc::domain::logs::Entry<'_>| match entry.kind {
        EntryKind::Line(stream) => {
            Some((stream, String::from_utf8_lossy(entry.content).into_owned()))
        }
        EntryKind::Gap => None,
    };
    batch.entries().filter_map(line).collect()
}

fn gaps(batch: &Batch) -> Vec<Gap> {
    let gaps = batch.entries().filter(|entry| entry.kind == EntryKind::Gap);
    gaps.map(|entry| Gap::from_content(entry.content).expect("a gap")).collect()
}

/// As the store keeps it.
fn stored(checkpoint: &Checkpoint) -> Checkpoint {
    let json = serde_json::to_string(checkpoint).expect("json");
    serde_json::from_str(&json).expect("json")
}

/// Both streams hold 1 to `count`, each in order.
fn assert_numbered(lines: &Lines, count: usize) {
    for stream in [Stream::Stdout, Stream::Stderr] {
        let of: Vec<_> = lines.iter().filter(|(s, _)| *s == stream).map(|(_, t)| t).collect();
        let wrong = of.iter().zip(1..).find(|(text, n)| text.as_str() != n.to_string());
        assert_eq!((wrong, of.len()), (None, count), "{stream:?}");
    }
}

const NUMBERS: &str = "(seq 1 5000) & (seq 1 5000 >&2); wait";

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_are_read_in_their_order_and_to_their_end() {
    let container = Container::ran(false, NUMBERS);
    let (lines, _) = container.rest(&engine(), None).await;
    assert_numbered(&lines, 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_at_any_place_lose_nothing_and_repeat_nothing() {
    let (engine, container) = (engine(), Container::run(false, NUMBERS));
    let (mut all, mut checkpoint, mut ended) = (Lines::new(), None, false);
    let mut restarts = 0;
    while !ended {
        let (mut log, mut out) =
            (container.follow(&engine, checkpoint.as_ref()).await, Batch::default());
        ended = read(&mut log, 6000, &mut out).await.expect("lines") == Progress::Ended;
        all.extend(lines(&out));
        checkpoint = Some(stored(&log.checkpoint()));
        restarts += 1;
    }
    assert!(restarts > 5, "{restarts}");
    assert_numbered(&all, 5000);
    let (none, _) = container.rest(&engine, checkpoint.as_ref()).await;
    assert_eq!(none, Lines::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_given_up_loses_nothing() {
    let (engine, container) = (engine(), Container::run(false, NUMBERS));
    let (mut log, mut out) = (container.follow(&engine, None).await, Batch::default());
    let mut again = true;
    while again {
        let soon = Duration::from_micros(200);
        let read = tokio::time::timeout(soon, log.read(2000, &mut out)).await;
        again = !matches!(read, Ok(Ok(Progress::Ended)));
    }
    assert_numbered(&lines(&out), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_any_length_come_whole_with_and_without_a_terminal() {
    let lengths = [0, 1, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20];
    let engine = engine();
    for tty in [false, true] {
        let list = lengths.map(|length| length.to_string()).join(" ");
        let script =
            format!("for n in {list}; do head -c $n /dev/zero | tr '\\0' x; echo; done; echo end");
        let container = Container::ran(tty, &script);
        let (lines, _) = container.rest(&engine, None).await;
        let got: Vec<_> = lines.iter().map(|(_, text)| text.trim_end_matches('\r').len()).collect();
        // A terminal's carriage return makes the longest line too long for one part.
        let end: &[usize] = if tty { &[0, 3] } else { &[3] };
        assert_eq!(got, [lengths.as_slice(), end].concat(), "tty: {tty}");

        // A restart within a line.
        let (mut all, mut checkpoint, mut ended) = (Lines::new(), None, false);
        while !ended {
            let mut log = container.follow(&engine, checkpoint.as_ref()).await;
            let mut out = Batch::default();
            ended = read(&mut log, 40_000, &mut out).await.expect("lines") == Progress::Ended;
            all.extend(self::lines(&out));
            checkpoint = Some(stored(&log.checkpoint()));
        }
        assert!(all == lines, "tty: {tty}: {} lines", all.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_without_a_newline_are_told_once_over_all_runs() {
    let engine = engine();
    for tty in [false, true] {
        let container = Container::ran(tty, "echo hello; printf bye");
        let (first, checkpoint) = container.rest(&engine, None).await;
        let texts = |lines: &Lines| -> Vec<String> {
            lines.iter().map(|(_, text)| text.trim_end_matches('\r').to_owned()).collect()
        };
        assert_eq!(texts(&first), ["hello", "bye"], "tty: {tty}");
        container.again();
        let (second, checkpoint) = container.rest(&engine, Some(&stored(&checkpoint))).await;
        assert_eq!(texts(&second), ["hello", "bye"], "tty: {tty}");
        container.again();
        let (third, _) = container.rest(&engine, Some(&stored(&checkpoint))).await;
        assert_eq!(texts(&third), ["hello", "bye"], "tty: {tty}");
        let (all, _) = container.rest(&engine, None).await;
        assert_eq!(all, [first, second, third].concat(), "tty: {tty}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_follow_as_they_are_written_and_silence_is_no_error() {
    let address = format!("unix://{}", engine_socket().display());
    // Silent for longer than the engine may take for an answer.
    let engine = Engine::new(&address, Duration::from_millis(300));
    let container = Container::run(false, "echo one; sleep 1; echo two; sleep 100");
    let (mut log, mut out) = (container.follow(&engine, None).await, Batch::default());
    for count in [1, 2] {
        while out.len() < count {
            let progress = read(&mut log, ALL, &mut out).await.expect("lines");
            assert_ne!(progress, Progress::Ended);
        }
    }
    docker(&["kill", &container.id]);
    let end = read(&mut log, ALL, &mut out).await.expect("an end");
    assert_eq!((end, out.len()), (Progress::Ended, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_and_nobody_are_told_apart() {
    let engine = engine();
    let container = Container::ran(false, "true");
    let (none, checkpoint) = container.rest(&engine, None).await;
    assert_eq!(none, Lines::new());
    container.replace_log(&[(7, "late")]);
    let (late, _) = container.rest(&engine, Some(&stored(&checkpoint))).await;
    assert_eq!(late, [(Stream::Stdout, "late".to_owned())]);

    let id = "0".repeat(64);
    let error = engine.follow_log(&id, false, None).await.err().expect("nobody");
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_repeats_nothing_and_ends_no_reading() {
    let engine = engine();
    let rotating = ["--log-opt", "max-size=10k", "--log-opt", "max-file=2"];
    let script = "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo $n; done; echo end";
    let container = Container::run_with(false, &rotating, script);
    let (mut all, mut checkpoint, mut ended) = (Lines::new(), None, false);
    while !ended {
        let mut log = container.follow(&engine, checkpoint.as_ref()).await;
        let mut out = Batch::default();
        for _ in 0..3 {
            ended =
                ended || read(&mut log, 4000, &mut out).await.expect("lines") == Progress::Ended;
        }
        all.extend(lines(&out));
        checkpoint = Some(stored(&log.checkpoint()));
    }
    assert_eq!(all.pop().map(|(_, text)| text).as_deref(), Some("end"));
    let numbers: Vec<u32> = all.iter().map(|(_, text)| text.parse().expect("a number")).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

const NOON: i64 = 1_767_268_800_000_000_000;

/// Stops behind each number of lines, and goes on from there.
async fn assert_resumable(container: &Container, stops: &[usize]) {
    let engine = engine();
    let (all, _) = container.rest(&engine, None).await;
    let tamper = tamper::Tamper::start();
    let cut = Engine::new(&tamper.address(), Duration::from_secs(10));
    for stop in stops {
        tamper.set(tamper::Fault::Cut(3), *stop);
        let (mut log, mut out) = (container.follow(&cut, None).await, Batch::default());
        while read(&mut log, ALL, &mut out).await.is_ok_and(|step| step != Progress::Ended) {}
        assert_eq!(out.len(), *stop);
        let (rest, _) = container.rest(&engine, Some(&stored(&log.checkpoint()))).await;
        assert!([lines(&out), rest].concat() == all, "stopped behind {stop}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_one_instant_with_one_text_are_counted() {
    let mut records = vec![(NOON - 1, "before")];
    records.extend([(NOON, "same"); 200]);
    records.extend([(NOON + 1, "same"), (NOON + 1, "after")]);
    let container = Container::with_log(&records);
    assert_resumable(&container, &[0, 1, 2, 3, 100, 200, 201, 202]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_lines_of_one_instant_than_are_asked_for_at_once_are_counted() {
    let mut records = vec![(NOON, "same"); 3000];
    records.push((NOON, "last"));
    let container = Container::with_log(&records);
    assert_resumable(&container, &[1, 1500, 2999, 3000]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_loses_nothing_and_repeats_nothing() {
    let hour = 3_600_000_000_000;
    let texts: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
    let records: Vec<_> = (0i64..)
        .zip(&texts)
        .map(|(n, text)| (NOON + n - (n % 7) * hour + (n / 1000) * 40 * hour, text.as_str()))
        .collect();
    let container = Container::with_log(&records);
    assert_resumable(&container, &[1, 6, 7, 8, 999, 1000, 1500, 2999]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_threw_away_is_a_gap_and_the_rest_is_read() {
    let engine = engine();
    let texts: Vec<String> = (0..2500).map(|n| n.to_string()).collect();
    let records: Vec<_> = (0i64..).zip(&texts).map(|(n, t)| (NOON + n, t.as_str())).collect();
    let container = Container::with_log(&records[..10]);
    let (_, checkpoint) = container.rest(&engine, None).await;
    container.replace_log(&records[20..]);

    let checkpoint = stored(&checkpoint);
    let (mut log, mut out) = (container.follow(&engine, Some(&checkpoint)).await, Batch::default());
    while read(&mut log, ALL, &mut out).await.expect("lines") != Progress::Ended {}
    let gap = Gap { to: Some(NOON + 20), ..Gap::after(GapReason::Rotated, Some(NOON + 9)) };
    assert_eq!(gaps(&out), [gap]);
    assert_eq!(out.entries().next().map(|entry| entry.kind), Some(EntryKind::Gap));
    let told: Vec<_> = lines(&out).into_iter().map(|(_, text)| text).collect();
    assert_eq!(told, texts[20..]);
    let (none, _) = container.rest(&engine, Some(&stored(&log.checkpoint()))).await;
    assert_eq!(none, Lines::new());
}
