//! Attends to one container: decides, writes it down, and does it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    has_ended,
    memory::{Remembered, is_of_run},
    places::Place,
    rounds::AGAIN,
    signals::LONGEST,
};
use crate::{
    app::{App, events},
    domain::{
        Result,
        container::{Container, State},
        event::{Event, Subject, What},
        health::{Status, clipped},
        restart::{Cause, LAST_LINES, Phase, Policy, Rules, Supervised, Verdict},
    },
    engine::Ending,
    store::Record,
};

/// How long the last lines of a log are waited for, and how often is looked.
const LINES_WITHIN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
/// How often is looked whether what somebody else stops has ended.
const STOPPING: Duration = Duration::from_secs(1);

/// One container, seen under the locks of its names.
pub(super) struct Case<'a> {
    pub(super) app: &'a Arc<App>,
    place: &'a Place,
    pub(super) container: Container,
    pub(super) record: Record,
    pub(super) rules: Rules,
    pub(super) state: Supervised,
    /// The engine was asked to start it, and did not answer.
    pub(super) asked: bool,
    pub(super) now: Timestamp,
    /// What is wrong with it is dealt with later.
    held: bool,
}

impl App {
    /// Attends to a container; answers after how long it must be attended to again.
    pub(super) async fn attend(self: &Arc<Self>, id: &str) -> Result<Option<Duration>> {
        let Some(seen) = self.view.get(id).filter(|seen| self.is_ours(seen)) else {
            self.restarts.forget_news(id);
            return Ok(None);
        };
        // What has not begun when the service stops is done when it is there again.
        let place = tokio::select! {
            place = self.restarts.places.take() => place,
            () = self.tasks.stopped() => return Ok(None),
        };
        let work = async {
            let names = vec![format!("name:{}", seen.name()), seen.key().to_owned()];
            let _guards = tokio::select! {
                guards = place.waiting(self.locks.take(names)) => guards,
                () = self.tasks.stopped() => return Ok(None),
            };
            self.attend_alone(&seen, &place).await
        };
        place.during(Box::pin(work)).await
    }

    /// The same with the locks of its names.
    async fn attend_alone(
        self: &Arc<Self>,
        seen: &Container,
        place: &Place,
    ) -> Result<Option<Duration>> {
        let id = &seen.id;
        self.view.require_synced()?;
        // A replacement that was cut short stopped its predecessor; that is nobody's wish.
        self.recover_key(seen.key()).await?;
        // Whoever held the locks may have changed everything. What is remembered of it is
        // forgotten when it was taken into account, and not when a question failed.
        // What is told of after the look is of the next.
        let stop = self.restarts.stop_of(id);
        let container = self.refresh(id).await?;
        let record = match &container {
            Some(container) => self.store.find_record(container.key()).await?,
            None => None,
        };
        let record = match (record.filter(|record| record.container_id == *id), &container) {
            // Its run was cut short before it could write one.
            (None, Some(container)) => self.adopt(container).await?,
            (record, _) => record,
        };
        let (Some(container), Some(record)) = (container, record) else {
            self.restarts.forget_news(id);
            return Ok(None);
        };
        if container.is_left_over() {
            self.restarts.stop_is_taken(id, stop);
            return Ok(None);
        }
        let run = container.started_at;
        let complaint = self.restarts.complaint(id, run);
        let key = record.key.clone();
        // What the store could not take goes there first; without that it goes on too.
        drop(self.write_down(&key).await);
        let remembered = self.restarts.remembered(&key);
        let mut case = Case {
            app: self,
            place,
            rules: self.restart_rules(&container),
            state: remembered.state,
            asked: remembered.asked,
            now: Timestamp::now(),
            container,
            record,
            held: false,
        };
        case.take_late_start().await;
        case.take_start_of_others().await;
        let done = match case.container.state {
            State::Running | State::Paused => case.runs(complaint.as_ref()).await,
            _ if has_ended(&case.container) => {
                case.ended(stop.is_some_and(|at| is_of_run(at, run, case.container.finished_at)))
                    .await
            }
            _ => Ok(None),
        }?;
        self.restarts.complaint_is_taken(id, run, complaint.is_some() && !case.held);
        self.restarts.stop_is_taken(id, stop);
        Ok(match self.restarts.unwritten(&key) {
            Some(_) => Some(done.unwrap_or(AGAIN).min(AGAIN)),
            None => done,
        })
    }

