//! The supervisor: containers that ended come back as their policy says.
//!
//! ```text
//! view ──► supervise: what ended, what is ill, what is due
//!             │
//!          attend: under the locks of its names, with what the engine says now
//!             │
//!   domain/restart decides ──► the store ──► the engine stops or starts
//! ```
//!
//! What was decided is written before it is done, so a service that is killed in
//! between goes on where it was.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use super::{App, view::ChangeKind};
use crate::{
    domain::{
        Result,
        container::{Container, State},
        health::Status,
        restart::{Cause, Phase, Policy, Rules, Supervised},
    },
    store::Store,
};

mod attend;
mod signals;

use signals::Signals;

/// Containers that are attended to at once.
const AT_ONCE: usize = 8;
/// Changes that are looked at together.
const BATCH: usize = 1024;
/// After how long one is attended to again when that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// What is remembered for restarts.
#[derive(Debug)]
pub struct Restarts {
    /// By identity; most containers have nothing here.
    states: Mutex<HashMap<String, Supervised>>,
    /// Ids of containers that were stopped, which is not yet taken into account; and
    /// whether the supervisor was told.
    stopped: Mutex<HashMap<String, bool>>,
    /// What is wrong with containers that run, by id.
    complaints: Mutex<HashMap<String, Complaint>>,
    /// Who is ending containers.
    pub(super) signals: Signals,
    news: Notify,
    /// What ended before is of a time without restarts.
    since: Timestamp,
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
    pub(super) async fn load(store: &Store) -> Result<Self> {
        let (states, since) = store.supervised().await?;
        Ok(Self {
            states: states.into(),
            stopped: Mutex::default(),
            complaints: Mutex::default(),
            signals: Signals::default(),
            news: Notify::new(),
            // The clock may have been ahead when it was noted.
            since: since.min(Timestamp::now()),
        })
    }

    /// What is remembered of one identity.
    pub fn get(&self, key: &str) -> Option<Supervised> {
        self.states().get(key).cloned()
    }

    /// How many wait, and how many were given up.
    pub fn count(&self) -> (usize, usize) {
        let states = self.states();
        let count = |is: fn(&Phase) -> bool| states.values().filter(|s| is(&s.phase)).count();
        (
            count(|phase| matches!(phase, Phase::BackingOff { .. })),
            count(|phase| matches!(phase, Phase::GaveUp { .. })),
        )
    }

    /// Notes that the engine was asked to stop a container, by whomever.
    pub(super) fn was_stopped(&self, id: &str) {
        self.stopped().insert(id.to_owned(), false);
        self.news.notify_one();
    }

    /// Notes what is wrong with a run of a container: it is taken for one that failed.
    pub(super) fn complain(&self, id: &str, run: Option<Timestamp>, cause: Cause) {
        self.complaints().insert(id.to_owned(), Complaint { cause, run, told: false });
        self.news.notify_one();
    }

    /// What is wrong with this run, if anything is.
    fn complaint(&self, id: &str, run: Option<Timestamp>) -> Option<Cause> {
        let complaints = self.complaints();
        let found = complaints.get(id).filter(|complaint| complaint.run == run);
        found.map(|complaint| complaint.cause.clone())
    }

    /// What was wrong with earlier runs is void, and with this one, when that was taken
    /// into account. What came since stays.
    fn attended(&self, id: &str, run: Option<Timestamp>, taken: bool) {
        let stays = |of: Option<Timestamp>| of > run || (of == run && !taken);
        self.complaints().retain(|of, complaint| of != id || stays(complaint.run));
    }

    /// Forgets one identity.
    pub(super) fn forget(&self, key: &str) {
        self.states().remove(key);
    }

    fn set(&self, key: &str, state: Supervised) {
        self.states().insert(key.to_owned(), state);
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, Supervised>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complaints(&self) -> MutexGuard<'_, HashMap<String, Complaint>> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// What holds for a container of ours when it ends.
    pub fn restart_rules(&self, container: &Container) -> Rules {
        let choice = container.restart_choice();
        let usual = if container.is_named() { self.settings.restart_policy } else { Policy::Never };
        let on_unhealthy = choice.options.on_unhealthy;
        Rules {
            policy: choice.policy.unwrap_or(usual),
            options: choice.options,
            on_unhealthy: on_unhealthy.unwrap_or_else(|| container.health_check().is_some()),
        }
    }
}

/// What of a container decides whether it must be attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sign {
    runs: bool,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    health: Option<Status>,
}

/// Restarts containers until the service stops.
pub async fn supervise(app: Arc<App>) {
    let mut latest = app.view.subscribe();
    let mut rounds = Rounds::default();
    let mut work = FuturesUnordered::new();
    loop {
        latest.borrow_and_update();
        let synced = app.view.freshness().synced;
        if synced {
            rounds.look(&app).await;
            while work.len() < AT_ONCE
                && let Some(id) = rounds.next()
            {
                let app = app.clone();
                work.push(async move {
                    let (tasks, own) = (app.tasks.clone(), id.clone());
                    // A stop of the service must not leave the work half done.
                    let done = tasks.to_the_end(async move { app.attend(&own).await }).await;
                    (id, done)
                });
            }
        }
        // What is due waits for the engine, and for a place.
        let due = rounds.next_due().filter(|_| synced && work.len() < AT_ONCE);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = app.restarts.news.notified() => {}
            Some((id, done)) = work.next() => rounds.done(id, done),
            () = wait => {}
        }
    }
}

