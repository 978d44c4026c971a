//! Who came first. A run that was overtaken while it fetched what it needs must not
//! undo what a newer request did.
//!
//! ```text
//! run A begins, 1 ── fetches ─────────────────────────────► lock: overtaken, nothing is done
//!       run B begins, 2 ── lock, work, done: overtakes 1 ──┘
//! ```
//!
//! Only requests that succeed overtake, and only runs are overtaken: a stop or a removal
//! is short, and always wins. What is remembered is of runs under way alone, so there is
//! never more of it than of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::domain::{Error, Kind};

/// What overtook a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newer {
    /// Another run of the name.
    Run,
    /// A stop.
    Stop,
    /// A removal.
    Removal,
}

/// Numbers of requests, and the runs under way.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    runs: BTreeMap<u64, Run>,
}

#[derive(Debug)]
struct Run {
    /// The identity that it works on.
    key: String,
    names: Vec<String>,
    overtaken: watch::Sender<Option<Newer>>,
}

/// The turn of one run, as long as it is under way.
#[derive(Debug)]
pub(super) struct Turn {
    /// Its number; a later request has a higher one.
    pub(super) number: u64,
    turns: Arc<Turns>,
    overtaken: watch::Receiver<Option<Newer>>,
}

impl Turns {
    /// The number of a request that begins now.
    pub(super) fn draw(&self) -> u64 {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Begins the turn of a run.
    pub(super) fn begin(self: &Arc<Self>, key: String, names: Vec<String>) -> Turn {
        let (sender, overtaken) = watch::channel(None);
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        state.runs.insert(number, Run { key, names, overtaken: sender });
        drop(state);
        Turn { number, turns: self.clone(), overtaken }
    }

    /// What a request of this number did to an identity holds against older runs of it.
    /// The locks of its names must be held, unless nothing was changed.
    pub(super) fn overtake(&self, key: &str, number: u64, newer: Newer) {
        self.overtake_all(number, newer, |run| run.key == key);
    }

    /// The same for the older runs that have this name; says whether there is one.
    pub(super) fn overtake_named(&self, name: &str, number: u64, newer: Newer) -> bool {
        self.overtake_all(number, newer, |run| run.names.iter().any(|have| have == name))
    }

    /// True while a run that has this name is under way.
    pub(super) fn are_under_way(&self, name: &str) -> bool {
        self.state().runs.values().any(|run| run.names.iter().any(|have| have == name))
    }

    fn overtake_all(&self, number: u64, newer: Newer, is_meant: impl Fn(&Run) -> bool) -> bool {
        let state = self.state();
        let mut any = false;
        for (_, run) in state.runs.range(..number).filter(|(_, run)| is_meant(run)) {
            run.overtaken.send_replace(Some(newer));
            any = true;
        }
        any
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// What overtook it, if anything did.
    pub(super) fn overtaken(&self) -> Option<Newer> {
        *self.overtaken.borrow()
    }

    /// Resolves when it is overtaken.
    pub(super) async fn lost(&self) {
        let mut overtaken = self.overtaken.clone();
        // The sender lives as long as this turn.
        let _ = overtaken.wait_for(Option::is_some).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.state().runs.remove(&self.number);
    }
}

/// The error of a run that was overtaken.
pub(super) fn overtaken(name: &str, newer: Newer) -> Error {
    let what = match newer {
        Newer::Run => "run",
        Newer::Stop => "stop",
        Newer::Removal => "removal",
    };
    Error::new(
        Kind::Aborted,
        "OVERTAKEN",
        format!(
            "a newer {what} of \"{name}\" came first, and this run, which was asked for \
             before it, would undo it; see what is there now, and run again if this is still wanted"
        ),
    )
    .with("name", name)
    .with("newer", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn older_runs_of_the_identity_are_overtaken_and_no_others() {
        let turns = Arc::new(Turns::default());
        let begin = |name: &str| turns.begin(format!("name:{name}"), vec![name.to_owned()]);
        let (old, other) = (begin("a"), begin("b"));
        let (number, newer) = (turns.draw(), begin("a"));
        turns.overtake("name:a", number, Newer::Stop);
        old.lost().await;
        assert_eq!(old.overtaken(), Some(Newer::Stop));
        assert_eq!((other.overtaken(), newer.overtaken()), (None, None));
        assert!(turns.are_under_way("b") && !turns.are_under_way("c"));
        assert!(turns.overtake_named("b", turns.draw(), Newer::Removal));
        assert_eq!(other.overtaken(), Some(Newer::Removal));
        assert!(!turns.overtake_named("b", 1, Newer::Run), "none is older");
        drop((old, other, newer));
        assert!(turns.state().runs.is_empty(), "nothing is remembered of what has ended");
    }
}
