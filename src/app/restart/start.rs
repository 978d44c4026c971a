//! Starts a container again, so that each try is counted whatever the engine says.

use std::time::Duration;

use jiff::Timestamp;

use super::attend::Case;
use crate::{
    domain::{
        Kind, Result,
        event::What,
        health::clipped,
        restart::{Cause, Phase},
    },
    engine::ENGINE_UNREACHABLE,
};

impl Case<'_> {
    /// Tries it once; answers after how long it must be attended to again.
    pub(super) async fn start(&mut self) -> Result<Option<Duration>> {
        let (app, before) = (self.app, (self.state.clone(), self.asked));
        // It counts however it ends, and whether or not that can be written.
        self.state.tried(&self.rules, self.now);
        self.asked = true;
        let booked = app.book_as_before(&self.container).await;
        let started = match &booked {
            Ok(_) => app.engine.start(&self.container.id).await,
            Err(why) => Err(why.clone()),
        };
        // The engine may have done it without an answer, or count the try as an end.
        let now = match (app.refresh(&self.container.id).await, &started) {
            (Ok(now), _) => now,
            // It is away; that says nothing about the container.
            (Err(_), Err(error)) if error.reason() == ENGINE_UNREACHABLE => {
                (self.state, self.asked) = before;
                return Err(error.clone());
            }
            (Err(error), Ok(())) => {
                app.restarts.hold(&self.record.key, &self.state, self.asked);
                return Err(error);
            }
            (Err(_), Err(_)) => None,
        };
        let run = now.as_ref().and_then(|now| now.started_at);
        let error = match started {
            Ok(()) => {
                self.is_restarted(run).await;
                return Ok(None);
            }
            Err(error) => error,
        };
        // What refuses it starts it no more; what did not answer may do so late.
        self.asked = error.kind() == Kind::Unavailable && booked.is_ok();
        if self.asked && run.is_some_and(|run| Some(run) != self.container.started_at) {
            self.is_restarted(run).await;
            return Ok(None);
        }
        if let Some(now) = now {
            self.state.end = now.finished_at;
        }
        self.now = Timestamp::now();
        let cause = Cause::DoesNotStart(clipped(error.message()));
        let (_, told) = self.judge(&cause, Duration::ZERO).await;
        self.write(told).await;
        Ok(self.due())
    }

    /// Takes over that a start of ours, of which the engine did not tell the end, made the
    /// run that the container has or had. It was counted then.
    pub(super) async fn take_late_start(&mut self) {
        let run = self.container.started_at;
        let waits = self.state.phase != Phase::Watching;
        if self.asked && self.record.wanted && waits && run != self.state.run {
            self.is_restarted(run).await;
        }
    }

    /// Notes that it runs, by a try that is counted, and what it had ended of.
    pub(super) async fn is_restarted(&mut self, run: Option<Timestamp>) {
        let reason = match &self.state.phase {
            Phase::BackingOff { reason, .. } | Phase::GaveUp { reason, .. } => reason.clone(),
            Phase::Watching => String::new(),
        };
        let attempt = self.state.attempts;
        let restarted = self.event(What::Restarted { attempt, reason });
        self.state.runs(run);
        self.asked = false;
        self.app.restarts.run_is_told(&self.container.id, run);
        tracing::info!(name = self.record.name, attempt, "restarted a container");
        self.write(vec![restarted]).await;
        self.app.is_used_again(&self.container).await;
    }
}
