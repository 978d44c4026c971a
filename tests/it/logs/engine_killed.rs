//! The engine is killed while containers print: all that it kept is told once, and
//! where its log is torn, a gap says so.

use std::{fs, io::Write as _, time::Duration};

use container_svc::config::SourceChoice;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    numbered::{Burst, Resumed},
    *,
};
use crate::{
    faults::{
        RECOVERY, becomes,
        private_engine::{Engine, TAG},
    },
    support::DEADLINE,
};

/// How a record of the engine begins.
const BEGIN: &str = r#"{"log":""#;

/// Lines with their streams, and `None` where the log is damaged.
type Kept = Vec<Option<(String, String)>>;

/// What the engine's log holds, read off its file.
fn kept(path: &str) -> Kept {
    let text = fs::read_to_string(path).expect("the engine keeps its logs on this machine");
    let record = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = record["log"].as_str()?.trim_end_matches('\n');
        Some((record["stream"].as_str()?.to_owned(), text.to_owned()))
    };
    let mut kept = Kept::new();
    for line in text.lines() {
        match (record(line), line.rfind(BEGIN)) {
            (None, Some(at)) if at > 0 => kept.extend([None, record(&line[at..])]),
            (found, _) => kept.push(found),
        }
    }
    kept
}

/// The same of what the service has stored.
fn stored(lines: &[pb::Log]) -> Kept {
    let told = |line: &pb::Log| match &line.gap {
        Some(gap) => {
            assert_eq!(gap.reason, "damaged");
            None
        }
        None => {
            let stream = if line.stream() == pb::LogStream::Stdout { "stdout" } else { "stderr" };
            Some((stream.to_owned(), line.content.clone()))
        }
    };
    lines.iter().map(told).collect()
}

/// Kills the engine under containers that print, and starts it again.
async fn is_killed_mid_burst(live_restore: bool, source: SourceChoice) {
    let mut engine = Engine::start(live_restore).await;
    let service = Service::with(|config| {
        config.engine = engine.address();
        config.logs_source = source;
        (config.container_log_bytes, config.container_log_files) = (1 << 30, 2);
    })
    .await
    .synced()
    .await;
    let burst = Burst::ready(&service, TAG, (3, 30_000), Duration::from_secs(3)).await;
    let logs: Vec<String> = burst
        .names
        .iter()
        .map(|name| engine.docker(&["inspect", "-f", "{{.LogPath}}", name]).expect("its log"))
        .collect();
    engine.docker(&burst.signal()).expect("the signal");
    let mut tail = Resumed::default();
    let some = tokio::time::timeout(DEADLINE, tail.read(&service, burst.lines() / 4)).await;
    some.expect("lines come");

    engine.kill();
    if source == SourceChoice::Files {
        // The engine may die within a write. The API tells nothing of a log beyond.
        let mut torn = fs::File::options().append(true).open(&logs[0]).expect("its log");
        torn.write_all(format!("{BEGIN}torn").as_bytes()).expect("written");
    }
    becomes(&service, ServingStatus::NotServing).await;
    assert!(!all(&service, &burst.names[0]).await.is_empty(), "what is stored is still told");
    engine.resume().await;
    let took = becomes(&service, ServingStatus::Serving).await;
    assert!(took <= RECOVERY, "{took:?}");

    let running = |engine: &Engine| engine.docker(&["ps", "-q"]).is_none_or(|ids| !ids.is_empty());
    if !live_restore {
        // They died with their engine; what they print next goes into the same log.
        eventually("they have ended", || async { !running(&engine) }).await;
        let names = burst.names.iter().map(String::as_str);
        let start: Vec<&str> = ["start"].into_iter().chain(names).collect();
        engine.docker(&start).expect("started");
        engine.docker(&burst.signal()).expect("the signal");
    }
    eventually("they have printed all", || async { !running(&engine) }).await;
    for (name, path) in burst.names.iter().zip(&logs) {
        let kept = kept(path);
        let told = stored(&reaches(&service, name, kept.len()).await);
        let wrong = kept.iter().zip(&told).position(|(kept, told)| kept != told);
        assert_eq!((wrong, told.len()), (None, kept.len()), "the first line that differs");
        let torn = source == SourceChoice::Files && name == &burst.names[0];
        assert!(!torn || kept.contains(&None), "the torn record is there");
    }
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_mid_burst_costs_no_line_that_it_kept() {
    is_killed_mid_burst(false, SourceChoice::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_mid_burst_with_live_restore_costs_no_line_that_it_kept() {
    is_killed_mid_burst(true, SourceChoice::Files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_mid_burst_costs_no_line_through_its_api() {
    is_killed_mid_burst(false, SourceChoice::Engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_mid_burst_with_live_restore_costs_no_line_through_its_api() {
    is_killed_mid_burst(true, SourceChoice::Engine).await;
}
