//! The data directory: made, closed to others, and held by one server alone.

use std::{
    fs::{self, File, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use crate::domain::{Error, Result};

/// Holds the directory until it is dropped; the kernel ends it with the process too.
#[derive(Debug)]
pub(super) struct Held {
    _lock: File,
}

/// Makes a directory that only its owner can read, and takes it.
///
/// Two servers on one would each believe that they alone write its databases.
pub(super) fn take(directory: &Path) -> Result<Held> {
    let make = |error| super::unusable("data directory", directory, error);
    fs::create_dir_all(directory).map_err(make)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(make)?;
    let path = directory.join("lock");
    let unusable = |error| super::unusable("lock file", &path, error);
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(unusable)?;
            return Err(Error::precondition(
                "DATA_DIR_IN_USE",
                format!(
                    "the data directory {} is in use by another container-svc (pid {}); stop it, or set another data_dir",
                    directory.display(),
                    holder.trim()
                ),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    // Whoever is refused reads here by whom.
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(unusable)?;
    Ok(Held { _lock: lock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_it_at_a_time_and_the_next_one_after_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = take(dir.path()).expect("it is free");
        let error = take(dir.path()).expect_err("it is held");
        assert_eq!(error.reason(), "DATA_DIR_IN_USE");
        let pid = format!("(pid {})", std::process::id());
        assert!(error.message().contains(&pid), "{error}");
        drop(held);
        take(dir.path()).expect("it is free again");
    }

    #[test]
    fn a_file_in_its_place_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = take(file.path()).expect_err("it is a file");
        assert!(error.message().contains(&file.path().display().to_string()), "{error}");
    }
}
