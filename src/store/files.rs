//! The files of the cache of assets: one for each content and mode, never a half one.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::domain::{
    Error, Kind, Result,
    asset::{cache_file, content_of},
};

/// The mode in which a content is published.
const FIRST_MODE: u32 = 0o444;

/// One file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFile {
    /// Checksum of its content.
    pub sha256: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// A part of a content, which somebody writes to or may go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFile {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that have come.
    pub bytes: u64,
    /// When the last of them came.
    pub changed: SystemTime,
}

/// The folder of the cache. Its methods wait for the disk.
///
/// ```text
/// files/SHA256-MODE   whole
/// parts/KEY           comes together; KEY.json says what it will be
/// parts/NAME.NUMBER   a copy that is made, or what has left `files` and goes
/// ```
#[derive(Debug, Clone)]
pub struct AssetFiles {
    whole: PathBuf,
    parts: PathBuf,
    /// Bytes that stay free on the disk.
    min_free: u64,
}

/// No two files for a moment have one name.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl AssetFiles {
    /// Makes the folder, and removes what a service that was killed left and nobody can
    /// go on with.
    pub fn open(folder: &Path, min_free: u64) -> Result<Self> {
        let files = Self { whole: folder.join("files"), parts: folder.join("parts"), min_free };
        for one in [&files.whole, &files.parts] {
            fs::create_dir_all(one).map_err(|error| unusable(one, error))?;
        }
        let failed = |error| unusable(&files.parts, error);
        for entry in fs::read_dir(&files.parts).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let other = match is_companion(&path) {
                true => path.with_extension(""),
                false => companion(&path),
            };
            if !other.exists() {
                files.remove(&path)?;
            }
        }
        Ok(files)
    }

    /// The folder in which the whole files are.
    pub fn folder(&self) -> &Path {
        &self.whole
    }

    /// Where a content comes together before it is whole.
    pub fn part(&self, key: &str) -> PathBuf {
        self.parts.join(key)
    }

    fn path(&self, sha256: &str, mode: u32) -> PathBuf {
        self.whole.join(cache_file(sha256, mode))
    }

    /// True when a content is there in this mode.
    pub fn is_there(&self, sha256: &str, mode: u32) -> bool {
        self.path(sha256, mode).is_file()
    }

    /// True when a content of this length is there.
    pub fn has(&self, sha256: &str, bytes: u64) -> bool {
        let place = fs::metadata(self.path(sha256, FIRST_MODE));
        place.is_ok_and(|about| about.is_file() && about.len() == bytes)
    }

    /// Gives a whole part its place. It is there completely or not at all, also after a
    /// loss of power.
    pub fn publish(&self, part: &Path, sha256: &str) -> Result<()> {
        let place = self.path(sha256, FIRST_MODE);
        let work = || {
            let mode = Permissions::from_mode(FIRST_MODE);
            fs::set_permissions(part, mode)?;
            File::open(part)?.sync_all()?;
            fs::rename(part, &place)?;
            File::open(&self.whole)?.sync_all()
        };
        work().map_err(|error| unusable(&place, error))?;
        // Last: until then, a part that is whole is known to be.
        self.remove(&companion(part))
    }

    /// Makes sure that a content that is there is also there in this mode.
    pub fn in_mode(&self, sha256: &str, mode: u32) -> Result<()> {
        let place = self.path(sha256, mode);
        if place.is_file() {
            return Ok(());
        }
        // Two runs may want the same at once; each makes its own.
        let part = self.aside(&place);
        let from = self.path(sha256, FIRST_MODE);
        let about = fs::metadata(&from).map_err(|error| unusable(&from, error))?;
        self.room(about.len())?;
        let work = || {
            fs::copy(&from, &part)?;
            fs::set_permissions(&part, Permissions::from_mode(mode))?;
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &place)?;
            File::open(&self.whole)?.sync_all()
        };
        work().map_err(|error| {
            let _ = fs::remove_file(&part);
            unusable(&place, error)
        })
    }

    /// All whole files.
    pub fn list(&self) -> Result<Vec<CacheFile>> {
        let mut files = Vec::new();
        let mut work = || {
            for entry in fs::read_dir(&self.whole)? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(sha256) = name.to_str().and_then(content_of) else { continue };
                let Ok(about) = entry.metadata() else { continue };
                let (sha256, path) = (sha256.to_owned(), entry.path());
                files.push(CacheFile { sha256, path, bytes: about.len() });
            }
            Ok(())
        };
        work().map_err(|error| unusable(&self.whole, error))?;
        Ok(files)
    }

    /// Removes a file; one that is gone is fine.
    pub fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unusable(path, error)),
            _ => Ok(()),
        }
    }

    /// Takes a whole file from its place, at once; freeing its room may take longer.
    /// Answers where it is until it is removed.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let aside = self.aside(path);
        match fs::rename(path, &aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unusable(path, error)),
            _ => Ok(aside),
        }
    }

    /// All parts.
    pub fn parts(&self) -> Result<Vec<PartFile>> {
        let failed = |error| unusable(&self.parts, error);
        let mut parts = Vec::new();
        for entry in fs::read_dir(&self.parts).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            // Those that are copied now are soon files, and those that go are gone.
            let Ok(about) = entry.metadata() else { continue };
            if let (None, Ok(changed)) = (path.extension(), about.modified()) {
                parts.push(PartFile { path, bytes: about.len(), changed });
            }
        }
        Ok(parts)
    }

    /// Removes a part, unless somebody writes to it; says whether it did.
    pub fn remove_part(&self, path: &Path) -> Result<bool> {
        let failed = |error| unusable(path, error);
        let file = match File::options().read(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            other => other.map_err(failed)?,
        };
        // Who opens it now waits for us, and sees then that it is gone.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => return Ok(false),
            other => other.map_err(|error| failed(error.into()))?,
        }
        self.drop_part(path)?;
        Ok(true)
    }

    /// Removes a part that is whole, with what stands beside it.
    pub fn drop_part(&self, path: &Path) -> Result<()> {
        self.remove(path)?;
        self.remove(&companion(path))
    }

    /// Removes parts that nobody went on with for so long.
    pub fn remove_old_parts(&self, age: Duration) -> Result<()> {
        let before = SystemTime::now().checked_sub(age);
        for part in self.parts()?.iter().filter(|part| Some(part.changed) < before) {
            self.remove_part(&part.path)?;
        }
        Ok(())
    }

    fn aside(&self, path: &Path) -> PathBuf {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.parts.join(format!("{name}.{number}"))
    }

    /// Refuses what would leave too little free on the disk.
    fn room(&self, bytes: u64) -> Result<()> {
        let disk = statvfs(&self.parts).map_err(|error| unusable(&self.parts, error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match free < bytes.saturating_add(self.min_free) {
            true => Err(unusable(&self.parts, ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }
}

/// What stands beside a part and says what it will be.
fn companion(part: &Path) -> PathBuf {
    part.with_extension("json")
}

fn is_companion(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json")
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let (kind, reason) = match full {
        true => (Kind::ResourceExhausted, "DISK_FULL"),
        false => (Kind::FailedPrecondition, "PATH_UNUSABLE"),
    };
    let remedy = match full {
        true => "make room, or lower asset_min_free_bytes",
        false => "mend that",
    };
    let message = format!("the asset cache {} cannot be used: {error}; {remedy}", path.display());
    Error::new(kind, reason, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_published_once_and_copied_for_another_mode() {
        let dir = tempfile::tempdir().unwrap();
        let files = AssetFiles::open(dir.path(), 0).unwrap();
        let sha = "ab".repeat(32);
        assert!(!files.has(&sha, 5) && files.in_mode(&sha, 0o444).is_err());
        let part = files.part("key");
        fs::write(&part, "hello").unwrap();
        files.publish(&part, &sha).unwrap();
        assert!(files.has(&sha, 5) && !files.has(&sha, 6) && !part.exists());
        for mode in [0o444, 0o555, 0o400, 0o555] {
            files.in_mode(&sha, mode).unwrap();
            let path = files.path(&sha, mode);
            assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        }
        assert_eq!(files.list().unwrap().len(), 3);
        assert_eq!(files.parts().unwrap(), []);
        for file in files.list().unwrap() {
            files.remove(&file.path).unwrap();
            files.remove(&file.path).unwrap();
        }
        assert_eq!(files.list().unwrap(), []);
    }

    #[test]
    fn only_parts_that_can_be_gone_on_with_outlive_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let sha = "ab".repeat(32);
        drop(AssetFiles::open(dir.path(), 0).unwrap());
        let part = |name: &str| dir.path().join("parts").join(name);
        let copy = format!("{}.7", cache_file(&sha, 0o555));
        for name in ["part", "part.json", "bare", "lost.json", &copy] {
            fs::write(part(name), "some").unwrap();
        }
        let files = AssetFiles::open(dir.path(), 0).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path().join("parts")).unwrap().map(|e| e.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [part("part"), part("part.json")]);
        assert_eq!(files.parts().unwrap().len(), 1);
    }

    #[test]
    fn a_part_that_somebody_writes_to_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = AssetFiles::open(dir.path(), 0).unwrap();
        let path = files.part("key");
        let writer = File::create(&path).unwrap();
        flock(&writer, FlockOperation::LockExclusive).unwrap();
        files.remove_old_parts(Duration::ZERO).unwrap();
        assert!(!files.remove_part(&path).unwrap() && path.exists());
        drop(writer);
        files.remove_old_parts(Duration::ZERO).unwrap();
        assert!(!path.exists() && !files.remove_part(&path).unwrap());
    }

    #[test]
    fn a_copy_for_another_mode_leaves_room_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let files = AssetFiles::open(dir.path(), u64::MAX).unwrap();
        let (sha, part) = ("ab".repeat(32), files.part("key"));
        fs::write(&part, "hello").unwrap();
        files.publish(&part, &sha).unwrap();
        files.in_mode(&sha, FIRST_MODE).unwrap();
        let error = files.in_mode(&sha, 0o555).expect_err("no room");
        assert_eq!((error.kind(), error.reason()), (Kind::ResourceExhausted, "DISK_FULL"));
        assert_eq!(fs::read_dir(dir.path().join("parts")).unwrap().count(), 0);
    }
}
