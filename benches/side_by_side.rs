//! Measures the service side by side with the raw engine, and says which bars it meets.
//!
//! `cargo bench --bench side_by_side` prints a table and writes it to `BENCHMARKS.md`;
//! `-- --quick` takes a few samples only, `-- --logs` measures only what concerns logs,
//! memory and the start, `-- --gpus` and `-- --builds` only what
//! concerns those; none of these writes anything.

#[path = "side_by_side/assets.rs"]
mod assets;
#[path = "side_by_side/builds.rs"]
mod builds;
#[path = "side_by_side/child.rs"]
mod child;
#[path = "side_by_side/collect.rs"]
mod collect;
#[path = "side_by_side/engine.rs"]
mod engine;
#[path = "side_by_side/footprint.rs"]
mod footprint;
#[path = "side_by_side/gpus.rs"]
mod gpus;
#[path = "side_by_side/levels.rs"]
mod levels;
#[path = "side_by_side/measure.rs"]
mod measure;
#[path = "side_by_side/missed.rs"]
mod missed;
#[path = "side_by_side/report.rs"]
mod report;
#[path = "side_by_side/service.rs"]
mod service;
#[path = "side_by_side/stored.rs"]
mod stored;
#[path = "side_by_side/supervise.rs"]
mod supervise;
#[path = "side_by_side/texts.rs"]
mod texts;

use std::{process::ExitCode, time::Duration};

use engine::Raw;
use report::Row;
use service::Service;

/// What went wrong, in words.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Containers that are run, on each side.
    runs: usize,
    /// Questions asked of the engine; ours are asked several times as often.
    questions: usize,
    /// Containers that run while RunContainer of what runs already is measured.
    running: usize,
    /// Rounds and milliseconds of each in which calls are counted.
    rounds: (usize, u64),
    /// Containers in the list.
    listed: usize,
    /// Containers made while the list is asked for.
    burst: usize,
    /// Lines of a log that was there before the service.
    backlog: usize,
    /// Containers that write at once, and lines of each.
    busy: (usize, usize),
    /// How long lines come to a follower.
    steady: Duration,
    /// Bytes of the texts of which the stored size is told.
    sized: usize,
    /// Lines that are searched, and bytes of a store that is opened.
    paged: usize,
    large: u64,
    /// Bytes of an asset that is fetched, and how often.
    fetched: (u64, usize),
    /// Containers that are known, and followers, while memory is measured.
    known: usize,
    followers: usize,
    /// Files of one build context, and bytes of the file of another.
    files: usize,
    file_bytes: u64,
    /// Containers that are asked each second whether they are well.
    probed: usize,
}

const FULL: Plan = Plan {
    runs: 30,
    questions: 60,
    running: 60,
    rounds: (3, 3000),
    listed: 200,
    burst: 50,
    backlog: 1_000_000,
    busy: (10, 100_000),
    steady: Duration::from_secs(10),
    sized: 64 << 20,
    paged: 10_000_000,
    large: 1_000_000_000,
    fetched: (1 << 30, 5),
    known: 500,
    followers: 100,
    files: 20_000,
    file_bytes: 1 << 30,
    probed: 200,
};
const QUICK: Plan = Plan {
    runs: 2,
    questions: 5,
    running: 3,
    rounds: (1, 200),
    listed: 10,
    burst: 4,
    backlog: 20_000,
    busy: (2, 5_000),
    steady: Duration::from_secs(1),
    sized: 4 << 20,
    paged: 1_000_000,
    large: 10_000_000,
    fetched: (64 << 20, 2),
    known: 10,
    followers: 5,
    files: 1_000,
    file_bytes: 16 << 20,
    probed: 5,
};

#[tokio::main]
async fn main() -> ExitCode {
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    let (quick, logs) = (asked("--quick"), asked("--logs"));
    let plan = if quick { QUICK } else { FULL };
    let part = match (asked("--gpus"), asked("--builds")) {
        (true, _) => Some(gpus::rows(plan).await),
        (_, true) => Some(builds::contexts(plan).await.map(Vec::from)),
        _ => None,
    };
    if let Some(rows) = part {
        return match rows {
            Ok(rows) => {
                report::say(&report::table(&rows));
                ExitCode::SUCCESS
            }
            Err(failure) => {
                report::say(&format!("the benchmarks failed: {failure}\n"));
                ExitCode::FAILURE
            }
        };
    }
    let measured = tokio::select! {
        measured = measure(plan, logs, !quick && !logs) => measured,
        // What was made is removed as the benchmarks are dropped.
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::say(&format!("the benchmarks failed: {failure}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn measure(plan: Plan, only_logs: bool, write: bool) -> Result<(), Failure> {
    let raw = Raw::connect().await?;
    let mut rows = Vec::new();
    if !only_logs {
        rows.extend(containers(plan, &raw).await?);
        report::say("sending build contexts\n");
        rows.extend(builds::contexts(plan).await?);
        report::say("placing containers on GPUs, and looking at these\n");
        rows.extend(gpus::rows(plan).await?);
    }
    rows.extend(logs(plan, &raw).await?);
    let version = raw.version().await?;
    let levels = levels::table()?;
    report::say(&format!("\n{}\n{}{levels}", report::table(&rows), missed::told(&rows)));
    if write {
        report::write(plan, &rows, &levels, &version)?;
    }
    Ok(())
}

async fn containers(plan: Plan, raw: &Raw) -> Result<Vec<Row>, Failure> {
    let service = Service::start(&raw.image).await?;
    let mut rows = Vec::new();
    report::say("running containers on both sides\n");
    rows.push(measure::run_new(plan, &service, raw).await?);
    report::say("asking for what runs already\n");
    raw.run_many(plan.running).await?;
    service.knows(plan.running).await?;
    rows.extend(measure::run_unchanged(plan, &service, raw).await?);
    report::say("running containers with keeps and assets\n");
    rows.extend(assets::cached(plan, &service, raw).await?);
    raw.remove_made();
    rows.push(measure::is_running(plan, &service).await?);
    report::say("listing containers\n");
    raw.make_many(plan.listed).await?;
    service.knows(plan.listed).await?;
    rows.push(measure::list(plan, &service, raw).await?);
    rows.push(measure::list_during_burst(plan, &service, raw).await?);
    raw.remove_made();
    report::say("fetching assets\n");
    rows.extend(assets::download(plan, raw).await?);
    Ok(rows)
}

async fn logs(plan: Plan, raw: &Raw) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    report::say("collecting logs\n");
    rows.extend(collect::backlog(plan, raw).await?);
    rows.extend(collect::keep_up(plan, raw).await?);
    rows.extend(collect::age(plan, raw).await?);
    report::say("storing and finding logs\n");
    rows.extend(stored::sizes(plan).await?);
    rows.extend(footprint::large(plan).await?);
    report::say("starting, and looking at the memory\n");
    rows.extend(footprint::idle().await?);
    rows.push(footprint::many(plan, raw).await?);
    report::say("asking containers whether they are well\n");
    rows.extend(supervise::probes(plan, raw).await?);
    Ok(rows)
}
