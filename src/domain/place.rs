//! Where the service runs: on the engine's host, or in a container of the engine,
//! where paths have other names.

use std::path::{Path, PathBuf};

/// Digits of a container's id.
const ID: usize = 64;
/// Digits of an id that the engine takes as the host name of its container.
const SHORT: usize = 12;
/// Files that the engine mounts into each container from a directory with its id.
const OWN_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// What the kernel tells of this process.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// `/proc/self/cgroup`.
    pub cgroup: String,
    /// `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// The host name.
    pub hostname: String,
}

/// A directory or file of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnMount {
    /// Where it is on the host; of a volume, the place of its data.
    pub source: PathBuf,
    /// Where it is in the container.
    pub destination: PathBuf,
}

/// Ids that may be that of the container in which this process runs, the surest
/// first. Each is still to be verified with the engine: the process may be in a
/// container of quite another engine, or in none.
pub fn own_ids(traces: &Traces) -> Vec<String> {
    let mut ids = Vec::new();
    let mut add = |id: String| {
        if !ids.contains(&id) {
            ids.push(id);
        }
    };
    // "36 35 98:0 /var/lib/docker/containers/ID/hostname /etc/hostname rw …"
    for line in traces.mountinfo.lines() {
        let mut fields = line.split(' ').skip(3);
        if let (Some(root), Some(point)) = (fields.next(), fields.next())
            && OWN_FILES.contains(&point)
        {
            root.split('/').filter(|part| is_id(part)).for_each(|id| add(id.to_owned()));
        }
    }
    // "12:pids:/docker/ID", "0::/system.slice/docker-ID.scope"; with a namespace of
    // its own, as is usual with version 2, a process sees only "/".
    for line in traces.cgroup.lines() {
        let last = line.rsplit('/').next().unwrap_or_default();
        let last = last.strip_suffix(".scope").unwrap_or(last);
        let id = last.rsplit('-').next().unwrap_or_default();
        if is_id(id) {
            add(id.to_owned());
        }
    }
    let name = traces.hostname.trim();
    if name.len() == SHORT && is_hex(name) {
        add(name.to_owned());
    }
    ids
}

/// The path on the host, by the mount that is nearest to it. `None` when it is in
/// none, and so in the container's own layer.
pub fn translate(path: &Path, mounts: &[OwnMount]) -> Option<PathBuf> {
    let inside = mounts.iter().filter_map(|mount| {
        let rest = path.strip_prefix(&mount.destination).ok()?;
        Some((mount.destination.components().count(), mount.source.join(rest)))
    });
    let (_, found) = inside.max_by_key(|(depth, _)| *depth)?;
    // Joining nothing leaves a slash at the end.
    Some(found.components().collect())
}

fn is_id(text: &str) -> bool {
    text.len() == ID && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        String::from(digit).repeat(ID)
    }

    #[test]
    fn a_container_finds_its_id_in_its_mounts_its_cgroup_or_its_name() {
        let (a, b, c) = (id('a'), id('b'), id('c'));
        let mountinfo = format!(
            "700 690 8:1 /var/lib/docker/containers/{a}/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
             701 690 8:1 /lib/docker/containers/{a}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
        );
        let cgroup = format!("12:pids:/docker/{b}\n0::/system.slice/docker-{c}.scope\n");
        let hostname = "0123456789ab\n".to_owned();
        let traces = Traces { cgroup, mountinfo, hostname };
        assert_eq!(own_ids(&traces), [a, b, c, "0123456789ab".to_owned()]);
    }

    #[test]
    fn a_process_on_the_host_finds_none() {
        // The host sees the mounts of its containers, but at other points.
        let mountinfo = format!(
            "40 27 0:38 / /var/lib/docker/containers/{}/mounts/shm rw - tmpfs shm rw\n\
             22 27 0:21 / /proc rw - proc proc rw\n",
            id('a')
        );
        let cgroup = "0::/user.slice/user-1000.slice/session-1.scope\n9:name=systemd:/\n";
        let traces = Traces { cgroup: cgroup.into(), mountinfo, hostname: "server-1\n".into() };
        assert_eq!(own_ids(&traces), [""; 0]);
        assert_eq!(own_ids(&Traces::default()), [""; 0]);
    }

    #[test]
    fn a_path_is_translated_by_the_nearest_mount() {
        let mount = |source: &str, destination: &str| OwnMount {
            source: source.into(),
            destination: destination.into(),
        };
        let mounts = [
            mount("/srv/data", "/data"),
            mount("/var/lib/docker/volumes/v/_data", "/data/deep"),
            mount("/run/docker.sock", "/var/run/docker.sock"),
        ];
        for (inside, outside) in [
            ("/data", Some("/srv/data")),
            ("/data/a/b", Some("/srv/data/a/b")),
            ("/data/deep/a", Some("/var/lib/docker/volumes/v/_data/a")),
            ("/data/deep", Some("/var/lib/docker/volumes/v/_data")),
            ("/database", None),
            ("/", None),
        ] {
            assert_eq!(translate(inside.as_ref(), &mounts), outside.map(PathBuf::from), "{inside}");
        }
        assert_eq!(
            translate("/x/y".as_ref(), &[mount("/srv", "/")]),
            Some(PathBuf::from("/srv/x/y"))
        );
    }
}
