//! Containers that run and lost a GPU: when that is told, and once a run.
//!
//! The node tells of GPUs that fell off, broke or are not listed any more. A container
//! itself tells when its cgroup was written anew without its GPUs: what saw them before
//! does not see them any more, twice in a row.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Booking, Inventory};

/// Looks in a row that must agree.
const LOOKS: u32 = 2;

/// A container that runs, and what it has.
#[derive(Debug, Clone)]
pub struct Holding {
    /// Engine id.
    pub container_id: String,
    /// Beginning of its run.
    pub run: Option<Timestamp>,
    /// Its GPUs.
    pub bookings: Vec<Booking>,
}

/// What a container answered that was asked which GPUs it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// The words of `nvidia-smi -L`.
    Told(String),
    /// It ended with an error, or not at all, with these words.
    Failed(String),
}

/// A GPU that a container lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// UUID of the GPU or the instance.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// What is remembered of each container.
#[derive(Debug, Default)]
pub struct Losses(BTreeMap<String, State>);

#[derive(Debug, Default)]
struct State {
    run: Option<Timestamp>,
    /// Looks in a row by which the node, and the container, say that it is lost.
    node: u32,
    inside: u32,
    /// It saw all its GPUs in this run.
    saw: bool,
    told: bool,
}

impl Losses {
    /// Takes a look at the node into account; what is lost with it, by container.
    pub fn look(&mut self, node: &Inventory, holdings: &[Holding]) -> Vec<(Holding, Loss)> {
        self.keep(holdings);
        // A driver that does not answer says nothing about single GPUs; one that answers
        // that there is none does.
        if !node.answers() {
            return Vec::new();
        }
        let of = |holding: &Holding| {
            let loss = holding.bookings.iter().find_map(|booking| lost(node, &booking.device));
            let state = self.state(holding);
            state.node = if loss.is_some() { state.node + 1 } else { 0 };
            let tell = state.node >= LOOKS && !state.told;
            state.told |= tell;
            Some((holding.clone(), loss.filter(|_| tell)?))
        };
        holdings.iter().filter_map(of).collect()
    }

    /// Forgets what does not run any more.
    fn keep(&mut self, holdings: &[Holding]) {
        self.0.retain(|id, _| holdings.iter().any(|holding| holding.container_id == *id));
    }

    /// Takes into account what a container itself sees.
    pub fn asked(&mut self, holding: &Holding, sight: &Sight) -> Option<Loss> {
        let state = self.state(holding);
        let missing = match sight {
            Sight::Told(text) => holding.bookings.iter().find(|it| !text.contains(&it.device)),
            Sight::Failed(_) => holding.bookings.first(),
        };
        let Some(missing) = missing else {
            (state.saw, state.inside) = (true, 0);
            return None;
        };
        // What it never saw it did not lose: its image may have a program of its own.
        state.inside = if state.saw { state.inside + 1 } else { 0 };
        if state.inside < LOOKS || state.told {
            return None;
        }
        state.told = true;
        let words = match sight {
            Sight::Told(_) => "it is not among those that it sees",
            Sight::Failed(words) => words,
        };
        let reason = format!(
            "the container does not see it any more, as after a reload of cgroups: {words}"
        );
        Some(Loss { device: missing.device.clone(), reason })
    }

    fn state(&mut self, holding: &Holding) -> &mut State {
        let state = self.0.entry(holding.container_id.clone()).or_default();
        if state.run != holding.run {
            *state = State { run: holding.run, ..State::default() };
        }
        state
    }
}

/// Why a unit is of no use to who has it.
fn lost(node: &Inventory, unit: &str) -> Option<Loss> {
    let device = node.devices.iter().find(|device| {
        device.uuid == unit || device.instances.iter().any(|part| part.uuid == unit)
    });
    let reason = match device {
        None => Some("the driver does not list it any more".to_owned()),
        Some(device) => device.lost.clone().or_else(|| device.drained.clone()),
    };
    Some(Loss { device: unit.to_owned(), reason: reason? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::Device;

    fn holding(run: i64) -> Holding {
        Holding {
            container_id: "c".into(),
            run: Timestamp::from_second(run).ok(),
            bookings: vec![Booking { device: "GPU-0".into(), ..Booking::default() }],
        }
    }

    fn node(lost: Option<&str>, drained: Option<&str>) -> Inventory {
        let device = Device {
            uuid: "GPU-0".into(),
            lost: lost.map(str::to_owned),
            drained: drained.map(str::to_owned),
            ..Device::default()
        };
        Inventory { devices: vec![device], ..Inventory::default() }
    }

    #[test]
    fn a_gpu_that_is_lost_broken_or_gone_is_told_once_a_run() {
        let driver = "550.54.15".to_owned();
        let gone = Inventory { driver, ..Inventory::none("the driver finds no device") };
        for bad in [node(Some("off"), None), node(None, Some("XID")), gone] {
            let mut losses = Losses::default();
            let mut told = |node: &_, run| losses.look(node, &[holding(run)]).len();
            assert_eq!([told(&bad, 1), told(&bad, 1), told(&bad, 1)], [0, 1, 0], "{bad:?}");
            assert_eq!([told(&bad, 2), told(&bad, 2)], [0, 1], "another run");
        }
        let mut losses = Losses::default();
        let mut told = |node: &_| losses.look(node, &[holding(1)]).len();
        let (bad, good) = (node(Some("off"), None), node(None, None));
        assert_eq!([told(&bad), told(&good), told(&bad), told(&good)], [0; 4], "only for a moment");
        assert_eq!([told(&bad), told(&Inventory::none("hangs"))], [0; 2]);
    }

    #[test]
    fn a_container_loses_only_what_it_saw_before() {
        let sees = Sight::Told("GPU 0: NVIDIA T4 (UUID: GPU-0)".into());
        let blind = Sight::Failed("Failed to initialize NVML: Unknown Error".into());
        let mut losses = Losses::default();
        let mut told = |sight: &_| losses.asked(&holding(1), sight).is_some();
        assert_eq!([told(&blind), told(&blind), told(&blind)], [false; 3], "it never saw any");
        assert_eq!([told(&sees), told(&blind), told(&sees), told(&blind)], [false; 4]);
        assert_eq!([told(&blind), told(&blind)], [true, false]);
        let mut losses = Losses::default();
        losses.asked(&holding(1), &sees);
        let other = Sight::Told("GPU 0: NVIDIA T4 (UUID: GPU-1)".into());
        losses.asked(&holding(1), &other);
        let loss = losses.asked(&holding(1), &other).expect("it is told");
        assert!(loss.device == "GPU-0" && loss.reason.contains("cgroups"), "{loss:?}");
    }
}
