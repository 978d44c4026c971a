//! Runs that wait for GPUs, each for its turn.
//!
//! Who waits holds no lock: its name can be stopped, removed or described otherwise, which
//! overtakes it (`app/turns.rs`). It waits in its caller's call, so it leaves the line when
//! the caller does.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    super::{
        App,
        run::{Outcome, Step, Teller},
        turns::{Newer, Turn},
    },
    book::{Booked, Reserved, goes_on_waiting},
};
use crate::domain::{Error, Kind, Result, gpu::line::LONGEST, spec::RunSpec};

/// How often is looked when nothing is told: what processes use is not an event.
const LOOK: Duration = Duration::from_secs(1);

/// Where a waiting run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its place, from 1.
    pub place: usize,
    /// How many wait.
    pub of: usize,
    /// Why it does not fit now, and who has what it waits for.
    pub why: String,
}

/// A place in the line, until it is dropped.
#[derive(Debug)]
pub(in crate::app) struct Ticket {
    reserved: Reserved,
    number: u64,
    until: Instant,
    waited: Duration,
}

impl Ticket {
    /// Why a run that waited for so long is refused.
    fn late(&self, why: Error) -> Error {
        let (place, of) = self.reserved.lock().line.place(self.number, Instant::now().into_std());
        let waited = self.waited.as_secs_f64();
        why.and(&format!(
            "it waited {waited:.1} s for its turn and was number {place} of {of}; set a longer \
             queueTimeout to wait longer"
        ))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.reserved.lock().line.leave(self.number);
        self.reserved.tell();
    }
}

impl App {
    /// Runs that wait for GPUs.
    pub fn gpu_queue_length(&self) -> usize {
        self.gpus_reserved.lock().line.len(Instant::now().into_std())
    }

    /// Joins the line, for as long as the request and its caller's deadline allow.
    pub(in crate::app) fn join_gpu_queue(
        &self,
        spec: &RunSpec,
        deadline: Option<Instant>,
    ) -> Result<Ticket> {
        let wish = spec.gpus.clone().and_then(|wish| Some((wish.queue?, wish)));
        let (wait, wish) =
            wish.ok_or_else(|| Error::internal("a run that asks for no queue joins it"))?;
        let now = Instant::now();
        let until = deadline.map_or(now + wait, |deadline| deadline.min(now + wait));
        let mut reserved = self.gpus_reserved.lock();
        let number = reserved.line.join(spec.engine_name(), wish, until.into_std(), now.into_std());
        drop(reserved);
        let number = number.ok_or_else(|| {
            Error::new(
                Kind::ResourceExhausted,
                "GPU_QUEUE_FULL",
                format!("{LONGEST} runs wait for GPUs already; try again later"),
            )
        })?;
        let waited = until.saturating_duration_since(now);
        Ok(Ticket { reserved: self.gpus_reserved.clone(), number, until, waited })
    }

    /// Waits until the turn of a run has come that was refused for this, and tells where
    /// it stands. `None` when it need not wait any more, as its container runs, or as a
    /// newer request overtook it.
    pub(in crate::app) async fn wait_for_gpus(
        self: &Arc<Self>,
        spec: &RunSpec,
        ticket: &Ticket,
        turn: &Turn,
        tell: &Teller,
        mut why: Error,
    ) -> Result<Option<Booked>> {
        let mut told = None;
        let (mut changes, mut news) = (self.view.subscribe(), self.gpus_reserved.news());
        // It did not fit with what its turn gave it.
        self.gpus_reserved.lock().line.serve(ticket.number, false);
        loop {
            changes.borrow_and_update();
            news.borrow_and_update();
            if turn.overtaken().is_some() || self.already_runs(spec).is_some() {
                return Ok(None);
            }
            // Who reads the steps may have stalled, and this with it.
            if Instant::now() >= ticket.until {
                return Err(ticket.late(why));
            }
            why = match self.book_in_turn(spec, ticket.number).await {
                Ok(booked) => return Ok(Some(booked)),
                Err(error) if goes_on_waiting(&error) => error,
                Err(error) => return Err(error),
            };
            let (place, of) =
                self.gpus_reserved.lock().line.place(ticket.number, Instant::now().into_std());
            let standing = Standing { place, of, why: why.message().to_owned() };
            if told.as_ref() != Some(&standing) {
                tell.tell(Step::Queued(standing.clone()));
                told = Some(standing);
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = news.changed() => {}
                () = sleep(LOOK) => {}
                () = sleep_until(ticket.until) => {}
                () = turn.lost() => {}
                () = self.tasks.stopped() => {
                    let why = "the service stops; run it again when it is back";
                    return Err(Error::new(Kind::Unavailable, "STOPPING", why));
                }
            }
        }
    }

    /// What a run answers that a newer request overtook while it waited: what is there now,
    /// when that is what it wanted.
    pub(in crate::app) async fn leave_gpu_queue(
        &self,
        spec: &RunSpec,
        newer: Newer,
    ) -> Result<Outcome> {
        let done = self.give_way(spec, newer).await;
        done.map_err(|error| if error.kind() == Kind::Aborted { left(newer, spec) } else { error })
    }
}

fn left(newer: Newer, spec: &RunSpec) -> Error {
    let name = spec.engine_name();
    let why = match newer {
        Newer::Stop => "it was stopped",
        Newer::Removal => "it was removed",
        Newer::Run => "a later run described it otherwise",
    };
    let message = format!("\"{name}\" does not wait for GPUs any more: {why}");
    Error::new(Kind::Cancelled, "LEFT_GPU_QUEUE", message)
}
