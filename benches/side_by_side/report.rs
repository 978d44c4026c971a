//! The table: what was measured, beside what, and whether the bar is met.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    thread,
};

use crate::{Failure, Plan, missed};

/// In what a figure is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Time of one call.
    Milliseconds,
    /// Calls or lines.
    PerSecond,
    /// Processor time of one line.
    Microseconds,
    /// Millions of bytes.
    Megabytes,
    /// Thousand millions of bytes, by one core.
    GigabytesPerSecond,
}

/// What the ratio, or the figure itself, must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// Ours may take so many times as long.
    AtMost(f64),
    /// Ours must reach this part.
    AtLeast(f64),
    /// Our figure, whatever is beside it.
    FigureAtMost(f64),
    /// Our figure, whatever is beside it.
    FigureAtLeast(f64),
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Row {
    /// What we did.
    pub(crate) what: &'static str,
    /// What was done beside it; empty when nothing was.
    pub(crate) against: &'static str,
    /// Our figure.
    pub(crate) ours: f64,
    /// The other.
    pub(crate) beside: f64,
    /// Of both.
    pub(crate) unit: Unit,
    /// For ours divided by the other, or for ours.
    pub(crate) bar: Bar,
}

impl Row {
    /// Whether the bar is met.
    pub(crate) fn is_met(&self) -> bool {
        let ratio = self.ours / self.beside;
        match self.bar {
            Bar::AtMost(most) => ratio <= most,
            Bar::AtLeast(least) => ratio >= least,
            Bar::FigureAtMost(most) => self.ours <= most,
            Bar::FigureAtLeast(least) => self.ours >= least,
        }
    }
}

/// The table in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| What | Ours | Beside it | Ratio | Bar | Met |\n|---|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let ratio = row.ours / row.beside;
        let figure = |value: f64| match row.unit {
            Unit::Milliseconds => format!("{value:.3} ms"),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Microseconds => format!("{value:.3} µs"),
            Unit::Megabytes => format!("{value:.1} MB"),
            Unit::GigabytesPerSecond => format!("{value:.2} GB/s"),
        };
        let bar = match row.bar {
            Bar::AtMost(most) => format!("at most {most:.3}"),
            Bar::AtLeast(least) => format!("at least {least:.3}"),
            Bar::FigureAtMost(most) => format!("at most {}", figure(most)),
            Bar::FigureAtLeast(least) => format!("at least {}", figure(least)),
        };
        let (beside, ratio) = match row.against {
            "" => (String::new(), String::new()),
            against => (format!("{against}: {}", figure(row.beside)), format!("{ratio:.3}")),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {beside} | {ratio} | {bar} | {} |",
            row.what,
            figure(row.ours),
            if row.is_met() { "yes" } else { "no" }
        );
    }
    text
}

/// Writes `BENCHMARKS.md`.
pub(crate) fn write(plan: Plan, rows: &[Row], levels: &str, engine: &str) -> Result<(), Failure> {
    let cores = thread::available_parallelism()?;
    let (table, missed) = (table(rows), missed::told(rows));
    let (containers, logs) = (about_containers(plan), about_logs(plan));
    let text = format!(
        "# Benchmarks\n\n\
Written by `make bench`; do not edit. {cores} cores, Docker Engine {engine}, release profile.\n\n\
{table}\n\
{missed}\
## How it is measured\n\n\
Absolute figures depend on the machine and on what else it does. The ratios hold, because each\n\
figure is measured by turns with the one beside it, in one run. Times are medians.\n\n\
{containers}{logs}\n\
{levels}\n\
Each figure is a part of the raw bytes, packed in segments of a mebibyte by one core. What is left\n\
at level 3 is mostly digits of times, ids, addresses and latencies, which differ in each line. A\n\
higher level finds little more for many times the work, and the bar for processor time counts too.\n"
    );
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/BENCHMARKS.md"), text)?;
    Ok(())
}

