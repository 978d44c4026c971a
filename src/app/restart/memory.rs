//! What is remembered for restarts, and what happened that is not yet taken into account.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{places::Places, signals::Signals};
use crate::{
    domain::{
        Result,
        event::Event,
        restart::{Cause, Phase, Supervised},
    },
    store::Store,
};

/// Events of one container that are kept for a store that cannot take them.
const KEPT_EVENTS: usize = 64;

/// What is remembered for restarts.
#[derive(Debug)]
pub struct Restarts {
    /// By identity; most containers have nothing here.
    states: Mutex<HashMap<String, Remembered>>,
    /// Stops of containers that are not yet taken into account, by id.
    stopped: Mutex<HashMap<String, Stop>>,
    /// What is wrong with containers that run, by id.
    complaints: Mutex<HashMap<String, Complaint>>,
    /// When the run began that each container had when it was stopped for good, by id:
    /// another one is of somebody who started it since.
    rests: Mutex<HashMap<String, Option<Timestamp>>>,
    /// When the run began that each container had when it was last told of a start, or was
    /// first seen, by id: another one is of somebody who started it since.
    told: Mutex<HashMap<String, Option<Timestamp>>>,
    /// Who is ending containers.
    pub(in crate::app) signals: Signals,
    /// Who may load the engine.
    pub(super) places: Places,
    pub(super) news: Notify,
    /// What ended before is of a time without restarts.
    since: Timestamp,
    /// When that was read.
    loaded: Instant,
}

/// What is remembered of one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered {
    pub(super) state: Supervised,
    /// The engine was asked to start it, which is counted, and did not answer: a run that
    /// is new may come of that.
    pub(super) asked: bool,
    /// The store does not have the state as it is, nor these events.
    unwritten: Option<Vec<Event>>,
}

/// A stop of a container.
#[derive(Debug)]
struct Stop {
    /// When, by the engine's clock.
    at: Timestamp,
    /// The supervisor was told.
    told: bool,
}

/// What is wrong with one run of a container.
#[derive(Debug)]
struct Complaint {
    cause: Cause,
    /// When that run began; it says nothing about a later one.
    run: Option<Timestamp>,
    /// The supervisor was told.
    told: bool,
}

impl Restarts {
    /// Reads what was remembered.
    pub(in crate::app) async fn load(store: &Store) -> Result<Self> {
        let (states, since) = store.supervised().await?;
        let remembered = |(key, state)| (key, Remembered { state, ..Remembered::default() });
        Ok(Self::new(states.into_iter().map(remembered).collect(), since))
    }

    fn new(states: HashMap<String, Remembered>, since: Timestamp) -> Self {
        Self {
            states: states.into(),
            stopped: Mutex::default(),
            complaints: Mutex::default(),
            rests: Mutex::default(),
            told: Mutex::default(),
            signals: Signals::default(),
            places: Places::default(),
            news: Notify::new(),
            since,
            loaded: Instant::now(),
        }
    }

    /// What ended before is of a time without restarts. The clock may have been ahead when
    /// that was noted, or be put back at any time: it was noted before it was read.
    pub(super) fn since(&self, now: Timestamp) -> Timestamp {
        now.checked_sub(self.loaded.elapsed()).map_or(self.since, |loaded| loaded.min(self.since))
    }

    /// What is remembered of one identity.
    pub fn get(&self, key: &str) -> Option<Supervised> {
        lock(&self.states).get(key).map(|remembered| remembered.state.clone())
    }

    /// How many wait, and how many were given up.
    pub fn count(&self) -> (usize, usize) {
        let states = lock(&self.states);
        let count =
            |is: fn(&Phase) -> bool| states.values().filter(|it| is(&it.state.phase)).count();
        (
            count(|phase| matches!(phase, Phase::BackingOff { .. })),
            count(|phase| matches!(phase, Phase::GaveUp { .. })),
        )
    }

    /// Notes that the engine was asked to stop a container, by whomever, and when by its
    /// clock.
    pub(in crate::app) fn was_stopped(&self, id: &str, at: Timestamp) {
        let mut stopped = lock(&self.stopped);
        let at = stopped.get(id).map_or(at, |before| before.at.max(at));
        stopped.insert(id.to_owned(), Stop { at, told: false });
        self.news.notify_one();
    }

    /// When a container was last stopped, if that is not yet taken into account.
    pub(super) fn stop_of(&self, id: &str) -> Option<Timestamp> {
        lock(&self.stopped).get(id).map(|stop| stop.at)
    }

    /// A stop of that time is taken into account. What came since stays.
    pub(super) fn stop_is_taken(&self, id: &str, taken: Option<Timestamp>) {
        lock(&self.stopped).retain(|of, stop| of != id || Some(stop.at) > taken);
    }

    /// Notes that somebody stopped a container for good, in the run that began then.
    pub(in crate::app) fn rests(&self, id: &str, run: Option<Timestamp>) {
        lock(&self.rests).insert(id.to_owned(), run);
    }

