//! How containers do by our own probes, and how long their runs are.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    domain::{
        Result,
        container::Container,
        event::Event,
        health::{Health, HealthCheck, ProbeResult, REMEMBERED, Status},
    },
    store::Store,
};

/// Events that are kept for a store that cannot take them.
const KEPT_EVENTS: usize = 4096;

/// How containers do, by id.
#[derive(Debug)]
pub struct Healths {
    known: Mutex<HashMap<String, Known>>,
    /// Those that the store does not have as they are.
    unsaved: Mutex<HashSet<String>>,
    /// Events that the store did not take, the oldest first.
    untold: Mutex<Vec<Event>>,
    /// When this process began to look.
    since: Timestamp,
}

#[derive(Debug, Default)]
struct Known {
    health: Health,
    age: Option<Age>,
}

/// How long a run is. The wall clock may be put back or forward at any time, so it is
/// asked at most once.
#[derive(Debug)]
struct Age {
    /// When the run began, as the engine tells.
    run: Option<Timestamp>,
    /// When this process saw it first.
    seen: Instant,
    /// How long it was before that.
    before: Duration,
}

impl Age {
    fn at(&self, now: Instant) -> Duration {
        self.before.saturating_add(now.saturating_duration_since(self.seen))
    }
}

impl Healths {
    /// Reads what was known.
    pub(in crate::app) async fn load(store: &Store) -> Result<Self> {
        Ok(Self::new(store.healths().await?, Timestamp::now()))
    }

    fn new(healths: HashMap<String, Health>, since: Timestamp) -> Self {
        let known = healths.into_iter().map(|(id, health)| (id, Known { health, age: None }));
        let known = known.collect::<HashMap<_, _>>();
        Self { known: known.into(), unsaved: Mutex::default(), untold: Mutex::default(), since }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told_late(&self) -> MutexGuard<'_, Vec<Event>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at how a container does.
    pub(super) fn of<T>(&self, id: &str, look: impl FnOnce(&Health) -> Option<T>) -> Option<T> {
        self.known().get(id).and_then(|known| look(&known.health))
    }

    /// Begins with a run of a container, unless it was begun with already.
    pub(super) fn begin(&self, container: &Container) {
        self.begin_at(container, Timestamp::now(), Instant::now());
    }

    fn begin_at(&self, container: &Container, wall: Timestamp, now: Instant) {
        let mut known = self.known();
        let Known { health, age } = known.entry(container.id.clone()).or_default();
        let run = container.started_at;
        if health.run != run || health.since.is_none() {
            health.begin(run, wall);
        }
        if age.as_ref().is_none_or(|age| age.run != run) {
            // Only what began before this process may have been for a while.
            let older = run.filter(|run| *run < self.since);
            let before = older.and_then(|run| Duration::try_from(wall.duration_since(run)).ok());
            *age = Some(Age { run, seen: now, before: before.unwrap_or_default() });
        }
    }

    /// Takes over what the engine says of a container that it checks itself. True when that
    /// is to be told: the run does otherwise than was known of it, perhaps before this
    /// process began.
    pub(super) fn hear(&self, container: &Container, said: &Health) -> bool {
        self.learn(container, said);
        let mut known = self.known();
        let health = &mut known.entry(container.id.clone()).or_default().health;
        if health.run != container.started_at {
            health.begin(container.started_at, container.started_at.unwrap_or_else(Timestamp::now));
        }
        if said.status == health.status {
            return false;
        }
        health.status = said.status;
        health.since = said.results.back().map(|result| result.at).or(health.since);
        said.status != Status::Starting
    }

    /// Adds the answers that the engine has to those that are known; it forgets them when
    /// the container starts again.
    pub(super) fn learn(&self, container: &Container, said: &Health) {
        let mut known = self.known();
        let results = &mut known.entry(container.id.clone()).or_default().health.results;
        let new = |result: &&ProbeResult| results.iter().all(|have| have.at != result.at);
        let new: Vec<_> = said.results.iter().filter(new).cloned().collect();
        if new.is_empty() {
            return;
        }
        results.extend(new);
        let over = results.len().saturating_sub(REMEMBERED);
        results.drain(..over);
        self.changed().insert(container.id.clone());
    }

    /// Takes an answer over, if it is of the run that is known. `begun` is when the
    /// container was asked.
    pub(super) fn take(
        &self,
        container: &Container,
        check: &HealthCheck,
        result: ProbeResult,
        begun: Instant,
    ) -> Option<(Status, Health)> {
        let mut known = self.known();
        let Known { health, age } = known.get_mut(&container.id)?;
        if health.run != container.started_at {
            return None;
        }
        let into = age.as_ref().map(|age| age.at(begun)).unwrap_or_default();
        let changed = health.take(&check.timing, result, into);
        self.changed().insert(container.id.clone());
        changed.map(|status| (status, health.clone()))
    }

    /// Forgets containers that are not there any more, and answers which.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let mut known = self.known();
        let gone: Vec<_> = known.keys().filter(|id| !is_there(id)).cloned().collect();
        for id in &gone {
            known.remove(id);
        }
        gone
    }

