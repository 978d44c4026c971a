//! Containers that use more GPU memory than they booked: when that is told, and once.
//!
//! ```text
//!            more than booked, so often in a row
//!   WITHIN ──────────────────────────────────────► OVER   told when it begins
//!     ▲                                              │
//!     └──────────── clearly less, so often ──────────┘
//! ```
//!
//! A container that swings around its booking is told of once: what ends an overrun is
//! less than what begins one.

use std::{collections::BTreeMap, fmt};

use super::{Booking, Inventory, placement::used_by};

const MIB: u64 = 1 << 20;
/// Looks in a row that must agree.
const LOOKS: u32 = 3;
/// Part of the booking, in percent, that use must fall below to end an overrun.
const ENDS_BELOW: u64 = 95;

/// What is done about an overrun, beside telling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOverrun {
    /// Nothing.
    Report,
    /// The container is stopped, and its restart policy decides.
    Restart,
    /// The container is stopped for good.
    Stop,
}

impl OnOverrun {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Report, Self::Restart, Self::Stop];

    /// As it is written in settings, labels and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }
}

/// More in use than was booked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overrun {
    /// Engine id of the container.
    pub container_id: String,
    /// UUID of the GPU or the instance.
    pub device: String,
    /// MiB that it booked.
    pub booked_mb: u64,
    /// MiB that it uses.
    pub used_mb: u64,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, booked_mb, used_mb, .. } = self;
        write!(f, "{used_mb} MiB in use on {device}, and {booked_mb} MiB booked")
    }
}

/// What is remembered of each booking.
#[derive(Debug, Default)]
pub struct Overruns(BTreeMap<(String, String), State>);

#[derive(Debug, Default)]
struct State {
    over: bool,
    /// Looks in a row that say the opposite.
    against: u32,
}

impl Overruns {
    /// Takes a look into account; the overruns that begin with it.
    pub fn look(&mut self, node: &Inventory, bookings: &[Booking]) -> Vec<Overrun> {
        let key = |booking: &Booking| (booking.container_id.clone(), booking.device.clone());
        let counts = |it: &&Booking| it.memory_mb > 0 && !it.container_id.is_empty();
        let keys: Vec<_> = bookings.iter().filter(counts).map(key).collect();
        self.0.retain(|key, _| keys.contains(key));
        let mut begun = Vec::new();
        // A driver that does not answer says nothing about use.
        if node.missing.is_some() {
            return begun;
        }
        for booking in bookings.iter().filter(counts) {
            let used = used_by(node, &booking.container_id, &booking.device).unwrap_or(0);
            if used == 0 {
                // It was restarted, or has not begun.
                self.0.remove(&key(booking));
                continue;
            }
            let state = self.0.entry(key(booking)).or_default();
            let booked = booking.memory_mb.saturating_mul(MIB);
            let against = match state.over {
                false => used > booked,
                true => used < booked / 100 * ENDS_BELOW,
            };
            state.against = if against { state.against + 1 } else { 0 };
            if state.against < LOOKS {
                continue;
            }
            *state = State { over: !state.over, against: 0 };
            if state.over {
                begun.push(Overrun {
                    container_id: booking.container_id.clone(),
                    device: booking.device.clone(),
                    booked_mb: booking.memory_mb,
                    used_mb: used.div_ceil(MIB),
                });
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::{Device, Process};

    fn booking(memory_mb: u64) -> Booking {
        let (container_id, device) = ("c".to_owned(), "GPU-0".to_owned());
        Booking { container_id, device, memory_mb, ..Booking::default() }
    }

    fn using(mib: u64) -> Inventory {
        let memory = Some(mib * MIB);
        let container_id = Some("c".to_owned());
        let process = Process { memory, container_id, ..Process::default() };
        let uuid = "GPU-0".to_owned();
        let device = Device { uuid, processes: vec![process], ..Device::default() };
        Inventory { devices: vec![device], ..Inventory::default() }
    }

    /// How many overruns a series of uses tells.
    fn told(booked: u64, uses: &[u64]) -> usize {
        let mut overruns = Overruns::default();
        uses.iter().map(|mib| overruns.look(&using(*mib), &[booking(booked)]).len()).sum()
    }

    #[test]
    fn an_overrun_is_told_once_when_it_lasts() {
        assert_eq!(told(1000, &[900, 1000, 1000, 1000]), 0, "all of the booking is no overrun");
        assert_eq!(told(1000, &[1001, 1001, 900, 1001, 1001]), 0, "it does not last");
        assert_eq!(told(1000, &[1001; 3]), 1);
        assert_eq!(told(1000, &[2000; 20]), 1);
    }

    #[test]
    fn a_use_that_swings_around_the_booking_is_told_once() {
        let swings: Vec<u64> = (0..30).map(|at| if at % 6 < 3 { 1010 } else { 990 }).collect();
        assert_eq!(told(1000, &swings), 1);
        let [over, under] = [[1010; 3], [900; 3]];
        assert_eq!(told(1000, &[over, under, over].concat()), 2, "it ended in between");
    }

    #[test]
    fn what_booked_no_memory_cannot_overrun_and_a_new_run_is_told_of_again() {
        assert_eq!(told(0, &[5000; 5]), 0);
        // A restart: for a moment nothing is in use.
        assert_eq!(told(1000, &[2000, 2000, 2000, 0, 2000, 2000, 2000]), 2);
        let mut overruns = Overruns::default();
        for _ in 0..3 {
            overruns.look(&using(2000), &[booking(1000)]);
        }
        overruns.look(&using(2000), &[]);
        assert!(overruns.0.is_empty(), "nothing is remembered of what has ended");
    }
}
