//! Watches containers with GPUs: what they use beyond what they booked, and what they lost.
//!
//! ```text
//! sample ──► look at the node ──► overruns, losses, drains ──► an event each
//! check ───► ask in containers ──► losses ─────────────────┘        │
//!                                                      the restart policy, or a stop
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;

use super::super::App;
use crate::{
    domain::{
        Result,
        container::{Container, State, labels},
        event::{EventKind, Subject, What},
        gpu::{
            Inventory, label,
            loss::{Holding, Loss, Losses, Sight},
            overrun::{OnOverrun, Overrun, Overruns},
            xid::Xid,
        },
        restart::Cause,
    },
    engine::Ran,
    store::{EventQuery, nanos},
};

/// Asks which GPUs a container sees; NVIDIA's toolkit puts it there.
const ASK: [&str; 2] = ["nvidia-smi", "-L"];
/// How long that may take, and how many are asked at once.
const ASK_WITHIN: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;
/// After how long the same XID is told again.
const REPEATED: Duration = Duration::from_secs(60);
/// Events of drains that are read at the start.
const MOST_DRAINS: usize = 1000;

/// What the looks at the node are compared with.
#[derive(Debug)]
pub(super) struct Watch {
    overruns: Overruns,
    /// The XID of which was told that a device is drained, by UUID.
    drained: BTreeMap<String, Xid>,
}

impl Watch {
    /// Drains outlive the service: the driver does not tell an XID twice.
    pub(super) async fn begin(app: &App) -> Self {
        let since = Timestamp::now().checked_sub(app.settings.gpus.drain_time);
        let question = EventQuery {
            kinds: vec![EventKind::GpuDrained, EventKind::GpuReturned],
            since: since.ok().map(nanos),
            newest_first: true,
            limit: MOST_DRAINS,
            bytes: 2 << 20,
            ..EventQuery::default()
        };
        let mut drained = BTreeMap::new();
        match app.store.events(question).await {
            Ok(found) => {
                for stored in found.events.into_iter().rev() {
                    match stored.event.what {
                        What::GpuDrained { device, xid: code, .. } => {
                            let xid = Xid { code, at: stored.event.at };
                            app.gpus.remember(&device, xid);
                            drained.insert(device, xid);
                        }
                        What::GpuReturned { device } => {
                            drained.remove(&device);
                        }
                        _ => {}
                    }
                }
            }
            Err(error) => tracing::warn!(?error, "GPUs that were drained before are not known"),
        }
        Self { overruns: Overruns::default(), drained }
    }

    /// Takes a look into account, and does what is to be done.
    pub(super) async fn look(&mut self, app: &Arc<App>, seen: &Inventory) {
        self.tell_drains(app, seen, Timestamp::now()).await;
        if !app.view.freshness().synced {
            return;
        }
        let holdings = app.gpu_holdings();
        let lost = app.gpu_losses().look(seen, &holdings);
        for (holding, loss) in lost {
            app.lost(&holding, loss).await;
        }
        let bookings: Vec<_> = holdings.into_iter().flat_map(|it| it.bookings).collect();
        for overrun in self.overruns.look(seen, &bookings) {
            app.overran(overrun).await;
        }
    }

    async fn tell_drains(&mut self, app: &App, seen: &Inventory, now: Timestamp) {
        // The events are how a drain is known again; one that repeats itself all the time
        // shall not fill them.
        let apart = REPEATED.min(app.settings.gpus.drain_time / 10);
        for device in &seen.devices {
            let uuid = &device.uuid;
            let last = device.xids.iter().rev().find(|xid| xid.fatal().is_some()).copied();
            match (&device.drained, self.drained.get(uuid)) {
                (Some(reason), before) => {
                    let xid = last.or(before.copied()).unwrap_or(Xid { code: 0, at: now });
                    if before.is_none_or(|before| before.is_news(&xid, apart)) {
                        tracing::error!(uuid, reason, "a GPU is drained");
                        let (device, reason) = (uuid.clone(), reason.clone());
                        let what = What::GpuDrained { device, xid: xid.code, reason };
                        app.emit(Subject::default(), what).await;
                        self.drained.insert(uuid.clone(), xid);
                    }
                }
                (None, Some(_)) => {
                    tracing::info!(uuid, "a GPU is given out again");
                    let what = What::GpuReturned { device: uuid.clone() };
                    app.emit(Subject::default(), what).await;
                    self.drained.remove(uuid);
                }
                (None, None) => {}
            }
        }
    }
}