    /// What the store does not have; from now on it is taken to have it.
    pub(super) fn unsaved(&self) -> Vec<(String, Health)> {
        let unsaved = std::mem::take(&mut *self.changed());
        let known = self.known();
        let saved = unsaved.into_iter().filter_map(|id| {
            let health = known.get(&id)?.health.clone();
            Some((id, health))
        });
        saved.collect()
    }

    /// The store did not take these, nor these events.
    pub(super) fn save_again(&self, ids: Vec<String>, mut events: Vec<Event>) {
        self.changed().extend(ids);
        let mut untold = self.told_late();
        events.append(&mut untold);
        let over = events.len().saturating_sub(KEPT_EVENTS);
        for event in events.drain(..over) {
            tracing::error!(message = event.message(), "an event is lost");
        }
        *untold = events;
    }

    /// The events that the store does not have; from now on it is taken to have them.
    pub(super) fn untold(&self) -> Vec<Event> {
        std::mem::take(&mut *self.told_late())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        container::tests::named,
        health::{Probe, Timing},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const START: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START + second).expect("a time")
    }

    fn started(second: i64) -> Container {
        Container { id: "id".into(), started_at: Some(at(second)), ..named("web") }
    }

    fn healths() -> Healths {
        Healths::new(HashMap::new(), at(0))
    }

    /// Fails once, and answers how many failures count. The start period has 10 s.
    fn fails(healths: &Healths, container: &Container, wall: Timestamp, begun: Instant) -> u32 {
        let timing = Timing { retries: 1000, start_period: SECOND * 10, ..Timing::default() };
        let check = HealthCheck { probe: Probe::Tcp { port: 1 }, timing };
        let output = String::new();
        let result = ProbeResult { at: wall, took: SECOND, success: false, output };
        healths.take(container, &check, result, begun);
        healths.of("id", |health| Some(health.streak)).expect("it is known")
    }

    #[test]
    fn the_start_period_lasts_as_long_whatever_the_wall_clock_does() {
        let now = Instant::now();
        for jump in [-100_000, 0, 100_000] {
            let (healths, container) = (healths(), started(5));
            healths.begin_at(&container, at(5), now);
            let fails = |second: u64| {
                let wall = at(5 + jump + i64::try_from(second).expect("small"));
                // A change of it is seen again and again.
                healths.begin_at(&container, wall, now + SECOND * 3);
                fails(&healths, &container, wall, now + Duration::from_secs(second))
            };
            assert_eq!((fails(1), fails(9)), (0, 0), "the clock is put by {jump} s");
            assert_eq!((fails(10), fails(11)), (1, 2), "the clock is put by {jump} s");
        }
    }

    #[test]
    fn a_run_from_before_this_process_is_as_old_as_the_wall_clock_says_once() {
        let now = Instant::now();
        for (age, counted) in [(4, [0, 0, 1]), (60, [1, 2, 3]), (-60, [0, 0, 0])] {
            let (healths, container) = (healths(), started(-1));
            healths.begin_at(&container, at(age - 1), now);
            let fails = |second: u64| {
                fails(&healths, &container, at(-5000), now + Duration::from_secs(second))
            };
            assert_eq!([fails(0), fails(5), fails(6)], counted, "it has run for {age} s");
            assert!(fails(10) > 0, "the start period ends");
        }
    }

    #[test]
    fn each_run_has_a_start_period_of_its_own() {
        let (healths, now) = (healths(), Instant::now());
        healths.begin_at(&started(1), at(1), now);
        assert_eq!(fails(&healths, &started(1), at(31), now + SECOND * 30), 1);
        healths.begin_at(&started(31), at(31), now + SECOND * 30);
        assert_eq!(fails(&healths, &started(31), at(32), now + SECOND * 31), 0);
        // What is said of the run before does not count for it.
        assert_eq!(fails(&healths, &started(1), at(99), now + SECOND * 98), 0);
        assert_eq!(fails(&healths, &started(31), at(42), now + SECOND * 41), 1);
        assert_eq!(healths.unsaved().len(), 1);
        assert_eq!(healths.retain(|id| id != "id"), ["id"]);
    }
}
