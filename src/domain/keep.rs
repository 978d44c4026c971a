//! Keeps: paths of a container whose data outlive it, each in a volume of its own.

use sha2::{Digest as _, Sha256};

use super::spec::hex;

/// Most keeps of one container.
pub const MOST: usize = 64;
/// What the volume of every keep is called.
const PREFIX: &str = "container-svc-keep-";
/// Longest path: the engine puts it below a folder of its own, and the kernel takes 4095
/// bytes in all.
const LONGEST: usize = 3800;
/// Longest name of a file or folder in a path; file systems take no more.
const LONGEST_PART: usize = 255;

/// Labels that the service writes on a volume.
pub mod labels {
    /// Node id of the service that made it.
    pub const NODE: &str = "container-svc.node";
    /// Name of the container that it belongs to.
    pub const OWNER: &str = "container-svc.keep.owner";
    /// Path in the container.
    pub const PATH: &str = "container-svc.keep.path";
    /// On a container that only holds a volume: node id of its service.
    pub const HELPER: &str = "container-svc.helper";
    /// On a volume into which an archive is unpacked first: the same.
    pub const IMPORT: &str = "container-svc.import";
    /// On the container that marks a whole import: that volume.
    pub const STAGED: &str = "container-svc.import.staged";
    /// On the same: bytes of the archive.
    pub const BYTES: &str = "container-svc.import.bytes";
}

/// A path whose data outlive the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keep {
    /// Absolute path in the container, in its shortest form.
    pub path: String,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// The volume of a container's path. The same for ever, so that the data are
/// found again after a restart, a replacement, a removal and a new run.
pub fn volume(node: &str, owner: &str, path: &str) -> String {
    let identity = format!("{}:{node}{}:{owner}{path}", node.len(), owner.len());
    format!("{PREFIX}{}", &hex(&Sha256::digest(identity))[..32])
}

/// Checks a path and brings it into its shortest form; the error says what to do.
pub fn path(given: &str) -> Result<String, String> {
    if !given.starts_with('/') {
        return Err(format!("\"{given}\" is not absolute; begin it with \"/\""));
    }
    if given.contains('\0') {
        return Err("contains a NUL byte; remove it".to_owned());
    }
    length(given)?;
    let parts: Vec<&str> = given.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(format!("\"{given}\" contains \"..\"; write the path that is meant"));
    }
    match parts.as_slice() {
        [] => Err(format!("\"{given}\" is the whole container; keep a path below it")),
        // No engine mounts there, which it says only as the container starts.
        ["proc", ..] | ["dev"] => {
            Err(format!("\"{given}\" belongs to the kernel; use a path elsewhere"))
        }
        parts => Ok(format!("/{}", parts.join("/"))),
    }
}

/// Checks the length of a path in the container and of its parts: an engine may find out
/// only as the container starts, when its predecessor is stopped.
pub fn length(path: &str) -> Result<(), String> {
    if path.len() > LONGEST {
        return Err(format!("has {} bytes; at most {LONGEST}", path.len()));
    }
    match path.split('/').find(|part| part.len() > LONGEST_PART) {
        None => Ok(()),
        Some(part) => Err(format!(
            "contains \"{part}\", which has {} bytes; between two \"/\" there may be {LONGEST_PART}",
            part.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for (given, form) in
            [("/data", "/data"), ("/a//b/./c/", "/a/b/c"), ("//x", "/x"), ("/dev/x", "/dev/x")]
        {
            assert_eq!(path(given).as_deref(), Ok(form));
        }
        for (given, part) in [
            ("data", "absolute"),
            ("", "absolute"),
            ("/", "whole container"),
            ("/./", "whole container"),
            ("/a/../b", ".."),
            ("/a\0b", "NUL"),
            ("/proc", "kernel"),
            ("//proc/./x", "kernel"),
            ("/dev/", "kernel"),
        ] {
            assert!(path(given).expect_err("wrong").contains(part), "{given}");
        }
        let parts = |length, count| format!("/{}", "x".repeat(length)).repeat(count);
        for (given, fits) in [(parts(255, 1), true), (parts(256, 1), false)] {
            assert_eq!(path(&given).is_ok(), fits, "{given}");
        }
        for (given, fits) in [(parts(99, 38), true), (parts(99, 39), false)] {
            assert_eq!(path(&given).is_ok(), fits, "{given}");
        }
    }

    #[test]
    fn a_volume_is_called_the_same_in_every_release() {
        let name = volume("node", "web", "/data");
        assert_eq!(name, "container-svc-keep-56eb421292fdb68838df3a2a02403ab3");
    }

    proptest! {
        #[test]
        fn no_two_keeps_share_a_volume(
            a in ("[a-c:1/]{0,4}", "[a-c:1]{0,4}", "/[a-c:1/]{0,4}"),
            b in ("[a-c:1/]{0,4}", "[a-c:1]{0,4}", "/[a-c:1/]{0,4}"),
        ) {
            let (one, other) = (volume(&a.0, &a.1, &a.2), volume(&b.0, &b.1, &b.2));
            prop_assert_eq!(one == other, a == b);
        }

        #[test]
        fn a_path_in_its_form_stays_as_it_is(given in "/[a-z./]{0,12}") {
            if let Ok(form) = path(&given) {
                prop_assert_eq!(path(&form), Ok(form.clone()));
            }
        }
    }
}
