//! How far a log was collected; committed together with its lines.

use serde::{Deserialize, Serialize};

use super::Decoder;

/// Where collection goes on, and what is needed to go on there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Place in the engine's log.
    pub place: Place,
    /// What was held back there.
    #[serde(default)]
    pub decoder: Decoder,
}

/// A place in the engine's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In a json-file log.
    Files {
        /// Inode of the file. Numbers are used again, so it proves nothing alone.
        inode: u64,
        /// Bytes of it that were read.
        offset: u64,
        /// sha256 of the last bytes before the offset, in hexadecimal digits.
        anchor: String,
        /// The file is a copy of one that was then cut to nothing; what was written
        /// between the two is in neither.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        copy: bool,
    },
    /// In what the engine's API tells.
    Engine {
        /// Time of the last record, in nanoseconds since 1970.
        time: i64,
        /// Its number among the records of its stream with exactly that time, one
        /// after the other; 0 when nothing was read yet.
        seen: u64,
        /// sha256 of the last record, in hexadecimal digits.
        digest: String,
    },
}
