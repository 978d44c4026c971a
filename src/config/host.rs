//! What the machine and the user decide when nobody configured it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The defaults that depend on where we run.
pub(super) struct Host {
    /// Host name, empty when not known.
    pub(super) name: String,
    /// Default data directory, if there is a home for it.
    pub(super) data_dir: Option<PathBuf>,
}

impl Host {
    pub(super) fn detect(env: &impl Fn(&str) -> Option<String>) -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { name: name.trim().to_owned(), data_dir: default_data_dir(env) }
    }
}

/// The data directory of a server that is not told another: the system's for root,
/// else the user's. None without an absolute `XDG_DATA_HOME` or `HOME`.
pub fn default_data_dir(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // The owner of /proc/self is the effective user of this process, see proc(5).
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if root { Some("/var/lib/container-svc".into()) } else { user_data_dir(env) }
}

fn user_data_dir(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |key| env(key).map(PathBuf::from).filter(|path| path.is_absolute());
    // The XDG base directory specification says to ignore a relative path.
    let base = absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(Path::new(".local/share"))))?;
    Some(base.join("container-svc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_keeps_data_under_xdg_else_home() {
        let xdg = |key: &str| Some(format!("/{}", key.to_lowercase()));
        assert_eq!(user_data_dir(xdg), Some("/xdg_data_home/container-svc".into()));
        let home = |key: &str| (key == "HOME").then(|| "/home/a".to_owned());
        assert_eq!(user_data_dir(home), Some("/home/a/.local/share/container-svc".into()));
        let relative = |key: &str| (key == "XDG_DATA_HOME").then(|| "data".to_owned());
        assert_eq!(user_data_dir(relative), None);
    }
}
