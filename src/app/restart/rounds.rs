//! Whom the supervisor attends to, and when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    app::{App, view::ChangeKind},
    domain::{
        Result,
        container::{Container, State},
        health::Status,
    },
};

/// Changes that are looked at together.
const BATCH: usize = 1024;
/// After how long one is attended to again when that failed.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// What of a container decides whether it must be attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sign {
    state: State,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    health: Option<Status>,
}

/// Whom to attend to, and when.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Number of the last change that was looked at.
    seq: Option<u64>,
    seen: HashMap<String, Sign>,
    waiting: BTreeSet<String>,
    busy: HashSet<String>,
    due: BTreeMap<String, Instant>,
}

impl Rounds {
    /// Looks at what changed.
    pub(super) async fn look(&mut self, app: &Arc<App>) {
        self.waiting.extend(app.restarts.untold());
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
                            app.restarts.forget_container(&container.id);
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
        app.restarts.keep_containers(&ids);
        for container in containers.iter().filter(|container| app.is_ours(container)) {
            self.see(app, container, unwanted.contains(container.key()));
        }
    }

    fn see(&mut self, app: &App, container: &Container, unwanted: bool) {
        let sign = Sign {
            state: container.state,
            started: container.started_at,
            finished: container.finished_at,
            health: app.health_of(container).map(|health| health.status),
        };
        let before = self.seen.insert(container.id.clone(), sign);
        let run = container.started_at;
        let told = run.is_none() || app.restarts.is_told(&container.id, container.key(), run);
        // One that is new and well needs nobody, unless something is remembered of it.
        let plain = before.is_none()
            && told
            && container.is_running()
            && sign.health != Some(Status::Unhealthy)
            && !unwanted
            && app.restarts.get(container.key()).is_none();
        if before != Some(sign) && !plain && container.started_at.is_some() {
            self.waiting.insert(container.id.clone());
        }
    }

    /// The next to attend to. Each is attended to once at a time.
    pub(super) fn next(&mut self) -> Option<String> {
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

    /// When one is to be attended to though nothing changes.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Takes over what came of it: after how long it is to be attended to again.
    pub(super) fn done(&mut self, id: String, done: Result<Option<Duration>>) {
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
