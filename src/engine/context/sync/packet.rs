//! The packets of fsutil, in which BuildKit gets the files of a context one by one.
//!
//! Paths are bytes here: on the wire that is the same as text, and files have such names.

use std::collections::BTreeMap;

use bytes::BufMut as _;
use prost::Message as _;

use crate::engine::context::walk::{Entry, Sort};

/// Types of packets.
const STAT: u32 = 0;
const REQ: u32 = 1;
const DATA: u32 = 2;
const FIN: u32 = 3;
const ERR: u32 = 4;

/// Bits of Go's `os.FileMode`.
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const NAMED_PIPE: u32 = 1 << 25;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const STICKY: u32 = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Packet {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(message, optional, tag = "2")]
    pub(super) stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub(super) id: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Stat {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) path: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) mode: u32,
    // The owner is 0.
    #[prost(int64, tag = "5")]
    pub(super) size: i64,
    #[prost(int64, tag = "6")]
    pub(super) mod_time: i64,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) link: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

/// What the engine wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The content of a file, by its number.
    File(u32),
    /// It has all.
    Done,
    /// It gave up, and why.
    GaveUp(String),
    /// What cannot be understood, and why.
    Broken(String),
}

impl Request {
    /// Reads one packet.
    pub fn read(message: &[u8]) -> Self {
        match Packet::decode(message) {
            Ok(Packet { kind: REQ, id, .. }) => Self::File(id),
            Ok(Packet { kind: FIN, .. }) => Self::Done,
            Ok(Packet { kind: ERR, data, .. }) => {
                Self::GaveUp(String::from_utf8_lossy(&data).into_owned())
            }
            Ok(Packet { kind, .. }) => Self::Broken(format!("a packet of type {kind}")),
            Err(why) => Self::Broken(format!("a packet that cannot be read: {why}")),
        }
    }
}

impl Packet {
    pub(super) fn stat(stat: Stat) -> Self {
        Self { kind: STAT, stat: Some(stat), ..Self::default() }
    }

    /// What follows the last entry.
    pub(super) fn no_more_stats() -> Self {
        Self { kind: STAT, ..Self::default() }
    }

    /// Bytes of a file; none are its end.
    pub(super) fn data(id: u32, data: Vec<u8>) -> Self {
        Self { kind: DATA, id, data, ..Self::default() }
    }

    pub(super) fn fin() -> Self {
        Self { kind: FIN, ..Self::default() }
    }

    pub(super) fn error(why: &str) -> Self {
        Self { kind: ERR, data: why.as_bytes().to_vec(), ..Self::default() }
    }

    /// As one message of gRPC.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(0);
        out.put_u32(u32::try_from(self.encoded_len()).unwrap_or(0));
        // There is room in a vector.
        let _ = self.encode(out);
    }
}

impl Stat {
    pub(super) fn of(entry: &Entry<'_>) -> Self {
        let mut mode = entry.mode & 0o777;
        for (bit, go) in [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)] {
            mode |= if entry.mode & bit == 0 { 0 } else { go };
        }
        mode |= match entry.sort {
            Sort::File | Sort::HardLink => 0,
            Sort::Symlink => SYMLINK,
            Sort::Folder => DIR,
            Sort::Fifo => NAMED_PIPE,
        };
        let size = match entry.sort {
            Sort::Symlink => entry.link.len() as u64,
            _ => entry.size,
        };
        let capability = (!entry.capability.is_empty())
            .then(|| ("security.capability".to_owned(), entry.capability.to_vec()));
        Self {
            path: entry.path.to_vec(),
            mode,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            mod_time: entry.mtime.saturating_mul(1_000_000_000).saturating_add(entry.nanos.into()),
            link: entry.link.to_vec(),
            xattrs: capability.into_iter().collect(),
        }
    }

    /// Whether this folder has that entry below it.
    pub(super) fn holds(&self, other: &Self) -> bool {
        other.path.strip_prefix(&self.path[..]).is_some_and(|rest| rest.starts_with(b"/"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mode_is_told_as_go_writes_it() {
        for (sort, mode, told) in [
            (Sort::File, 0o100_644, 0o644),
            (Sort::HardLink, 0o104_755, 1 << 23 | 0o755),
            (Sort::Folder, 0o041_777, 1 << 31 | 1 << 20 | 0o777),
            (Sort::Folder, 0o042_750, 1 << 31 | 1 << 22 | 0o750),
            (Sort::Symlink, 0o120_777, 1 << 27 | 0o777),
            (Sort::Fifo, 0o010_600, 1 << 25 | 0o600),
        ] {
            let entry = Entry {
                sort,
                path: b"p\xff",
                link: b"to",
                mode,
                size: 7,
                mtime: -1,
                nanos: 5,
                capability: b"",
            };
            let stat = Stat::of(&entry);
            assert_eq!(stat.mode, told, "{sort:?}");
            assert_eq!(stat.size, if sort == Sort::Symlink { 2 } else { 7 });
            assert_eq!((stat.mod_time, &stat.path[..]), (-999_999_995, &b"p\xff"[..]));
        }
    }

    proptest! {
        #[test]
        fn fuzz_whatever_the_engine_sends_is_a_request_or_refused(
            message in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = Request::read(&message);
        }
    }
}
