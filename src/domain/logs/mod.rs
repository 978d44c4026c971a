//! Log lines: how they are read, joined, searched and counted.

use serde::{Deserialize, Serialize};

mod batch;
mod checkpoint;
mod decoder;
mod filter;
mod frames;
mod join;
mod record;
mod seek;
mod select;
#[cfg(test)]
mod vectors;

pub use batch::{Batch, Entry, put_varint, take_varint};
pub use checkpoint::{Checkpoint, Place};
pub use decoder::Decoder;
pub use filter::{Filter, Matcher, StreamSet};
pub use frames::{FrameError, Frames, Piece};
pub use join::Joiner;
pub use record::{Record, parse_time};
pub use seek::{Found, Seek};
pub use select::{Selection, glob};

/// Where a container wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; with a terminal, everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What an entry of a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A line.
    Line(Stream),
    /// Lines are missing here; the content is a [`Gap`].
    Gap,
}

/// Where lines are collected from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The engine's json-file log on this host.
    Files,
    /// The engine's API.
    Engine,
}

/// Where lines are to be collected from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceChoice {
    /// From the engine's files where they can be read, else from its API.
    Auto,
    /// Only from the files.
    Files,
    /// Only from the API.
    Engine,
}

/// Why lines are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// The engine rotated them away before they were read.
    Rotated,
    /// The log was cut to nothing before they were read.
    Truncated,
    /// The container was removed before its log was read to the end.
    Removed,
    /// The engine's log is damaged here.
    Damaged,
}

impl GapReason {
    /// The word that callers see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Truncated => "truncated",
            Self::Removed => "removed",
            Self::Damaged => "damaged",
        }
    }
}

/// Lines are missing between two others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// Time of the last line before it, in nanoseconds since 1970.
    pub from: Option<i64>,
    /// Time of the first line after it.
    pub to: Option<i64>,
    /// How many lines, where that is known.
    pub count: Option<u64>,
}

impl Gap {
    /// A gap whose end is not known yet.
    pub fn after(reason: GapReason, from: Option<i64>) -> Self {
        Self { reason, from, to: None, count: None }
    }

    /// As the content of an entry.
    pub fn to_content(&self) -> Vec<u8> {
        // A struct of numbers and words always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From the content of an entry.
    pub fn from_content(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }
}