fn about_containers(plan: Plan) -> String {
    let Plan { runs, questions, running, rounds: (rounds, millis), listed, burst, .. } = plan;
    let (mebibytes, turns) = (plan.fetched.0 >> 20, plan.fetched.1);
    format!(
        "\
- The service runs in the process of the benchmark with its default configuration and a token on\n\
\x20 every call, on the loopback interface.\n\
- RunContainer, nothing running: {runs} containers on each side, in the same network; who begins\n\
\x20 changes with every pair. Each is removed before the next. Beside it: create and start by bollard.\n\
- RunContainer, already running: while {running} containers run on the engine, beside it; {questions} questions to the\n\
\x20 engine in bursts of 10, a burst of 100 calls of ours after each, on kept connections. The engine's\n\
\x20 answer is read as bytes and not parsed.\n\
- IsContainerRunning: 8 calls at once on one connection, {rounds} rounds of {millis} ms on each side. Beside\n\
\x20 it: a tonic server without a guard that answers the health check, in the same process.\n\
- ListContainers: {listed} containers that were made and not started, and whatever else the engine has;\n\
\x20 the last row while {burst} more are made, four at once.\n\
- Keeps and assets: while {running} containers run. The volumes are there and the assets in the cache;\n\
\x20 the engine has volumes and files of its own.\n\
- Asset: {mebibytes} MiB from a server on the loopback interface, {turns} turns of each. Ours is a process of\n\
\x20 its own, from the request for a container until it tells that the asset is whole, with its\n\
\x20 checksum and on the disk. Beside it: curl and, since it leaves the file in memory, sync of it.\n\
- GPUs: placement beside up to 32 bookings, through the library. Looks: at a stand-in for NVIDIA's\n\
\x20 library with 8 devices and a process on each; beside nvidia-smi only on a machine with a GPU.\n"
    )
}

fn about_logs(plan: Plan) -> String {
    let Plan {
        backlog,
        busy: (writers, lines),
        steady,
        sized,
        paged,
        known,
        followers,
        probed,
        ..
    } = plan;
    let mebibytes = sized >> 20;
    format!(
        "\
- For the rows on logs, memory and start the service is a process of its own; the kernel says how\n\
\x20 much processor time and memory it has taken.\n\
- Catching up: a container wrote {backlog} lines of 117 bytes before the service was there. The\n\
\x20 time is from the start of the process until its API answers with the last line, the processor\n\
\x20 time all that the process took until then. Beside it: a client that reads the same log from the\n\
\x20 engine and keeps nothing, and the processor time of the engine.\n\
- Full speed: {writers} containers write {lines} such lines each. The engine's rate is up to the time\n\
\x20 that it gave the last line, ours up to when a follower has got the last line of each.\n\
- Age: one container writes 100 lines every 10 ms for {steady:?}; from the time that the engine gave a\n\
\x20 line to when the follower, by gRPC, has decoded it.\n\
- Stored size: {mebibytes} MiB of made-up lines of each kind, the same in every run, with times, ids,\n\
\x20 addresses and latencies that vary. Raw is the bytes of the texts with their newlines; in the\n\
\x20 engine's file they take more, its quotes, stream and time about 75 bytes a line. Stored is the\n\
\x20 bytes of the columns, with the engine's time of each line to the nanosecond; the rows and the\n\
\x20 index around them add about one part in a hundred.\n\
- First page and search: {paged} such lines of ten containers. The page is the slowest of 30, each of one\n\
\x20 container and a tenth of its time, with a text that few lines have. The search is for a text that\n\
\x20 no line has, through the library.\n\
- Memory is what the kernel counts as resident. Many: {known} containers that were made and not\n\
\x20 started, the stored logs of {known} that are gone, and {followers} followers of all these.\n\
- Probes: {probed} containers with an HTTP server run, each is asked once a second, over 20 s.\n\
- Start: until the health service says SERVING. 1 GB: about 10 GB of lines, in 9,000 segments.\n"
    )
}

/// Tells whoever watches; nobody needs to.
pub(crate) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
