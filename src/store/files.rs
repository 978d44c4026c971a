//! The files of the cache of assets: one for each content and mode, never a half one.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

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

/// The folder of the cache. Its methods wait for the disk.
#[derive(Debug, Clone)]
pub struct AssetFiles {
    whole: PathBuf,
    parts: PathBuf,
}

impl AssetFiles {
    /// What the folder with the whole files is called, whatever it is in.
    pub const FOLDER: &str = "assets/files";

    /// Makes the folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let files = Self { whole: folder.join("files"), parts: folder.join("parts") };
        for one in [&files.whole, &files.parts] {
            fs::create_dir_all(one).map_err(|error| unusable(one, error))?;
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

    /// Where a content is, if it is there.
    pub fn path(&self, sha256: &str, mode: u32) -> PathBuf {
        self.whole.join(cache_file(sha256, mode))
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
        work().map_err(|error| unusable(&place, error))
    }

    /// Makes sure that a content that is there is also there in this mode.
    pub fn in_mode(&self, sha256: &str, mode: u32) -> Result<()> {
        let place = self.path(sha256, mode);
        if place.is_file() {
            return Ok(());
        }
        /// Two runs may want the same at once; each makes its own.
        static COPIES: AtomicU64 = AtomicU64::new(0);
        let copy = COPIES.fetch_add(1, Ordering::Relaxed);
        let part = self.parts.join(format!("{}.{copy}", cache_file(sha256, mode)));
        let from = self.path(sha256, FIRST_MODE);
        let work = || {
            // What a service that was killed left has the mode of the original, too.
            let _ = fs::remove_file(&part);
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

    /// Removes parts that nobody went on with for so long.
    pub fn remove_old_parts(&self, age: Duration) -> Result<()> {
        let failed = |error| unusable(&self.parts, error);
        let before = SystemTime::now().checked_sub(age);
        for entry in fs::read_dir(&self.parts).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let changed = entry.metadata().and_then(|about| about.modified()).ok();
            if changed.is_some() && changed < before {
                self.remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let (kind, reason) = match full {
        true => (Kind::ResourceExhausted, "DISK_FULL"),
        false => (Kind::FailedPrecondition, "PATH_UNUSABLE"),
    };
    let message = format!("the asset cache {} cannot be used: {error}; mend that", path.display());
    Error::new(kind, reason, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_published_once_and_copied_for_another_mode() {
        let dir = tempfile::tempdir().unwrap();
        let files = AssetFiles::open(dir.path()).unwrap();
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
        files.remove_old_parts(Duration::ZERO).unwrap();
        for file in files.list().unwrap() {
            files.remove(&file.path).unwrap();
            files.remove(&file.path).unwrap();
        }
        assert_eq!(files.list().unwrap(), []);
    }
}