    /// True when a run that ended began after the container was stopped for good. What it
    /// was before this service looked on is not known: the run that it has then counts.
    pub(super) fn was_started_since(&self, id: &str, run: Option<Timestamp>) -> bool {
        // A clock that was put back makes it no earlier run.
        *lock(&self.rests).entry(id.to_owned()).or_insert(run) != run
    }

    /// Notes that a run of a container is told, or is no news: this service began it.
    pub(in crate::app) fn run_is_told(&self, id: &str, run: Option<Timestamp>) {
        lock(&self.told).insert(id.to_owned(), run);
    }

    /// True when a run is told, or was there already when the container was first seen. Of
    /// one whose end was dealt with, that run is remembered, also by the store.
    pub(super) fn is_told(&self, id: &str, key: &str, run: Option<Timestamp>) -> bool {
        let states = lock(&self.states);
        let state = states.get(key).map(|remembered| &remembered.state);
        let before = state.filter(|state| state.phase == Phase::Watching);
        let before = before.and_then(|state| state.run).or(run);
        drop(states);
        *lock(&self.told).entry(id.to_owned()).or_insert(before) == run
    }

    /// Notes what is wrong with a run of a container: it is taken for one that failed.
    pub(in crate::app) fn complain(&self, id: &str, run: Option<Timestamp>, cause: Cause) {
        lock(&self.complaints).insert(id.to_owned(), Complaint { cause, run, told: false });
        self.news.notify_one();
    }

    /// What is wrong with this run, if anything is.
    pub(super) fn complaint(&self, id: &str, run: Option<Timestamp>) -> Option<Cause> {
        let complaints = lock(&self.complaints);
        let found = complaints.get(id).filter(|complaint| complaint.run == run);
        found.map(|complaint| complaint.cause.clone())
    }

    /// What was wrong with earlier runs is void, and with this one, when that was taken
    /// into account. What came since stays.
    pub(super) fn complaint_is_taken(&self, id: &str, run: Option<Timestamp>, taken: bool) {
        let stays = |of: Option<Timestamp>| of > run || (of == run && !taken);
        lock(&self.complaints).retain(|of, complaint| of != id || stays(complaint.run));
    }

    /// What happened to one that nobody is to attend to is void.
    pub(super) fn forget_news(&self, id: &str) {
        lock(&self.stopped).remove(id);
        lock(&self.complaints).remove(id);
    }

    /// Ids of containers to which something happened that the supervisor was not told yet.
    pub(super) fn untold(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for (id, stop) in lock(&self.stopped).iter_mut().filter(|(_, stop)| !stop.told) {
            stop.told = true;
            ids.push(id.clone());
        }
        for (id, complaint) in lock(&self.complaints).iter_mut().filter(|(_, it)| !it.told) {
            complaint.told = true;
            ids.push(id.clone());
        }
        ids
    }

    /// Forgets one identity.
    pub(in crate::app) fn forget(&self, key: &str) {
        lock(&self.states).remove(key);
    }

    /// Forgets a container that is gone.
    pub(super) fn forget_container(&self, id: &str) {
        self.signals.forget(id);
        lock(&self.rests).remove(id);
        lock(&self.told).remove(id);
    }

    /// Forgets all containers but these.
    pub(super) fn keep_containers(&self, ids: &HashSet<&str>) {
        self.signals.keep(ids);
        lock(&self.rests).retain(|id, _| ids.contains(id.as_str()));
        lock(&self.told).retain(|id, _| ids.contains(id.as_str()));
    }

    /// All that is remembered of one identity.
    pub(super) fn remembered(&self, key: &str) -> Remembered {
        lock(&self.states).get(key).cloned().unwrap_or_default()
    }

    /// Remembers it for as long as this process lives.
    pub(super) fn hold(&self, key: &str, state: &Supervised, asked: bool) {
        let mut states = lock(&self.states);
        let remembered = states.entry(key.to_owned()).or_default();
        (remembered.state, remembered.asked) = (state.clone(), asked);
    }

    /// Notes that the store lacks what is remembered now, and these events.
    pub(super) fn is_unwritten(&self, key: &str, told: Vec<Event>) {
        let mut states = lock(&self.states);
        let events = states.entry(key.to_owned()).or_default().unwritten.get_or_insert_default();
        events.extend(told);
        let over = events.len().saturating_sub(KEPT_EVENTS);
        for event in events.drain(..over) {
            let (name, what) = (event.subject.name.as_str(), event.message());
            tracing::warn!(name, what, "an event is lost: the store has taken none for too long");
        }
    }

    /// An event of one identity, after those that the store could not take before.
    pub(in crate::app) fn with_untold(&self, key: &str, event: Event) -> Vec<Event> {
        let untold = self.unwritten(key).map(|(_, events)| events);
        untold.into_iter().flatten().chain([event]).collect()
    }

    /// What the store lacks, if anything.
    pub(super) fn unwritten(&self, key: &str) -> Option<(Supervised, Vec<Event>)> {
        let states = lock(&self.states);
        let remembered = states.get(key)?;
        Some((remembered.state.clone(), remembered.unwritten.clone()?))
    }

    /// Notes that the store has all of it.
    pub(super) fn is_written(&self, key: &str) {
        if let Some(remembered) = lock(&self.states).get_mut(key) {
            remembered.unwritten = None;
        }
    }
}

