//! The files of one json-file log: the current one and those rotated away.
//!
//! The engine renames `log` to `log.1`, `log.1` to `log.2` and so on, and may
//! compress the older ones to `log.2.gz`. Other tools copy the log and cut it.

#[cfg(test)]
use std::cell::RefCell;
use std::{
    fs::{self, File},
    io::{self, BufReader, ErrorKind, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::domain::spec::hex;

/// Bytes before a place that prove that a file is the one that was read. A record
/// has the nanosecond in it, so two files do not agree on so many bytes.
pub(super) const ANCHOR: usize = 1024;

/// How long a rotation may take on a busy machine.
const ROTATION: Duration = Duration::from_millis(20);

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sibling {
    /// 0 is the current one; the higher, the older.
    pub(super) age: u32,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) compressed: bool,
    pub(super) path: PathBuf,
}

#[cfg(test)]
thread_local! {
    /// What a test does to the files right after they were listed.
    pub(super) static LISTED: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// And while the reader waits for the end of a rotation.
    pub(super) static WAITED: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// All files of a log that are there, the oldest first.
pub(super) fn siblings(log: &Path) -> io::Result<Vec<Sibling>> {
    let base = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found: Vec<Sibling> = Vec::new();
    for entry in fs::read_dir(log.parent().unwrap_or(log))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&base)) else { continue };
        let (number, compressed) = match rest.strip_suffix(".gz") {
            Some(number) => (number, true),
            None => (rest, false),
        };
        let age = match number.strip_prefix('.') {
            None if number.is_empty() && !compressed => Some(0),
            Some(number) => number.parse().ok().filter(|age| *age > 0),
            None => None,
        };
        let Some(age) = age else { continue };
        match entry.metadata() {
            Ok(meta) if meta.is_file() => {
                let (inode, size, path) = (meta.ino(), meta.len(), entry.path());
                found.push(Sibling { age, inode, size, compressed, path });
            }
            Ok(_) => {}
            // It was renamed or removed in this moment.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // While the engine compresses a file both are there; the plain one is whole.
    found.sort_by_key(|file| (std::cmp::Reverse(file.age), file.compressed));
    found.dedup_by_key(|file| file.age);
    #[cfg(test)]
    if let Some(act) = LISTED.take() {
        act();
    }
    Ok(found)
}

/// Waits for as long as a rotation may take that has begun: the engine removes a file
/// and renames the others.
pub(super) fn let_rotate() {
    #[cfg(test)]
    if let Some(act) = WAITED.take() {
        return act();
    }
    thread::sleep(ROTATION);
}

/// An open file of a log.
#[derive(Debug)]
pub(super) enum Body {
    /// As the engine writes it.
    Plain(File),
    /// Compressed; it does not change any more.
    Packed {
        decoder: Box<MultiGzDecoder<BufReader<File>>>,
        /// Bytes that were unpacked and not used yet.
        ahead: Vec<u8>,
    },
}

impl Body {
    /// Opens a file; `None` when it is not there any more under this name.
    pub(super) fn open(file: &Sibling) -> io::Result<Option<Self>> {
        let opened = match File::open(&file.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if opened.metadata()?.ino() != file.inode {
            return Ok(None);
        }
        Ok(Some(match file.compressed {
            false => Self::Plain(opened),
            true => Self::Packed {
                decoder: Box::new(MultiGzDecoder::new(BufReader::new(opened))),
                ahead: Vec::new(),
            },
        }))
    }

    /// True when the bytes before `offset` are those of the anchor; a packed file is
    /// then unpacked up to there.
    pub(super) fn holds(&mut self, offset: u64, anchor: &str) -> io::Result<bool> {
        let length = offset.min(ANCHOR as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(ANCHOR)];
        let read = match self {
            Self::Plain(file) => file.read_exact_at(&mut bytes, offset - length),
            Self::Packed { decoder, .. } => {
                let mut skip = decoder.by_ref().take(offset - length);
                match io::copy(&mut skip, &mut io::sink()) {
                    Ok(skipped) if skipped == offset - length => decoder.read_exact(&mut bytes),
                    Ok(_) => return Ok(false),
                    Err(error) => Err(error),
                }
            }
        };
        match read {
            Ok(()) => Ok(digest(&bytes) == anchor),
            Err(error) if is_damage(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// True when a file ends too early, or is packed badly.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput
    )
}

/// The anchor for these last bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..16])
}
