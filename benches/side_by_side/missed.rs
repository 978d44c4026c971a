//! Why a bar is missed, as far as it is known.

use std::fmt::Write as _;

use crate::report::Row;

/// What each row would say if it missed its bar. Each reason was found with a profile
/// or by a count, and is looked at again when the row changes.
const REASONS: [(&str, &str); 11] = [
    (
        "RunContainer by gRPC, already running, 60 on the engine",
        "No call to the engine is made; the row below shows how much of it is the call \
         itself, over HTTP/2 with a token. The engine answers this question in a few \
         milliseconds here, so that a fiftieth is little more than an empty call.",
    ),
    (
        "RunContainer with 5 keeps and 5 assets cached, already running",
        "As above, and five files and five volumes are looked at, so that nobody is told \
         UNCHANGED of a file that somebody took away.",
    ),
    (
        "ListContainers by REST, 200 containers",
        "About 230 KB of JSON are written and sent. The time goes with their number: most \
         of it to writing text and to the kernel's copy to the socket; none waits.",
    ),
    (
        "Build with a context of many files",
        "Nearly all of it is the engine's, which unpacks 20,000 files on both sides, and it \
         varies from turn to turn by more than the bar is wide.",
    ),
    (
        "Logs: stored size, JSON lines of a service",
        "A line holds 9.6 bytes of pure chance on average (a trace id of 16 random bytes for \
         three lines, ids, latencies, sizes), which nothing can pack, 0.046 of the raw bytes, \
         and 0.012 are the engine's times to the nanosecond. The table of levels below shows \
         what more work finds: even level 19, at 2 MB/s, stays above a twelfth.",
    ),
    (
        "the same, access log of a web server",
        "As above: 9.8 bytes of chance a line, 0.052 of the raw bytes, and 0.016 for the \
         times of the engine.",
    ),
    ("the same, errors with stack traces", "As above."),
    (
        "Memory, idle",
        "The row below tells its own memory. The rest are pages of the program's file that \
         were read at the start, which the kernel drops when it needs the room.",
    ),
    (
        "200 containers probed over HTTP each second, processor time in a second",
        "200 connections are made, used and closed each second, so about 0.6 ms each: the \
         kernel's work for a connection over the engine's bridge, and the wake-ups for its \
         answers. This bar is our own, none of the contract's.",
    ),
    (
        "Asset fetched and on the disk",
        "The disk decides, which takes a gibibyte on both sides and varies from turn to turn.",
    ),
    (
        "RunContainer by gRPC, nothing running",
        "Nearly all of it is the engine's create and start, which vary by more than the bar \
         is wide.",
    ),
];

/// A line for each bar that is missed; empty when all are met.
pub(crate) fn told(rows: &[Row]) -> String {
    let missed: Vec<_> = rows.iter().filter(|row| !row.is_met()).collect();
    if missed.is_empty() {
        return String::new();
    }
    let mut text = String::from("## Bars that are missed, and why\n\n");
    for row in missed {
        let reason = REASONS.iter().find(|(what, _)| *what == row.what);
        let reason = reason.map_or("It is not known why.", |(_, reason)| *reason);
        let _ = writeln!(text, "- {}: {reason}", row.what);
    }
    text.push('\n');
    text
}