/// Whom to attend to, and when.
#[derive(Debug, Default)]
struct Rounds {
    /// Number of the last change that was looked at.
    seq: Option<u64>,
    seen: HashMap<String, Sign>,
    waiting: BTreeSet<String>,
    busy: HashSet<String>,
    due: BTreeMap<String, Instant>,
}

impl Rounds {
    /// Looks at what changed.
    async fn look(&mut self, app: &Arc<App>) {
        for (id, told) in app.restarts.stopped().iter_mut().filter(|(_, told)| !**told) {
            *told = true;
            self.waiting.insert(id.clone());
        }
        for (id, complaint) in app.restarts.complaints().iter_mut().filter(|(_, it)| !it.told) {
            complaint.told = true;
            self.waiting.insert(id.clone());
        }
        loop {
            match self.seq.and_then(|seq| app.view.changes_after(seq, BATCH)) {
                Some(changes) if changes.is_empty() => break,
                Some(changes) => {
                    for change in changes {
                        self.seq = Some(change.seq);
                        let container = &change.container;
                        if change.kind == ChangeKind::Removed {
                            self.seen.remove(&container.id);
                            self.due.remove(&container.id);
                            app.restarts.signals.forget(&container.id);
                        } else if app.is_ours(container) {
                            self.see(app, container, false);
                        }
                    }
                }
                None => self.list(app).await,
            }
        }
    }

    async fn list(&mut self, app: &Arc<App>) {
        let records = app.store.records().await.unwrap_or_default();
        let unwanted: HashSet<String> =
            records.into_iter().filter(|record| !record.wanted).map(|record| record.key).collect();
        let (seq, containers) = app.view.snapshot();
        self.seq = Some(seq);
        self.seen.clear();
        let ids = containers.iter().map(|container| container.id.as_str()).collect();
        app.restarts.signals.keep(&ids);
        for container in containers.iter().filter(|container| app.is_ours(container)) {
            self.see(app, container, unwanted.contains(container.key()));
        }
    }

    fn see(&mut self, app: &App, container: &Container, unwanted: bool) {
        let sign = Sign {
            runs: container.is_running(),
            started: container.started_at,
            finished: container.finished_at,
            health: app.health_of(container).map(|health| health.status),
        };
        let before = self.seen.insert(container.id.clone(), sign);
        // One that is new and well needs nobody, unless something is remembered of it.
        let plain = before.is_none()
            && sign.runs
            && sign.health != Some(Status::Unhealthy)
            && !unwanted
            && app.restarts.get(container.key()).is_none();
        if before != Some(sign) && !plain && container.started_at.is_some() {
            self.waiting.insert(container.id.clone());
        }
    }

    /// The next to attend to.
    fn next(&mut self) -> Option<String> {
        let now = Instant::now();
        let due = self.due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone());
        let due: Vec<String> = due.collect();
        for id in due {
            self.due.remove(&id);
            self.waiting.insert(id);
        }
        let id = self.waiting.iter().find(|id| !self.busy.contains(*id)).cloned()?;
        self.waiting.remove(&id);
        self.busy.insert(id.clone());
        Some(id)
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    fn done(&mut self, id: String, done: Result<Option<Duration>>) {
        self.busy.remove(&id);
        let again = match done {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(?error, id, "a container cannot be attended to; trying again");
                Some(AGAIN)
            }
        };
        match again {
            Some(wait) => self.due.insert(id, Instant::now() + wait),
            None => self.due.remove(&id),
        };
    }
}

/// True for one that ended, and is not on its way elsewhere.
fn has_ended(container: &Container) -> bool {
    matches!(container.state, State::Exited | State::Dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrong_with_one_run_says_nothing_about_another() {
        let restarts = Restarts {
            states: Mutex::default(),
            stopped: Mutex::default(),
            complaints: Mutex::default(),
            signals: Signals::default(),
            news: Notify::new(),
            since: Timestamp::UNIX_EPOCH,
        };
        let [first, second] = [1, 2].map(|second| Timestamp::from_second(second).ok());
        let cause = Cause::GpuLost("off".into());
        restarts.complain("a", first, cause.clone());
        assert_eq!(restarts.complaint("a", first), Some(cause.clone()));
        assert_eq!(restarts.complaint("a", second), None, "it was started again meanwhile");
        restarts.attended("b", second, true);
        assert_eq!(restarts.complaint("a", first), Some(cause.clone()));
        // It came after this one was read.
        restarts.attended("a", first, false);
        assert_eq!(restarts.complaint("a", first), Some(cause.clone()));
        restarts.attended("a", second, false);
        assert_eq!(restarts.complaint("a", first), None);
        // What was told of a later run while an earlier one was attended to stays.
        restarts.complain("a", second, cause.clone());
        restarts.attended("a", first, true);
        assert_eq!(restarts.complaint("a", second), Some(cause));
    }
}
