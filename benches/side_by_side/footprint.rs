//! Memory of the service, and how soon it serves.

use std::time::Duration;

use container_svc::rpc::pb;
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::Child,
    engine::Raw,
    measure::median,
    report::{Bar, Row, Unit, say},
    stored,
};

/// Starts of which the median is told.
const STARTS: usize = 5;
/// After so long, a service that does nothing has come to rest.
const REST: Duration = Duration::from_secs(2);

/// Time until it serves, and memory, with nothing to do.
pub(crate) async fn idle() -> Result<[Row; 3], Failure> {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let data = TempDir::new()?;
        starts.push(Child::start(data.path()).await?.ready);
    }
    let data = TempDir::new()?;
    let child = Child::start(data.path()).await?;
    tokio::time::sleep(REST).await;
    Ok([
        start("Start until it serves, no data", median(starts), 200.0),
        memory("Memory, idle", child.memory()?, 25.0)?,
        memory("the same, without pages of the program's file", child.own_memory()?, 25.0)?,
    ])
}

/// Memory with many containers on the engine, the logs of as many known, and many
/// followers.
pub(crate) async fn many(plan: Plan, raw: &Raw) -> Result<Row, Failure> {
    let data = TempDir::new()?;
    let store = stored::open(data.path())?;
    stored::know(&store, plan.known).await?;
    drop(store);
    raw.make_many(plan.known).await?;
    let child = Child::start(data.path()).await?;
    let mut tails = Vec::new();
    for _ in 0..plan.followers {
        let request = pb::TailLogsRequest {
            name_pattern: "bench-*".to_owned(),
            last_lines: Some(100),
            ..Default::default()
        };
        let mut tail = child.logs.clone().tail_logs(request).await?.into_inner();
        tail.message().await?;
        tails.push(tail);
    }
    tokio::time::sleep(REST).await;
    let row = memory("Memory, 500 containers and 100 followers", child.memory()?, 80.0);
    raw.remove_made();
    row
}

/// First page, search and start with many lines.
pub(crate) async fn large(plan: Plan) -> Result<Vec<Row>, Failure> {
    let data = TempDir::new()?;
    let store = stored::open(data.path())?;
    stored::fill(&store, plan.paged).await?;
    let search = stored::search(&store).await?;
    drop(store);
    let child = Child::start(data.path()).await?;
    let page = stored::first_page(&child).await?;
    drop(child);

    let store = stored::open(data.path())?;
    stored::stuff(&store, plan.large).await?;
    drop(store);
    let size = data.path().join("logs.db").metadata()?.len();
    say(&format!("the log database has {size} bytes\n"));
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(Child::start(data.path()).await?.ready);
    }
    let start = start("Start until it serves, 1 GB of stored logs", median(starts), 1000.0);
    Ok(vec![page, search, start])
}

fn start(what: &'static str, ours: f64, bar: f64) -> Row {
    let unit = Unit::Milliseconds;
    Row { what, against: "", ours, beside: f64::NAN, unit, bar: Bar::FigureAtMost(bar) }
}

fn memory(what: &'static str, bytes: u64, bar: f64) -> Result<Row, Failure> {
    let ours = f64::from(u32::try_from(bytes)?) / 1e6;
    let unit = Unit::Megabytes;
    Ok(Row { what, against: "", ours, beside: f64::NAN, unit, bar: Bar::FigureAtMost(bar) })
}
