//! The prober: asks containers whether they are well, from outside.
//!
//! One task keeps the time of all probes. A probe is asked for again one interval
//! after it began, or when it has ended, if that is later; so two of one container
//! never run at once. Commands in containers, and the checks of images, are run by
//! the engine itself, which ends those that take too long; what it says is in the view.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{App, events};
use crate::{
    domain::{
        Result,
        container::{Container, State},
        event::{Subject, What},
        health::{Health, HealthCheck, Probe, ProbeResult, Status},
    },
    probe,
    store::Store,
};

mod prober;

use prober::{Prober, Target, Turn};

/// Probes that run at once; those beyond that wait. A container is asked once at a
/// time, and there must be room beside many that hang.
const AT_ONCE: usize = 1024;
/// How often what is well goes to the store; what changes goes at once.
const KEEP: Duration = Duration::from_secs(5);

/// How containers do by our own probes, by id.
#[derive(Debug)]
pub struct Healths {
    known: Mutex<HashMap<String, Health>>,
    /// Those that the store does not have as they are.
    unsaved: Mutex<HashSet<String>>,
}

/// How a container does, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// What the answers come to.
    pub status: Status,
    /// Failures in a row.
    pub streak: u32,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

impl Healths {
    /// Reads what was known.
    pub(super) async fn load(store: &Store) -> Result<Self> {
        Ok(Self { known: store.healths().await?.into(), unsaved: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Health>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsaved(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with a run of a container, unless it was begun with already.
    fn begin(&self, container: &Container) {
        let mut known = self.known();
        let health = known.entry(container.id.clone()).or_default();
        if health.run != container.started_at || health.since.is_none() {
            health.begin(container.started_at, Timestamp::now());
        }
    }

    /// Takes an answer over, if it is of the run that is known.
    fn take(
        &self,
        container: &Container,
        check: &HealthCheck,
        result: ProbeResult,
    ) -> Option<(Status, Health)> {
        let mut known = self.known();
        let health = known.get_mut(&container.id)?;
        if health.run != container.started_at {
            return None;
        }
        let into = health.run.map(|run| result.at.duration_since(run));
        let into = into.and_then(|into| into.try_into().ok()).unwrap_or_default();
        let changed = health.take(&check.timing, result, into);
        self.unsaved().insert(container.id.clone());
        changed.map(|status| (status, health.clone()))
    }
}

impl App {
    /// How a container does; `None` when it does not run or nothing checks it.
    pub fn health_of(&self, container: &Container) -> Option<Condition> {
        if !container.is_running() {
            return None;
        }
        let short = |health: &Health| Condition {
            status: health.status,
            streak: health.streak,
            since: health.since,
        };
        if let Some(health) = &container.engine_health {
            return Some(short(health));
        }
        let known = self.health.known();
        known.get(&container.id).filter(|it| it.run == container.started_at).map(short)
    }

    /// What the last probes of a container answered, newest first.
    pub(super) fn probes_of(&self, container: &Container) -> Vec<ProbeResult> {
        let newest_first =
            |results: &VecDeque<ProbeResult>| results.iter().rev().cloned().collect();
        match &container.engine_health {
            Some(health) => newest_first(&health.results),
            None => {
                let known = self.health.known();
                known.get(&container.id).map(|it| newest_first(&it.results)).unwrap_or_default()
            }
        }
    }

    /// How many of the containers that are checked do how, as they were listed.
    pub(super) fn conditions(&self) -> [(Status, usize); 3] {
        let all = self.view.all();
        let all: Vec<_> = all.iter().filter_map(|it| self.health_of(it)).collect();
        [Status::Starting, Status::Healthy, Status::Unhealthy]
            .map(|status| (status, all.iter().filter(|it| it.status == status).count()))
    }

    /// Where a port of a container is reached from here.
    fn place(&self, container: &Container, port: u16) -> Result<(String, u16), String> {
        let published = || container.ports.iter().find(|have| have.internal == port);
        match self.engine.remote_host() {
            None if !container.network.ip_address.is_empty() => {
                Ok((container.network.ip_address.clone(), port))
            }
            None => match published() {
                Some(have) => {
                    let address = have.address.map(|address| address.to_string());
                    Ok((address.unwrap_or_else(|| "127.0.0.1".to_owned()), have.host))
                }
                None => Err("the container has no address; publish the port".to_owned()),
            },
            Some(host) => match published() {
                Some(have) => Ok((host.to_owned(), have.host)),
                None => Err(format!(
                    "the engine is on another machine, and port {port} is not published"
                )),
            },
        }
    }

    /// Asks once and takes the answer over.
    async fn ask(self: Arc<Self>, target: Target) {
        let Target { container, check } = target;
        let (at, begin) = (Timestamp::now(), Instant::now());
        let port = match &check.probe {
            Probe::Http { port, .. } | Probe::Tcp { port } | Probe::Grpc { port, .. } => *port,
            Probe::Exec { .. } => return,
        };
        let answer = match self.place(&container, port) {
            Ok(place) => probe::ask(&check.probe, &place, check.timing.timeout).await,
            Err(why) => Err(why),
        };
        // It may have been paused or have ended meanwhile: that is no answer.
        let now = self.view.get(&container.id);
        let same = now.is_some_and(|now| {
            now.state == State::Running && now.started_at == container.started_at
        });
        if !same || !self.view.freshness().synced {
            return;
        }
        let success = answer.is_ok();
        let output = answer.unwrap_or_else(|why| why);
        let result = ProbeResult { at, took: begin.elapsed(), success, output: output.clone() };
        if let Some((status, health)) = self.health.take(&container, &check, result) {
            let healths = vec![(container.id.clone(), health)];
            self.tell_health(&container, status, &output, healths).await;
        }
    }

    /// Tells everybody that a container is well or ill.
    async fn tell_health(
        &self,
        container: &Container,
        status: Status,
        output: &str,
        healths: Vec<(String, Health)>,
    ) {
        let what = match status {
            Status::Healthy => What::Healthy,
            Status::Unhealthy => What::Unhealthy { output: output.to_owned() },
            Status::Starting => return,
        };
        let event = events::now(Subject::container(container), what);
        if let Err(error) = self.store.put_healths(healths, vec![event]).await {
            tracing::warn!(?error, name = container.name(), "its health cannot be written down");
        }
        // What others do about it comes after it.
        self.view.touch(&container.id);
    }
}

/// Probes containers until the service stops.
pub async fn ask_all(app: Arc<App>) {
    let mut latest = app.view.subscribe();
    let mut prober = Prober::default();
    let mut work = FuturesUnordered::new();
    loop {
        latest.borrow_and_update();
        prober.look(&app);
        while work.len() < AT_ONCE
            && let Some(turn) = prober.next(&app)
        {
            let app = app.clone();
            work.push(async move {
                match turn {
                    Turn::Ask(id, begin, target) => {
                        let interval = target.check.timing.interval;
                        app.ask(target).await;
                        Some((id, begin + interval))
                    }
                    Turn::Tell(container, status) => {
                        let health = container.engine_health.as_ref();
                        let output = health.and_then(|health| health.results.back());
                        let output = output.map_or("", |result| result.output.as_str());
                        app.tell_health(&container, status, output, Vec::new()).await;
                        None
                    }
                }
            });
        }
        let due = prober.next_due().filter(|_| work.len() < AT_ONCE);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            Some(done) = work.next() => if let Some((id, due)) = done { prober.done(id, due) },
            () = wait => {}
        }
    }
}

/// Writes to the store what it does not have, until the service stops.
pub async fn keep(app: Arc<App>) {
    let mut ticks = tokio::time::interval(KEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let unsaved = std::mem::take(&mut *app.health.unsaved());
        let gone: Vec<String> = match app.view.freshness().synced {
            true => app.health.known().keys().filter(|id| !app.view.has(id)).cloned().collect(),
            false => Vec::new(),
        };
        let healths: Vec<_> = {
            let mut known = app.health.known();
            known.retain(|id, _| !gone.contains(id));
            unsaved
                .into_iter()
                .filter_map(|id| Some((id.clone(), known.get(&id)?.clone())))
                .collect()
        };
        let ids: Vec<String> = healths.iter().map(|(id, _)| id.clone()).collect();
        let kept = match healths.is_empty() {
            true => Ok(()),
            false => app.store.put_healths(healths, Vec::new()).await,
        };
        if kept.is_err() {
            app.health.unsaved().extend(ids);
        }
        let forgotten = match gone.is_empty() {
            true => Ok(()),
            false => app.store.forget_healths(gone).await,
        };
        if let Err(error) = kept.and(forgotten) {
            tracing::warn!(?error, "how containers do cannot be written down; trying again");
        }
    }
}
