//! Measures the service side by side with the raw engine, and says which bars it meets.
//!
//! `cargo bench --bench side_by_side` prints a table and writes it to `BENCHMARKS.md`;
//! `-- --quick` takes a few samples only and writes nothing.

#[path = "side_by_side/engine.rs"]
mod engine;
#[path = "side_by_side/measure.rs"]
mod measure;
#[path = "side_by_side/report.rs"]
mod report;
#[path = "side_by_side/service.rs"]
mod service;

use std::process::ExitCode;

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
}

const FULL: Plan =
    Plan { runs: 30, questions: 60, running: 60, rounds: (3, 3000), listed: 200, burst: 50 };
const QUICK: Plan =
    Plan { runs: 2, questions: 5, running: 3, rounds: (1, 200), listed: 10, burst: 4 };

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let measured = tokio::select! {
        measured = measure(if quick { QUICK } else { FULL }, !quick) => measured,
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

async fn measure(plan: Plan, write: bool) -> Result<(), Failure> {
    let raw = Raw::connect().await?;
    let service = Service::start(&raw.image).await?;
    let mut rows: Vec<Row> = Vec::new();

    report::say("running containers on both sides\n");
    rows.push(measure::run_new(plan, &service, &raw).await?);
    report::say("asking for what runs already\n");
    raw.run_many(plan.running).await?;
    service.knows(plan.running).await?;
    rows.push(measure::run_unchanged(plan, &service, &raw).await?);
    raw.remove_made();
    rows.push(measure::is_running(plan, &service).await?);
    report::say("listing containers\n");
    raw.make_many(plan.listed).await?;
    service.knows(plan.listed).await?;
    rows.push(measure::list(plan, &service, &raw).await?);
    rows.push(measure::list_during_burst(plan, &service, &raw).await?);

    let version = raw.version().await?;
    report::say(&format!("\n{}", report::table(&rows)));
    if write {
        report::write(plan, &rows, &version)?;
    }
    Ok(())
}
