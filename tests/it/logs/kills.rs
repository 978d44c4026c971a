//! The service is killed while containers print: nothing lost, nothing repeated.
//!
//! `make soak` runs the same with more of everything.

use std::time::{Duration, Instant};

use container_svc::config::SourceChoice;

use super::{
    numbered::{Burst, Checker, Resumed},
    *,
};
use crate::support::{docker, image};

/// How long one life of the service lasts at most.
const LIFE: Duration = Duration::from_millis(700);
/// How long all lines may take to come after the last kill.
const END: Duration = Duration::from_secs(120);

/// Up to `LIFE`, as a matter of chance.
fn chance() -> Duration {
    let part = f64::from(getrandom::u32().expect("chance")) / f64::from(u32::MAX);
    LIFE.mul_f64(part)
}

/// A size that `make soak` sets.
fn size(name: &str, usual: usize) -> usize {
    let given = std::env::var(format!("SOAK_{name}")).ok();
    given.map_or(usual, |given| given.parse().expect("SOAK_ variables are numbers"))
}

/// Kills the service again and again while containers print, then reads all back.
/// Answers with a summary.
async fn is_killed(source: SourceChoice, kills: usize, lines: usize) -> String {
    let begin = Instant::now();
    let containers = size("CONTAINERS", 10);
    let mut service = Service::program(|config| {
        config.logs_source = source;
        // The engine keeps all of it, however long the service is away; and of two
        // files, a log that has only one has lost none.
        (config.container_log_bytes, config.container_log_files) = (1 << 30, 2);
    })
    .await
    .synced()
    .await;
    // A life is half of its longest on average; a start takes time too, on a busy
    // machine as much again and more.
    let lasts = LIFE * 2 * u32::try_from(kills).expect("few");
    let burst = Burst::ready(&service, image(), (containers, lines), lasts).await;
    let mut tail = Resumed::default();
    docker(&burst.signal());
    let mut amid = 0;
    for kill in 0..kills {
        // However far it has come, starting included; every other time as far as to
        // tell something.
        if kill % 2 == 1 && tail.checker.lines() < burst.lines() {
            let some = tail.checker.lines() + 1;
            let told = tokio::time::timeout(END, tail.read(&service, some));
            told.await.expect("lines come");
        }
        let _ = tokio::time::timeout(chance(), tail.read(&service, usize::MAX)).await;
        service.kill();
        amid += usize::from((1..burst.lines()).contains(&tail.checker.lines()));
        service.launch();
    }
    let rest = async {
        while tail.checker.lines() < burst.lines() {
            tail.read(&service, burst.lines()).await;
        }
    };
    let all = tokio::time::timeout(END, rest).await;
    assert_eq!(tail.checker.result(&burst), burst.exact(), "the tail; in time: {all:?}");

    let label = format!("container-svc-test={}", service.node);
    let stored = pages(&service, pb::ListLogsRequest { label, ..Default::default() }).await;
    let mut checker = Checker::default();
    stored.iter().for_each(|log| checker.take(log));
    let tally = checker.result(&burst);
    assert_eq!(tally, burst.exact(), "the pages");
    assert!(amid > 0, "no kill came while lines were coming; print for longer");
    format!(
        "source {source}: {kills} kills, {amid} of them while lines were coming; {containers} \
         containers, {} lines; lost {}, repeated {}, holes {}; {:.1} s",
        tally.lines,
        tally.lost,
        tally.repeated,
        tally.holes,
        begin.elapsed().as_secs_f64()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_service_lose_nothing_and_repeat_nothing_from_files() {
    let (kills, lines) = (size("KILLS", 5), size("LINES", 200_000));
    println!("{}", is_killed(SourceChoice::Files, kills, lines).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_service_lose_nothing_and_repeat_nothing_through_the_engine() {
    let (kills, lines) = (size("KILLS", 4), size("LINES", 200_000) / 5);
    println!("{}", is_killed(SourceChoice::Engine, kills, lines).await);
}