/// Asks containers, every second look, whether they still see their GPUs, until the
/// service stops.
pub async fn check(app: Arc<App>) {
    // Runs of containers that have no program to ask.
    let mut silent: BTreeMap<String, Option<Timestamp>> = BTreeMap::new();
    // And those in which it hangs: another would only hang beside it.
    let mut hanging: BTreeMap<String, (Option<Timestamp>, String)> = BTreeMap::new();
    loop {
        tokio::time::sleep(app.settings.gpus.interval * 2).await;
        if !app.settings.gpus.check || !app.view.freshness().synced {
            continue;
        }
        let holdings = app.gpu_holdings();
        let runs = |id: &String, run: &Option<Timestamp>| {
            holdings.iter().any(|it| it.container_id == *id && it.run == *run)
        };
        silent.retain(|id, run| runs(id, run));
        hanging.retain(|id, (run, _)| runs(id, run));
        let ask = |holding: Holding| {
            let (app, hangs) = (app.clone(), hanging.get(&holding.container_id).cloned());
            async move {
                let answer =
                    app.ask_for_gpus(&holding.container_id, hangs.map(|(_, exec)| exec)).await;
                (holding, answer)
            }
        };
        let asked = holdings.into_iter().filter(|it| !silent.contains_key(&it.container_id));
        let asked: Vec<_> = asked.map(ask).collect();
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((holding, answer)) = answers.next().await {
            if answer.is_ok() {
                hanging.remove(&holding.container_id);
            }
            let sight = match answer {
                Ok(Ran::Ended(0, words)) => Sight::Told(words),
                Ok(Ran::Ended(_, words)) => Sight::Failed(first_line(&words)),
                Ok(Ran::Late(exec)) => {
                    hanging.insert(holding.container_id.clone(), (holding.run, exec));
                    Sight::Failed("nvidia-smi does not end".to_owned())
                }
                Ok(Ran::Absent) => {
                    silent.insert(holding.container_id, holding.run);
                    continue;
                }
                // What the engine cannot do now says nothing about GPUs.
                Err(error) => {
                    tracing::debug!(?error, id = holding.container_id, "it cannot be asked");
                    continue;
                }
            };
            let lost = app.gpu_losses().asked(&holding, &sight);
            if let Some(loss) = lost {
                app.lost(&holding, loss).await;
            }
        }
    }
}

fn first_line(words: &str) -> String {
    words.lines().find(|line| !line.trim().is_empty()).unwrap_or("no words").to_owned()
}

impl App {
    /// Asks in a container which GPUs it sees, unless an earlier question still hangs there.
    async fn ask_for_gpus(&self, id: &str, hangs: Option<String>) -> Result<Ran> {
        if let Some(exec) = hangs
            && self.engine.goes_on(&exec).await?
        {
            return Ok(Ran::Late(exec));
        }
        self.engine.run_in(id, &ASK, ASK_WITHIN).await
    }

    /// What is remembered of losses, which the node and the containers tell of.
    fn gpu_losses(&self) -> MutexGuard<'_, Losses> {
        self.gpu_losses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Containers of ours that run with GPUs.
    fn gpu_holdings(&self) -> Vec<Holding> {
        let all = self.view.all();
        let ours = all.iter().filter(|it| self.is_ours(it) && it.state == State::Running);
        let holding = |container: &Arc<Container>| Holding {
            container_id: container.id.clone(),
            run: container.started_at,
            bookings: label::read(container),
        };
        ours.map(holding).filter(|holding| !holding.bookings.is_empty()).collect()
    }

    /// A container lost a GPU: that is told, and its restart policy decides.
    async fn lost(&self, holding: &Holding, loss: Loss) {
        let id = &holding.container_id;
        let Some(container) = self.view.by_id(id) else { return };
        let Loss { device, reason } = loss;
        tracing::error!(name = container.name(), device, reason, "a container lost its GPU");
        let cause = Cause::GpuLost(format!("{device}: {reason}"));
        self.emit(Subject::container(&container), What::GpuLost { device, reason }).await;
        self.restarts.complain(id, holding.run, cause);
    }

    /// A container uses more than it booked: that is told, and done what it or the node
    /// is configured to.
    async fn overran(self: &Arc<Self>, overrun: Overrun) {
        let Some(container) = self.view.by_id(&overrun.container_id) else { return };
        let own = container.labels.get(labels::GPU_OVERRUN);
        let action = own.and_then(|word| OnOverrun::from_word(word));
        let action = action.unwrap_or(self.settings.gpus.on_overrun);
        let (id, cause) = (container.id.clone(), Cause::GpuOverrun(overrun.to_string()));
        tracing::warn!(name = container.name(), %overrun, action = action.word(), "GPU overrun");
        let Overrun { device, booked_mb, used_mb, .. } = overrun;
        let action_of = action.word().to_owned();
        let what = What::GpuOverrun { device, booked_mb, used_mb, action: action_of };
        self.emit(Subject::container(&container), what).await;
        match action {
            OnOverrun::Report => {}
            OnOverrun::Restart => self.restarts.complain(&id, container.started_at, cause),
            OnOverrun::Stop => {
                let app = self.clone();
                // Whoever works on it may be long about it; the looks go on.
                self.tasks.background("a stop for GPU memory", async move {
                    if let Err(error) = app.stop_run(&container).await {
                        tracing::warn!(?error, name = container.name(), "it cannot be stopped");
                    }
                });
            }
        }
    }
}
