//! Whom to ask whether it is well, and when.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::super::{App, view::ChangeKind};
use crate::domain::{
    container::{Container, State},
    health::{HealthCheck, Probe, Status},
};

/// Changes that are looked at together.
const BATCH: usize = 1024;
/// The first probe of a run comes within this, so that many do not come at once.
const SPREAD: Duration = Duration::from_secs(1);

/// Whom to ask, and what.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) container: Arc<Container>,
    pub(super) check: Arc<HealthCheck>,
}

/// What is to be done next.
pub(super) enum Turn {
    Ask(String, Instant, Target),
    Tell(Arc<Container>, Status),
}

/// Whom to ask, and when.
#[derive(Default)]
pub(super) struct Prober {
    /// Number of the last change that was looked at.
    seq: Option<u64>,
    targets: HashMap<String, Target>,
    /// Those that are being asked.
    busy: HashSet<String>,
    due: BinaryHeap<Reverse<(Instant, String)>>,
    /// Which entry of `due` counts; earlier ones of the same container are void.
    next: HashMap<String, Instant>,
    /// Those that do otherwise, as the engine says that checks them.
    tell: VecDeque<(Arc<Container>, Status)>,
}

impl Prober {
    pub(super) fn look(&mut self, app: &App) {
        loop {
            match self.seq.and_then(|seq| app.view.changes_after(seq, BATCH)) {
                Some(changes) if changes.is_empty() => break,
                Some(changes) => {
                    for change in changes {
                        self.seq = Some(change.seq);
                        if change.kind == ChangeKind::Removed {
                            self.targets.remove(&change.container.id);
                        } else if app.is_ours(&change.container) {
                            self.see(app, &change.container);
                        }
                    }
                }
                None => {
                    let (seq, containers) = app.view.snapshot();
                    self.seq = Some(seq);
                    self.targets.clear();
                    for container in containers.iter().filter(|it| app.is_ours(it)) {
                        self.see(app, container);
                    }
                }
            }
        }
    }

    fn see(&mut self, app: &App, container: &Arc<Container>) {
        let id = &container.id;
        if let Some(health) = &container.engine_health {
            // Whatever has ended is ill to the engine.
            if container.is_running() && app.health.hear(container, health) {
                self.tell.push_back((container.clone(), health.status));
            }
            return;
        }
        if !container.is_running() || container.started_at.is_none() {
            self.targets.remove(id);
            return;
        }
        let known = self.targets.get_mut(id);
        if let Some(known) = known
            && known.container.started_at == container.started_at
        {
            known.container = container.clone();
            return;
        }
        let check = container.health_check();
        let Some(check) = check.filter(|it| !matches!(it.probe, Probe::Exec { .. })) else {
            return;
        };
        app.health.begin(container);
        let within = SPREAD.min(check.timing.interval);
        let target = Target { container: container.clone(), check: check.into() };
        let due = Instant::now() + within.mul_f64(part(id));
        // One that is being asked, or waits for its turn, is asked again anyway.
        if self.targets.insert(id.clone(), target).is_none() && !self.busy.contains(id) {
            self.put(id.clone(), due);
        }
    }

    fn put(&mut self, id: String, due: Instant) {
        self.next.insert(id.clone(), due);
        self.due.push(Reverse((due, id)));
    }

    pub(super) fn next(&mut self, app: &App) -> Option<Turn> {
        if let Some((container, status)) = self.tell.pop_front() {
            return Some(Turn::Tell(container, status));
        }
        let now = Instant::now();
        while let Some(Reverse((due, _))) = self.due.peek()
            && *due <= now
            && let Some(Reverse((due, id))) = self.due.pop()
        {
            if self.next.get(&id) != Some(&due) {
                continue;
            }
            self.next.remove(&id);
            let Some(target) = self.targets.get(&id) else { continue };
            // A container that is paused cannot answer, and an engine that is away
            // cannot say whether it is.
            if target.container.state != State::Running || !app.view.freshness().synced {
                let interval = target.check.timing.interval;
                self.put(id, now + interval);
                continue;
            }
            let target = target.clone();
            self.busy.insert(id.clone());
            return Some(Turn::Ask(id, now, target));
        }
        None
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    pub(super) fn done(&mut self, id: String, due: Instant) {
        self.busy.remove(&id);
        if self.targets.contains_key(&id) {
            self.put(id, due.max(Instant::now()));
        }
    }
}

/// A part of a whole that an id has for its own.
fn part(id: &str) -> f64 {
    let digits = id.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    f64::from(digits.unwrap_or(0)) / f64::from(u16::MAX)
}
