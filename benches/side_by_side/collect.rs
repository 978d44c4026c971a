//! How the logs of containers of the real engine are collected.

use std::time::{Duration, Instant, SystemTime};

use container_svc::rpc::pb;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    Failure, Plan,
    child::{Child, cpu},
    engine::Raw,
    measure::middle,
    report::{Bar, Row, Unit},
};

/// Rounds of the backlog, each on both sides.
const ROUNDS: usize = 3;
/// How long lines may take to come.
const PATIENCE: Duration = Duration::from_secs(300);

/// A script that writes so many lines of 117 bytes with the newline, as fast as it can.
fn many_lines(count: usize) -> String {
    format!(
        r#"busybox awk 'BEGIN {{ for (i = 1; i <= {count}; i++) printf "2026-03-04T10:00:00.%03dZ level=info component=http method=GET path=/api/v1/orders/%06d status=200 ms=%03d request=%07d\n", i % 1000, 1000000 * rand(), 1000 * rand(), i }}'"#
    )
}

/// What the last of them ends with.
fn last_line(count: usize) -> String {
    format!("request={count:07}")
}

/// A long log that was there before the service: lines a second, and processor time
/// of a line. Beside both: the engine's API.
pub(crate) async fn backlog(plan: Plan, raw: &Raw) -> Result<[Row; 2], Failure> {
    let id = raw.script("backlog", &many_lines(plan.backlog)).await?;
    raw.ended(&id).await?;
    let engine = raw.process().await?;
    let lines = u32::try_from(plan.backlog)?;
    let (mut rates, mut costs) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..ROUNDS {
        let (before, begin) = (cpu(engine)?, Instant::now());
        raw.read_past(&format!("/containers/{id}/logs?stdout=1&stderr=1")).await?;
        rates[1].push(f64::from(lines) / begin.elapsed().as_secs_f64());
        costs[1].push((cpu(engine)? - before).as_secs_f64() * 1e6 / f64::from(lines));

        let data = TempDir::new()?;
        let child = Child::start(data.path()).await?;
        child.has_last_line(&id, &last_line(plan.backlog)).await?;
        rates[0].push(f64::from(lines) / child.begin.elapsed().as_secs_f64());
        costs[0].push(child.cpu()?.as_secs_f64() * 1e6 / f64::from(lines));
    }
    raw.remove(&id).await?;
    let against = "GET /containers/id/logs";
    let [ours, beside] = rates.map(middle);
    let rate = Row {
        what: "Logs: catching up on 1,000,000 lines",
        against,
        ours,
        beside,
        unit: Unit::PerSecond,
        bar: Bar::FigureAtLeast(500_000.0),
    };
    let [ours, beside] = costs.map(middle);
    let cost = Row {
        what: "the same, processor time of a line",
        against,
        ours,
        beside,
        unit: Unit::Microseconds,
        bar: Bar::AtMost(0.1),
    };
    Ok([rate, cost])
}

/// Containers that write as fast as they can: lines a second on both sides, from
/// the first line to the last, and how late the last line is.
pub(crate) async fn keep_up(plan: Plan, raw: &Raw) -> Result<[Row; 2], Failure> {
    let data = TempDir::new()?;
    let child = Child::start(data.path()).await?;
    let (containers, lines) = plan.busy;
    let mut ends = follow(&child, &raw.name("busy-*"), &last_line(lines)).await?;
    let begin = SystemTime::now();
    for at in 0..containers {
        raw.script(&format!("busy-{at}"), &many_lines(lines)).await?;
    }
    let (mut written, mut read) = (begin, begin);
    let mut missing = containers;
    while missing > 0 {
        for line in next(&mut ends).await? {
            written = written.max(time(&line)?);
            missing = missing.saturating_sub(1);
        }
        read = SystemTime::now();
    }
    raw.remove_made();
    let all = f64::from(u32::try_from(containers * lines)?);
    let rate = |end: SystemTime| Ok::<_, Failure>(all / end.duration_since(begin)?.as_secs_f64());
    let rates = Row {
        what: "Logs: 10 containers at full speed",
        against: "the engine writes",
        ours: rate(read)?,
        beside: rate(written)?,
        unit: Unit::PerSecond,
        bar: Bar::AtLeast(0.95),
    };
    let lag = Row {
        what: "the same, the last line until it is read",
        against: "",
        ours: read.duration_since(written)?.as_secs_f64() * 1e3,
        beside: f64::NAN,
        unit: Unit::Milliseconds,
        bar: Bar::FigureAtMost(100.0),
    };
    Ok([rates, lag])
}

/// How old lines are when they come to a follower, at 10,000 lines a second.
pub(crate) async fn age(plan: Plan, raw: &Raw) -> Result<[Row; 2], Failure> {
    let data = TempDir::new()?;
    let child = Child::start(data.path()).await?;
    let mut lines = follow(&child, &raw.name("steady"), "").await?;
    // The shell takes some milliseconds for each turn, so the sleep is shorter than ten.
    let turn = "busybox awk 'BEGIN { for (i = 0; i < 100; i++) print \"steady \" i }'";
    let script = format!("while true; do {turn}; busybox usleep 5500; done");
    let id = raw.script("steady", &script).await?;
    let mut ages = Vec::new();
    let mut begin = None;
    while begin.is_none_or(|begin: Instant| begin.elapsed() < plan.steady) {
        let come = next(&mut lines).await?;
        let now = SystemTime::now();
        for line in come {
            begin.get_or_insert_with(Instant::now);
            let age = now.duration_since(time(&line)?).unwrap_or_default();
            ages.push(age.as_secs_f64() * 1e3);
        }
    }
    raw.remove(&id).await?;
    crate::report::say(&format!("{} lines in {:?}\n", ages.len(), plan.steady));
    ages.sort_by(f64::total_cmp);
    let at = |part: usize| ages.get(ages.len() * part / 100).copied().unwrap_or(f64::NAN);
    let row = |what, ours| Row {
        what,
        against: "",
        ours,
        beside: f64::NAN,
        unit: Unit::Milliseconds,
        bar: Bar::FigureAtMost(50.0),
    };
    Ok([
        row("Logs: age of a line at a follower, 10,000 a second, p50", at(50)),
        row("the same, p99", at(99)),
    ])
}

type Tail = tonic::Streaming<pb::TailLogsResponse>;

/// Follows the lines with a text of containers with such names.
async fn follow(child: &Child, names: &str, text: &str) -> Result<Tail, Failure> {
    let request = pb::TailLogsRequest {
        name_pattern: names.to_owned(),
        contains: text.to_owned(),
        ..Default::default()
    };
    Ok(child.logs.clone().tail_logs(request).await?.into_inner())
}

async fn next(tail: &mut Tail) -> Result<Vec<pb::Log>, Failure> {
    let message = timeout(PATIENCE, tail.message()).await??;
    Ok(message.ok_or("the tail has ended")?.logs)
}

/// When the engine took a line.
fn time(line: &pb::Log) -> Result<SystemTime, Failure> {
    Ok(SystemTime::try_from(line.created_at.ok_or("a line has no time")?)?)
}
