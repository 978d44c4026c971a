//! GPUs: what a node has of them, as it was seen at one moment.

pub mod cuda;
pub mod label;
pub mod line;
pub mod loss;
pub mod overrun;
pub mod placement;
pub mod request;
pub mod xid;

pub use placement::Booking;
pub use request::{RawWish, Wish};

use xid::Xid;

/// Everything that was seen at one moment. A node without a GPU says why.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// Why there is no GPU to be used; `None` when there is one.
    pub missing: Option<String>,
    /// Version of the driver, as in `550.54.15`; empty when it did not tell.
    pub driver: String,
    /// Newest CUDA that the driver runs, as major and minor.
    pub cuda: Option<(u32, u32)>,
    /// By index.
    pub devices: Vec<Device>,
}

/// One GPU. What it cannot tell is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    /// Number among the GPUs of the node; may change with a restart of the machine.
    pub index: u32,
    /// `GPU-` and a UUID, which stays; empty when it never told.
    pub uuid: String,
    /// Name of the model.
    pub name: String,
    /// Why it cannot be used, as when it fell off the bus.
    pub lost: Option<String>,
    /// Why it is given to nobody although it answers, as after a fatal XID.
    pub drained: Option<String>,
    /// The last errors that it reported, the oldest first.
    pub xids: Vec<Xid>,
    /// Memory.
    pub memory: Option<Memory>,
    /// How much of the time something ran on it lately, in percent.
    pub utilization: Option<u32>,
    /// How much of the time its memory was read or written lately, in percent.
    pub memory_utilization: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Milliwatts that it draws.
    pub power: Option<u32>,
    /// Milliwatts that it may draw.
    pub power_limit: Option<u32>,
    /// Whether its memory corrects errors.
    pub ecc: Option<bool>,
    /// Errors since the driver was loaded that could not be corrected.
    pub ecc_errors: Option<u64>,
    /// Whether it is cut into instances (MIG); `None` where it cannot be.
    pub mig: Option<bool>,
    /// The instances that it is cut into.
    pub instances: Vec<Instance>,
    /// What runs on it.
    pub processes: Vec<Process>,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What nobody has.
    pub free: u64,
    /// What processes have.
    pub used: u64,
    /// What the driver keeps for itself.
    pub reserved: u64,
}

/// A part of a GPU that is a device of its own (MIG).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instance {
    /// `MIG-` and a UUID.
    pub uuid: String,
    /// How it was cut, as in `1g.5gb`; empty when it did not tell.
    pub profile: String,
    /// Memory.
    pub memory: Option<Memory>,
}

/// A process on a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id on the host.
    pub pid: u32,
    /// Bytes of GPU memory; `None` when the driver does not tell.
    pub memory: Option<u64>,
    /// Engine id of the container that it runs in.
    pub container_id: Option<String>,
    /// UUID of the instance that it runs on.
    pub instance: Option<String>,
}

impl Inventory {
    /// A node without a GPU, and why.
    pub fn none(why: impl Into<String>) -> Self {
        Self { missing: Some(why.into()), ..Self::default() }
    }

    /// True when the driver told what there is, be it nothing.
    pub fn answers(&self) -> bool {
        self.missing.is_none() || !self.driver.is_empty()
    }
}

/// The profile in the name of an instance, which ends as in `… MIG 1g.5gb`.
pub fn profile_of(name: &str) -> &str {
    name.rsplit_once("MIG ").map_or("", |(_, profile)| profile.trim())
}

/// The container in the text of `/proc/PID/cgroup`: engines name a cgroup by the
/// container's id, as `/docker/ID` or `docker-ID.scope`.
pub fn container_of_cgroup(text: &str) -> Option<&str> {
    let is_id = |part: &&str| {
        part.len() == 64 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    // A container in a container is known by the outer one, which this engine made.
    text.lines().find_map(|line| line.split(['/', '-', '.', ':']).find(is_id))
}

/// True when `/proc/self/ns/pid` names the namespace of the host's processes. The
/// kernel made that one first, under a number that is the same on every machine.
pub fn is_host_namespace(link: &str) -> bool {
    link == "pid:[4026531836]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_ids_of_the_host_mean_nothing_in_a_namespace_of_ones_own() {
        assert!(is_host_namespace("pid:[4026531836]"));
        for other in ["pid:[4026532281]", "net:[4026531836]", ""] {
            assert!(!is_host_namespace(other), "{other}");
        }
    }

    #[test]
    fn a_process_belongs_to_the_container_that_its_cgroup_names() {
        let id = "0123456789abcdef".repeat(4);
        for line in [
            format!("9:name=systemd:/docker/{id}"),
            format!("0::/system.slice/docker-{id}.scope"),
            format!("1:cpu:/\n2:memory:/docker/{id}/docker/{}", "f".repeat(64)),
            format!("0::/kubepods.slice/pod1.slice/cri-containerd-{id}.scope/app"),
        ] {
            assert_eq!(container_of_cgroup(&line), Some(id.as_str()), "{line}");
        }
        for line in ["", "0::/user.slice/user-0.slice", "0::/docker/0123", "garbage"] {
            assert_eq!(container_of_cgroup(line), None, "{line}");
        }
    }

    #[test]
    fn an_instance_tells_its_profile_in_its_name() {
        assert_eq!(profile_of("NVIDIA A100-SXM4-40GB MIG 1g.5gb"), "1g.5gb");
        assert_eq!(profile_of("NVIDIA A100-SXM4-40GB"), "");
    }
}
