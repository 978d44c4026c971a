//! A file that grows to the content of an asset, and what is needed to go on with it.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AssetLimits, Content, Validator, disk_full, failed, too_large};
use crate::domain::{Error, Result, spec::hex};

/// So many bytes are written before the disk is looked at again.
const LOOK: u64 = 1 << 20;
/// Bytes that are read at once when a part is hashed again.
const BUFFER: usize = 256 << 10;

/// What stands beside the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Beside {
    url: String,
    etag: String,
    last_modified: String,
    /// Bytes of the whole; 0 is not known.
    total: u64,
    /// A start of the machine. After a crash of it, the file may hold zeros where
    /// bytes were written that never came to the disk.
    boot: String,
}

/// The file, open and locked: nobody else writes to it.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
    looked: u64,
    beside: Beside,
    limits: AssetLimits,
}

impl Part {
    /// Opens or makes it. What an earlier fetch left is kept when it can be gone on with.
    pub(super) async fn open(path: &Path, url: &str, limits: AssetLimits) -> Result<Self> {
        let (path, url) = (path.to_owned(), url.to_owned());
        blocking(move || {
            let failed = |error: io::Error| unusable(&path, &url, error);
            let mut part = Self {
                file: locked(&path).map_err(failed)?,
                hasher: Sha256::new(),
                length: 0,
                looked: 0,
                beside: Beside::default(),
                limits,
                path: path.clone(),
            };
            part.recall(&url).map_err(failed)?;
            Ok(part)
        })
        .await
    }

    /// Takes over what an earlier fetch of the same URL left.
    fn recall(&mut self, url: &str) -> io::Result<()> {
        let text = fs::read(beside(&self.path)).unwrap_or_default();
        let known: Beside = serde_json::from_slice(&text).unwrap_or_default();
        if known.url == url && known.boot == boot() && !known.boot.is_empty() {
            let mut buffer = vec![0; BUFFER];
            loop {
                match self.file.read(&mut buffer)? {
                    0 => break,
                    read => {
                        self.hasher.update(&buffer[..read]);
                        self.length += read as u64;
                    }
                }
            }
            self.beside = known;
            return Ok(());
        }
        self.begin(Beside { url: url.to_owned(), boot: boot(), ..Beside::default() })
    }

    /// Throws away what is there.
    fn begin(&mut self, known: Beside) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.length, self.looked) = (Sha256::new(), 0, 0);
        self.beside = known;
        // Before the first byte: a file never goes with the validator of another.
        fs::write(beside(&self.path), serde_json::to_vec(&self.beside).unwrap_or_default())
    }

    /// Begins anew with another content; `total` 0 is not known.
    pub(super) fn restart(&mut self, validator: &Validator, total: u64) -> Result<()> {
        let known = Beside {
            etag: validator.etag.clone(),
            last_modified: validator.last_modified.clone(),
            total,
            ..self.beside.clone()
        };
        self.begin(known).map_err(|error| self.unusable(error))?;
        self.check(total)
    }

    /// Refuses a length that is too large for the limits or for the disk.
    pub(super) fn check(&self, total: u64) -> Result<()> {
        if total > self.limits.bytes {
            return Err(too_large(&self.beside.url, total, &self.limits));
        }
        self.room(total.saturating_sub(self.length))
    }

    fn room(&self, bytes: u64) -> Result<()> {
        let disk = statvfs(self.path.parent().unwrap_or(&self.path))
            .map_err(|error| self.unusable(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match free < bytes.saturating_add(self.limits.min_free) {
            true => Err(disk_full(&self.beside.url)),
            false => Ok(()),
        }
    }

    /// Appends, within the limits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.length + bytes.len() as u64;
        if length > self.limits.bytes {
            return Err(too_large(&self.beside.url, length, &self.limits));
        }
        if length - self.looked >= LOOK {
            self.looked = length;
            self.room(0)?;
        }
        self.file.write_all(bytes).map_err(|error| self.unusable(error))?;
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// How much is there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Goes on with the rest of a content that has so many bytes.
    pub(super) fn resume(&mut self, total: u64) -> Result<()> {
        self.beside.total = total;
        self.check(total)
    }

    /// How much there will be; 0 is not known.
    pub(super) fn total(&self) -> u64 {
        self.beside.total
    }

    /// True when all of it is there, as far as its length is known.
    pub(super) fn is_whole(&self) -> bool {
        self.total() > 0 && self.length() == self.total()
    }

    /// The URL that it comes from.
    pub(super) fn url(&self) -> &str {
        &self.beside.url
    }

    /// By what the source will know this content again.
    pub(super) fn validator(&self) -> Validator {
        let Beside { etag, last_modified, .. } = self.beside.clone();
        Validator { etag, last_modified }
    }

    /// All of it is there: on the disk, not only in memory. What stands beside it stays
    /// until it has its place: should we be killed before, it is known to be whole.
    pub(super) async fn finish(self) -> Result<Content> {
        blocking(move || {
            self.file.sync_all().map_err(|error| self.unusable(error))?;
            let (bytes, validator) = (self.length, self.validator());
            let sha256 = hex(&self.hasher.finalize());
            Ok(Content { sha256, bytes, validator, _held: self.file })
        })
        .await
    }

    /// Removes what no later fetch can use.
    pub(super) async fn discard(path: &Path) {
        for file in [path.to_owned(), beside(path)] {
            // One that is not there needs no removing.
            let _ = tokio::fs::remove_file(file).await;
        }
    }

    fn unusable(&self, error: io::Error) -> Error {
        unusable(&self.path, &self.beside.url, error)
    }
}

/// Opens the file, or makes it, and waits until nobody else has it.
fn locked(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    loop {
        let file = match options.open(path) {
            // It was whole and on its way to its place when the service was killed.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                fs::set_permissions(path, Permissions::from_mode(0o600))?;
                options.open(path)?
            }
            other => other?,
        };
        // Who was given up a moment ago may still be writing its last bytes.
        flock(&file, FlockOperation::LockExclusive)?;
        // Or the cache was short of room and took it away before we had it.
        let there = fs::metadata(path).ok();
        if there.is_some_and(|there| there.ino() == file.metadata().map_or(0, |own| own.ino())) {
            return Ok(file);
        }
    }
}

/// Runs what may wait for the disk where that holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let work = tokio::task::spawn_blocking(work).await;
    work.map_err(|error| Error::internal("writing an asset ended early").because(error))?
}

fn unusable(path: &Path, url: &str, error: io::Error) -> Error {
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        return disk_full(url).because(error);
    }
    let folder = path.parent().unwrap_or(path).display();
    failed("ASSET_NOT_STORED", url, &format!("cannot be stored in {folder}: {error}; mend that"))
        .because(error)
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("json")
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_whole_part_is_held_until_it_has_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let most = Duration::MAX;
        let limits = AssetLimits {
            bytes: 100,
            setting: "",
            time: most,
            min_rate: 0,
            stall: most,
            min_free: 0,
        };
        let mut part = Part::open(&path, "https://a.test/b", limits).await.unwrap();
        part.restart(&Validator::default(), 5).unwrap();
        part.write(b"hello").unwrap();
        let other = File::open(&path).unwrap();
        let take = || flock(&other, FlockOperation::NonBlockingLockExclusive);
        let content = part.finish().await.unwrap();
        assert_eq!((content.bytes, take()), (5, Err(rustix::io::Errno::WOULDBLOCK)));
        drop(content);
        assert_eq!(take(), Ok(()));
    }
}