    /// Takes over the run of a container that is what it was before: nobody is told of it,
    /// now or after the next start of this service.
    pub(in crate::app) async fn take_up(&self, container: &Container) {
        let (key, run) = (container.key(), container.started_at);
        self.restarts.run_is_told(&container.id, run);
        let Remembered { mut state, asked, .. } = self.restarts.remembered(key);
        if state.phase != Phase::Watching || state.run.is_none() || state.run == run {
            return;
        }
        state.run = run;
        self.restarts.hold(key, &state, asked);
        self.restarts.is_unwritten(key, Vec::new());
        if let Err(error) = self.write_down(key).await {
            let name = container.name();
            tracing::warn!(?error, name, "its run cannot be written down; trying again");
        }
    }

    /// Writes down what is remembered of one identity, where the store lacks it.
    async fn write_down(&self, key: &str) -> Result<()> {
        if let Some((state, told)) = self.restarts.unwritten(key) {
            self.store.put_supervised(key, &state, told).await?;
            self.restarts.is_written(key);
        }
        Ok(())
    }
}

impl Case<'_> {
    async fn runs(&mut self, complaint: Option<&Cause>) -> Result<Option<Duration>> {
        let (rules, run) = (self.rules, self.container.started_at);
        if !self.record.wanted {
            // A start on the engine is a wish as good as ours.
            self.record.wanted = true;
            return self.decided(What::Started).await;
        }
        let anew = self.state.run != run;
        match &self.state.phase {
            // We were killed between the start and writing it down.
            Phase::BackingOff { .. } if anew && self.due() == Some(Duration::ZERO) => {
                self.state.tried(&rules, self.now);
                self.is_restarted(run).await;
            }
            Phase::BackingOff { .. } | Phase::GaveUp { .. } if anew => {
                return self.decided(What::Started).await;
            }
            // We were killed between writing it down and the stop.
            Phase::BackingOff { for_health: true, .. } => return self.stop_for_health().await,
            Phase::BackingOff { .. } => return Ok(self.due()),
            Phase::Watching | Phase::GaveUp { .. } => {}
        }
        let ill = self.app.health_of(&self.container).map(|health| health.status);
        let watching = self.state.phase == Phase::Watching;
        if ill == Some(Status::Healthy) && !watching {
            self.state.runs(run);
            self.write(Vec::new()).await;
        }
        let unhealthy = Cause::Unhealthy;
        let unhealthy =
            (ill == Some(Status::Unhealthy) && rules.on_unhealthy).then_some(&unhealthy);
        let failed = complaint.or(unhealthy).filter(|_| {
            watching && rules.policy != Policy::Never && self.container.state == State::Running
        });
        let Some(cause) = failed else { return Ok(None) };
        if self.is_being_stopped().await? {
            // Its end will say whether that was a stop, which wins, or a crash.
            self.held = true;
            return Ok(Some(STOPPING));
        }
        self.state.run = run;
        let ran = self.ran(Some(self.now));
        let (verdict, told) = self.judge(cause, ran).await;
        // It runs: nothing is done to it that is not written.
        self.write_first(told).await?;
        match verdict {
            Verdict::BackOff(_) => self.stop_for_health().await,
            Verdict::Rest | Verdict::GiveUp => Ok(None),
        }
    }

    /// True while a signal of somebody else is at work by which it shall end.
    async fn is_being_stopped(&self) -> Result<bool> {
        let (app, container) = (self.app, &self.container);
        if app.restarts.signals.are_of_others(container) {
            return Ok(true);
        }
        // What was sent while nobody listened, or is not heard yet, only the engine knows.
        let Some(run) = container.started_at else { return Ok(false) };
        app.engine.was_asked_to_end(&container.id, run, LONGEST).await
    }

    /// The wait goes on from when it was decided, however long the stop takes.
    async fn stop_for_health(&mut self) -> Result<Option<Duration>> {
        self.app.restarts.signals.send(&self.container);
        self.place.waiting(self.app.engine.stop(&self.container.id)).await?;
        if let Some(now) = self.app.refresh(&self.container.id).await? {
            self.state.end = now.finished_at;
            self.write(Vec::new()).await;
        }
        self.now = Timestamp::now();
        Ok(self.due())
    }

    async fn ended(&mut self, stopped: bool) -> Result<Option<Duration>> {
        // An engine that was killed does not know when its containers ended; each run
        // ends once, so its beginning tells one end from another as well.
        let end = self.container.finished_at.or(self.container.started_at);
        let Some(end) = end.filter(|end| *end > self.app.restarts.since(self.now)) else {
            return Ok(None);
        };
        if !self.record.wanted {
            let (id, run) = (&self.container.id, self.container.started_at);
            if !self.app.restarts.was_started_since(id, run) {
                return Ok(None);
            }
            self.is_started_by_others().await?;
        }
        let for_health = matches!(self.state.phase, Phase::BackingOff { for_health: true, .. });
        // While we stopped it, somebody else may have done so too.
        let too = for_health && self.app.restarts.signals.are_of_others(&self.container);
        if too || (stopped && !for_health) {
            return self.stopped_by_hand().await;
        }
        match self.due() {
            Some(wait) if !wait.is_zero() => return Ok(Some(wait)),
            None if self.state.end == Some(end) => return Ok(None),
            Some(_) | None => {}
        }
        // What ended while we looked on ended by itself, unless we are told otherwise
        // in a moment; before a start we make sure.
        let synced_at = self.app.view.freshness().synced_at;
        // Where the clock was put back since, who knows whether we looked on.
        let ahead = end > self.now || synced_at.is_some_and(|synced| synced > self.now);
        let unseen = !ahead && synced_at.is_some_and(|synced| synced > end);
        let (due, id) = (self.due().is_some(), &self.container.id);
        let mut told = match !for_health && (due || unseen || ahead) {
            true => self.app.engine.ending(id, end).await?,
            false => Ending::Died,
        };
        // What waits was seen to end by itself, or was killed, which looks the same there.
        let forgotten = told == Ending::Forgotten && !due;
        if forgotten && self.app.engine.was_ended_by_hand(&self.container, end).await? {
            told = Ending::Stopped;
        }
        if told == Ending::Stopped {
            return self.stopped_by_hand().await;
        }
        if due {
            return self.start().await;
        }
        let code = self.container.exit_code.unwrap_or(0);
        let cause = match self.container.oom_killed {
            true => Cause::OutOfMemory(code),
            false if told == Ending::Forgotten && unseen => Cause::EngineEnded,
            false => Cause::Exited(code),
        };
        let ran = self.ran(Some(end));
        (self.state.run, self.state.end) = (self.container.started_at, Some(end));
        let (_, told) = self.judge(&cause, ran).await;
        self.write(told).await;
        Ok(self.due())
    }

    /// Decides what comes of a cause, and what is told of that.
    pub(super) async fn judge(&mut self, cause: &Cause, ran: Duration) -> (Verdict, Vec<Event>) {
        let verdict = self.state.ended(&self.rules, cause, ran, self.now, chance());
        let attempt = self.state.attempts.saturating_add(1);
        let what = match &mut self.state.phase {
            Phase::Watching => None,
            Phase::BackingOff { next_try_at: next_try, reason, .. } => {
                let (next_try, reason) = (*next_try, reason.clone());
                Some(What::BackingOff { attempt, next_try, reason })
            }
            Phase::GaveUp { reason, log } => {
                *log = self.place.waiting(last_lines(self.app, &self.container)).await;
                tracing::warn!(name = self.record.name, reason, "gave a container up");
                Some(What::GaveUp {
                    reason: reason.clone(),
                    exit_code: self.container.exit_code,
                    oom_killed: self.container.oom_killed,
                    last_lines: log.clone(),
                })
            }
        };
        let told = what.map(|what| self.event(what));
        (verdict, told.into_iter().collect())
    }

    /// Somebody stopped it on the engine, as by `docker stop`.
    async fn stopped_by_hand(&mut self) -> Result<Option<Duration>> {
        self.record.wanted = false;
        self.app.restarts.rests(&self.container.id, self.container.started_at);
        self.decided(What::Stopped).await
    }

    /// Somebody started one that this service left alone: its policy left it stopped when it
    /// ended, or it ran and was restarted on the engine.
    async fn take_start_of_others(&mut self) {
        let (id, run) = (&self.container.id, self.container.started_at);
        let alone = self.record.wanted && self.state.phase == Phase::Watching;
        if alone && run.is_some() && !self.app.restarts.is_told(id, &self.record.key, run) {
            self.app.restarts.run_is_told(id, run);
            (self.state, self.asked) = (Supervised::default(), false);
            self.state.runs(run);
            self.write(vec![self.event(What::Started)]).await;
        }
    }

    /// A start on the engine is a wish as good as a run, also where its run is over already.
    async fn is_started_by_others(&mut self) -> Result<()> {
        self.record.wanted = true;
        self.decided(What::Started).await?;
        (self.state, self.asked) = (Supervised::default(), false);
        Ok(())
    }

    /// Writes down what somebody else decided; all that was remembered is void.
    async fn decided(&mut self, what: What) -> Result<Option<Duration>> {
        self.app.put_record(self.record.clone(), self.event(what)).await?;
        self.app.restarts.run_is_told(&self.container.id, self.container.started_at);
        self.app.view.touch(&self.container.id);
        Ok(None)
    }

    pub(super) fn event(&self, what: What) -> Event {
        events::now(Subject::container(&self.container), what)
    }

    /// Takes a decision over and writes it down, at once or when the store can: what it
    /// holds without it is a decision that would be made again.
    pub(super) async fn write(&mut self, told: Vec<Event>) {
        let key = &self.record.key;
        self.app.restarts.hold(key, &self.state, self.asked);
        self.app.restarts.is_unwritten(key, told);
        if let Err(error) = self.app.write_down(key).await {
            let name = &self.record.name;
            tracing::warn!(?error, name, "a restart cannot be written down; trying again");
        }
        self.app.view.touch(&self.container.id);
    }

    /// Writes a decision down and takes it over, or fails and leaves all as it was.
    async fn write_first(&mut self, told: Vec<Event>) -> Result<()> {
        let key = &self.record.key;
        self.app.write_down(key).await?;
        self.app.store.put_supervised(key, &self.state, told).await?;
        self.app.restarts.hold(key, &self.state, self.asked);
        self.app.view.touch(&self.container.id);
        Ok(())
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.state.due_in(&self.rules, self.now)
    }

    /// How long it ran, until then.
    fn ran(&self, end: Option<Timestamp>) -> Duration {
        let ran = end.zip(self.container.started_at).map(|(end, start)| end.duration_since(start));
        ran.and_then(|ran| ran.try_into().ok()).unwrap_or_default()
    }
}

/// The last lines of a log, once all of it is collected, or nearly.
async fn last_lines(app: &App, container: &Container) -> Vec<String> {
    let collected = async {
        let mut ticks = tokio::time::interval(LOOK);
        while has_ended(container) && !app.logs.is_complete(&container.id) {
            ticks.tick().await;
        }
    };
    let _ = tokio::time::timeout(LINES_WITHIN, collected).await;
    let text = app.last_lines(&container.id, LAST_LINES).await.unwrap_or_default();
    text.lines().map(clipped).collect()
}

/// A number from 0 to 1.
fn chance() -> f64 {
    // Without randomness, containers come back together; nothing worse.
    getrandom::u32().map_or(0.0, |chance| f64::from(chance) / f64::from(u32::MAX))
}