/// True for a stop that may be of the run that began and ended then, all by the engine's
/// clock: one that is told late is of an earlier run.
pub(super) fn is_of_run(stop: Timestamp, run: Option<Timestamp>, end: Option<Timestamp>) -> bool {
    // A run that ends before it began ends by a clock that was put back, as does its stop.
    run.is_none_or(|run| stop >= end.map_or(run, |end| end.min(run)))
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restarts() -> Restarts {
        Restarts::new(HashMap::new(), Timestamp::UNIX_EPOCH)
    }

    fn at<const N: usize>(seconds: [i64; N]) -> [Option<Timestamp>; N] {
        seconds.map(|second| Timestamp::from_second(second).ok())
    }

    #[test]
    fn what_was_wrong_with_one_run_says_nothing_about_another() {
        let restarts = restarts();
        let [first, second] = at([1, 2]);
        let cause = Cause::GpuLost("off".into());
        restarts.complain("a", first, cause.clone());
        assert_eq!(restarts.complaint("a", first), Some(cause.clone()));
        assert_eq!(restarts.complaint("a", second), None, "it was started again meanwhile");
        restarts.complaint_is_taken("b", second, true);
        assert_eq!(restarts.complaint("a", first), Some(cause.clone()));
        // It came after this one was read.
        restarts.complaint_is_taken("a", first, false);
        assert_eq!(restarts.complaint("a", first), Some(cause.clone()));
        restarts.complaint_is_taken("a", second, false);
        assert_eq!(restarts.complaint("a", first), None);
        // What was told of a later run while an earlier one was attended to stays.
        restarts.complain("a", second, cause.clone());
        restarts.complaint_is_taken("a", first, true);
        assert_eq!(restarts.complaint("a", second), Some(cause));
    }

    #[test]
    fn a_stop_counts_for_the_run_that_it_ended_and_for_no_later_one() {
        let [Some(before), Some(run), Some(after)] = at([1, 2, 3]) else { panic!("times") };
        for (stop, counts) in [(before, false), (run, true), (after, true)] {
            assert_eq!(is_of_run(stop, Some(run), Some(after)), counts, "{stop}");
        }
        assert!(is_of_run(before, None, None), "an engine that does not know when it began");
        assert!(is_of_run(run, Some(after), Some(run)), "the clock was put back in the run");
        assert!(!is_of_run(before, Some(after), Some(run)), "of an earlier run");

        let restarts = restarts();
        restarts.was_stopped("a", run);
        assert_eq!((restarts.untold(), restarts.untold()), (vec!["a".to_owned()], Vec::new()));
        assert_eq!(restarts.stop_of("a"), Some(run));
        // One that came while the earlier one was taken into account stays, and an
        // earlier one that comes later changes nothing.
        restarts.was_stopped("a", after);
        restarts.was_stopped("a", before);
        restarts.stop_is_taken("a", Some(run));
        assert_eq!(restarts.stop_of("a"), Some(after));
        restarts.stop_is_taken("a", Some(after));
        assert_eq!(restarts.stop_of("a"), None);
    }

    #[test]
    fn what_ends_after_the_clock_was_put_back_is_of_a_time_with_restarts() {
        let [Some(noted), Some(now)] = at([1000, 5000]) else { panic!("times") };
        let restarts = Restarts::new(HashMap::new(), noted);
        assert_eq!(restarts.since(now), noted);
        let [Some(put_back)] = at([500]) else { panic!("a time") };
        let since = restarts.since(put_back);
        assert!(since < put_back, "what ended while it was there counts: {since}");
        assert!(put_back.duration_since(since).as_secs() < 60, "what ended before does not");
    }

    #[test]
    fn a_run_is_told_unless_it_began_after_the_one_that_is_known() {
        let restarts = restarts();
        let [first, second] = at([1, 2]);
        assert!(restarts.is_told("a", "k", first), "it was there");
        assert!(!restarts.is_told("a", "k", second));
        restarts.run_is_told("a", second);
        assert!(restarts.is_told("a", "k", second));
        // Of one that had ended by itself before the service began, the store knows the run.
        let mut state = Supervised::default();
        state.runs(first);
        restarts.hold("l", &state, false);
        assert!(!restarts.is_told("b", "l", second));
        restarts.keep_containers(&HashSet::from(["a"]));
        assert!(restarts.is_told("b", "l", first));
    }

    #[test]
    fn a_run_after_the_stop_was_started_by_somebody() {
        let restarts = restarts();
        let [first, second, third] = at([1, 2, 3]);
        restarts.rests("a", first);
        assert!(!restarts.was_started_since("a", first));
        assert!(restarts.was_started_since("a", second));
        restarts.rests("a", third);
        assert!(restarts.was_started_since("a", first), "by a clock that was put back");
        // Of one that was stopped before this service was there, the first look tells.
        assert!(!restarts.was_started_since("b", second));
        assert!(restarts.was_started_since("b", third));
        restarts.keep_containers(&HashSet::from(["a"]));
        assert!(!restarts.was_started_since("b", third), "it was forgotten");
    }
}
