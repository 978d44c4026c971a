//! A disk that a test can fill, and that nobody else has.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A file system of 8 MiB in memory, unmounted when it is dropped.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts it.
    pub(crate) fn mount() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(dir.path());
        assert!(mount.status().expect("mount").success(), "root may mount a tmpfs");
        Self(dir)
    }

    /// A file on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Has a database of a service on it, which opens it later by its own name.
    pub(crate) fn hold(&self, database: &Path) {
        let (Some(folder), Some(name)) = (database.parent(), database.file_name()) else {
            panic!("no file: {}", database.display());
        };
        fs::create_dir_all(folder).expect("a directory");
        std::os::unix::fs::symlink(self.0.path().join(name), database).expect("a link");
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        let mut ballast =
            File::options().create(true).append(true).open(self.path("ballast")).expect("a file");
        while ballast.write_all(&[0; 512]).is_ok() {}
    }

    /// Takes away what fills it.
    pub(crate) fn relieve(&self) {
        fs::remove_file(self.path("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The database may still be open for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}
