//! The engine rotates and cuts its logs; what it threw away is told (F4).

use std::{
    fs::{self, File},
    time::Duration,
};

use container_svc::config::SourceChoice;

use super::{
    all,
    foreign::{Foreign, SOURCES, told},
    *,
};
use crate::support::docker;

/// Text that makes a record of the engine about 130 bytes long.
const PAD: &str = "a line of a service that tells at some length what it does all day";

/// Lines with numbers, so slowly that no file is rotated away unread.
fn slowly(lines: u32) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i {PAD}; sleep 0.004; done")
}

/// As fast as the engine takes them.
fn quickly(lines: u32) -> String {
    format!("seq {lines} | sed 's/$/ {PAD}/'")
}

/// All lines of a container that has ended, once its log is read to the end.
async fn read_to_the_end(service: &Service, container: &Foreign, last: &str) -> Vec<pb::Log> {
    container.ended().await;
    eventually(&format!("the end of {}", container.name), || async {
        let (_, answer) = service
            .rest(
                "POST",
                "/container-svc/logs",
                &format!(r#"{{"name":"{}","limit":1}}"#, container.name),
            )
            .await;
        answer["logs"][0]["content"].as_str().is_some_and(|line| line.starts_with(last))
    })
    .await;
    all(service, &container.name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_lines_are_all_there_over_many_rotations() {
    for source in SOURCES {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        for options in [
            &["--log-opt", "max-size=10k", "--log-opt", "max-file=2"][..],
            &["--log-opt", "max-size=10k", "--log-opt", "max-file=4", "--log-opt", "compress=true"],
        ] {
            let container = Foreign::run(options, &slowly(600));
            let lines = read_to_the_end(&service, &container, "600 ").await;
            // Where the engine was quicker than a busy machine, it is told.
            let (count, gaps) = told(&lines, 600);
            assert!(count == 600 || gaps > 0, "{source} {options:?}: {count} lines");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_faster_than_any_reader_are_followed_and_every_loss_is_told() {
    let service = Service::with(|config| config.logs_source = SourceChoice::Files).await;
    let service = service.synced().await;
    for options in [
        &["--log-opt", "max-size=10k", "--log-opt", "max-file=2"][..],
        &["--log-opt", "max-size=10k", "--log-opt", "max-file=1"],
        &["--log-opt", "max-size=10k", "--log-opt", "max-file=3", "--log-opt", "compress=true"],
    ] {
        let container = Foreign::run(options, &quickly(20_000));
        let lines = read_to_the_end(&service, &container, "20000 ").await;
        let (count, gaps) = told(&lines, 20_000);
        assert!(count == 20_000 || gaps > 0, "{options:?}: {count} lines");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_engine_fast_rotation_repeats_nothing_and_ends_no_following() {
    let service = Service::with(|config| config.logs_source = SourceChoice::Engine).await;
    let service = service.synced().await;
    for files in ["max-file=1", "max-file=2"] {
        let options = ["--log-opt", "max-size=10k", "--log-opt", files];
        let container = Foreign::run(&options, &quickly(20_000));
        let lines = read_to_the_end(&service, &container, "20000 ").await;
        let number = |line: &pb::Log| line.content.split(' ').next()?.parse::<u32>().ok();
        let numbers: Vec<_> = lines.iter().filter_map(number).collect();
        // The engine does not tell a follower what it threw away before it was told.
        assert!(numbers.is_sorted_by(|a, b| a < b), "{files}: nothing comes twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_lines_of_a_log_that_is_cut_when_full_are_there_or_told() {
    for source in SOURCES {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        let options = ["--log-opt", "max-size=10k", "--log-opt", "max-file=1"];
        let container = Foreign::run(&options, &slowly(400));
        let lines = read_to_the_end(&service, &container, "400 ").await;
        let (count, gaps) = told(&lines, 400);
        assert!(count == 400 || gaps > 0, "{source}: {count} of 400");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_copied_and_cut_is_followed() {
    // Through its API the engine does not tell that its file was cut.
    for source in [SourceChoice::Files] {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        let container = Foreign::run(&[], &slowly(500));
        let log = container.log_file();
        let mut ticks = tokio::time::interval(Duration::from_millis(300));
        for _ in 0..4 {
            ticks.tick().await;
            // What is written between the copy and the cut nobody can read.
            docker(&["pause", &container.id]);
            eventually("what was written is read", || async {
                let text = fs::read_to_string(&log).expect("the engine's log");
                let Some(last) = text.lines().last() else { return true };
                let body = format!(r#"{{"name":"{}","limit":1}}"#, container.name);
                let (_, answer) = service.rest("POST", "/container-svc/logs", &body).await;
                let stored = answer["logs"][0]["content"].as_str().unwrap_or("0 ").to_owned();
                last.contains(&format!("\"log\":\"{stored}"))
            })
            .await;
            fs::copy(&log, log.with_extension("log.1")).expect("copied");
            File::options().write(true).open(&log).expect("opened").set_len(0).expect("cut");
            docker(&["unpause", &container.id]);
        }
        let lines = read_to_the_end(&service, &container, "500 ").await;
        assert_eq!(told(&lines, 500).0, 500, "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rotated_away_while_nobody_reads_is_one_gap() {
    for source in SOURCES {
        let mut service = Service::with(|config| config.logs_source = source).await.synced().await;
        let options = ["--log-opt", "max-size=10k", "--log-opt", "max-file=2"];
        let script = format!(
            "echo 1 {PAD}; while [ ! -e /tmp/go ]; do sleep 0.05; done; i=1; \
             while [ $i -lt 900 ]; do i=$((i+1)); echo $i {PAD}; done"
        );
        let container = Foreign::run(&options, &script);
        reaches(&service, &container.name, 1).await;
        service.stop().await;
        container.exec("touch /tmp/go");
        container.ended().await;
        service.resume().await;
        let service = service.synced().await;
        let lines = read_to_the_end(&service, &container, "900 ").await;
        let (count, gaps) = told(&lines, 900);
        assert!(gaps == 1 && count < 900, "{source}: {count} lines, {gaps} gaps");
        let gap = lines[1].gap.as_ref().expect("after the line that was read");
        assert_eq!(gap.reason, "rotated", "{source}");
        assert!(gap.from.is_some() && gap.to.is_some(), "{source}: {gap:?}");
    }
}
