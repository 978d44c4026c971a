//! Who is ending a container: signals that the engine sent, and how many of them are ours.
//!
//! A stop is told when it is done. What is done about the health of a container, which
//! may well fail because it is being stopped, must not come before that.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::domain::container::Container;

/// Longest that a signal is taken for a stop that goes on.
pub(super) const LONGEST: Duration = Duration::from_secs(600);
/// Signals of one container that are remembered.
const REMEMBERED: usize = 16;

/// What was sent to containers, by their ids.
#[derive(Debug, Default)]
pub(in crate::app) struct Signals(Mutex<HashMap<String, Sent>>);

#[derive(Debug, Default)]
struct Sent {
    /// When by the engine's clock, and when that was heard of.
    all: VecDeque<(Timestamp, Instant)>,
    /// How many are ours, in the run that began then.
    ours: (Option<Timestamp>, usize),
}

impl Signals {
    /// A container was sent a signal that asks it to end.
    pub(in crate::app) fn sent(&self, id: &str, at: Timestamp) {
        let mut known = self.known();
        let sent = known.entry(id.to_owned()).or_default();
        if sent.all.len() == REMEMBERED {
            sent.all.pop_front();
        }
        sent.all.push_back((at, Instant::now()));
    }

    /// We are about to send one.
    pub(super) fn send(&self, container: &Container) {
        let mut known = self.known();
        let sent = known.entry(container.id.clone()).or_default();
        if sent.ours.0 != container.started_at {
            sent.ours = (container.started_at, 0);
        }
        sent.ours.1 += 1;
    }

    /// True when somebody else asked this run of a container to end, not long ago.
    pub(super) fn are_of_others(&self, container: &Container) -> bool {
        let known = self.known();
        let Some(sent) = known.get(&container.id) else { return false };
        let ours = if sent.ours.0 == container.started_at { sent.ours.1 } else { 0 };
        let of_run = sent.all.iter().filter(|(at, _)| Some(*at) >= container.started_at);
        let recent = sent.all.back().is_some_and(|(_, heard)| heard.elapsed() < LONGEST);
        recent && of_run.count() > ours
    }

    /// Forgets a container that is gone.
    pub(super) fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    /// Forgets all but these.
    pub(super) fn keep(&self, ids: &HashSet<&str>) {
        self.known().retain(|id, _| ids.contains(id.as_str()));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
