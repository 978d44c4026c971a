//! The table: what was measured, beside what, and whether the bar is met.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    thread,
};

use crate::{Failure, Plan};

/// In what a figure is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Time of one call.
    Milliseconds,
    /// Calls.
    PerSecond,
}

/// What the ratio must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// Ours may take so many times as long.
    AtMost(f64),
    /// Ours must reach this part.
    AtLeast(f64),
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Row {
    /// What we did.
    pub(crate) what: &'static str,
    /// What was done beside it.
    pub(crate) against: &'static str,
    /// Our figure.
    pub(crate) ours: f64,
    /// The other.
    pub(crate) beside: f64,
    /// Of both.
    pub(crate) unit: Unit,
    /// For ours divided by the other.
    pub(crate) bar: Bar,
}

/// The table in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| What | Ours | Beside it | Ratio | Bar | Met |\n|---|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let ratio = row.ours / row.beside;
        let (bar, met) = match row.bar {
            Bar::AtMost(most) => (format!("at most {most:.3}"), ratio <= most),
            Bar::AtLeast(least) => (format!("at least {least:.3}"), ratio >= least),
        };
        let figure = |value: f64| match row.unit {
            Unit::Milliseconds => format!("{value:.3} ms"),
            Unit::PerSecond => format!("{value:.0}/s"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {}: {} | {ratio:.3} | {bar} | {} |",
            row.what,
            figure(row.ours),
            row.against,
            figure(row.beside),
            if met { "yes" } else { "no" }
        );
    }
    text
}

/// Writes `BENCHMARKS.md`.
pub(crate) fn write(plan: Plan, rows: &[Row], engine: &str) -> Result<(), Failure> {
    let Plan { runs, questions, running, rounds: (rounds, millis), listed, burst } = plan;
    let cores = thread::available_parallelism()?;
    let table = table(rows);
    let text = format!(
        "# Benchmarks\n\n\
Written by `make bench`; do not edit. {cores} cores, Docker Engine {engine}, release profile.\n\n\
{table}\n\
Absolute figures depend on the machine and on what else it does. The ratios hold, because each\n\
figure is measured by turns with the one beside it, in one run. Times are medians.\n\n\
- The service runs in the process of the benchmark with its default configuration and a token on\n\
\x20 every call, on the loopback interface.\n\
- RunContainer, nothing running: {runs} containers on each side, in the same network; who begins\n\
\x20 changes with every pair. Each is removed before the next. Beside it: create and start by bollard.\n\
- RunContainer, already running: while {running} containers run on the engine, beside it; {questions} questions to the engine, five times as many calls of\n\
\x20 ours between them, on kept connections. The engine's answer is read as bytes and not parsed.\n\
- IsContainerRunning: 8 calls at once on one connection, {rounds} rounds of {millis} ms on each side. Beside\n\
\x20 it: a tonic server without a guard that answers the health check, in the same process.\n\
- ListContainers: {listed} containers that were made and not started, and whatever else the engine has;\n\
\x20 the last row while {burst} more are made, four at once.\n"
    );
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/BENCHMARKS.md"), text)?;
    Ok(())
}

/// Tells whoever watches; nobody needs to.
pub(crate) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
