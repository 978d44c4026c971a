//! Runs that wait for GPUs, each for its turn.
//!
//! Who waits holds no lock: its name can be stopped, removed or described otherwise. It
//! waits in its caller's call, so it leaves the line when the caller does.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    super::{
        App,
        run::{Step, Teller},
    },
    book::{Booked, GPUS_TAKEN, GPUS_UNUSABLE, NO_GPU, Reserved},
};
use crate::domain::{
    Error, Kind, Result,
    gpu::line::{Ended, LONGEST},
    spec::RunSpec,
};

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
        let (place, of) = self.reserved.lock().line.place(self.number);
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
        self.gpus_reserved.lock().line.len()
    }

    /// Ends the waiting of a name that was stopped or removed; `true` when it waited.
    pub(in crate::app) fn end_waiting(&self, name: &str) -> bool {
        self.end_line(name, Ended::Stopped, None)
    }

    /// Ends the waiting of earlier runs of these names that described them otherwise.
    pub(in crate::app) fn overtake_waiting(&self, spec: &RunSpec) {
        // Its hash is of no use where nobody waits.
        if self.gpu_queue_length() == 0 {
            return;
        }
        self.end_line(&spec.engine_name(), Ended::Overtaken, Some(&spec.spec_hash()));
    }

    fn end_line(&self, name: &str, why: Ended, same: Option<&str>) -> bool {
        let ended = self.gpus_reserved.lock().line.end(name, why, same);
        if ended {
            self.gpus_reserved.tell();
        }
        ended
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
        let names = match spec.names.as_slice() {
            [] => vec![spec.engine_name()],
            names => names.to_vec(),
        };
        let now = Instant::now();
        let until = deadline.map_or(now + wait, |deadline| deadline.min(now + wait));
        let number = self.gpus_reserved.lock().line.join(names, spec.spec_hash(), wish);
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
    /// it stands. `None` when it need not wait any more, as its container runs.
    pub(in crate::app) async fn wait_for_gpus(
        self: &Arc<Self>,
        spec: &RunSpec,
        ticket: &Ticket,
        tell: &Teller,
        refused: Error,
    ) -> Result<Option<Booked>> {
        if Instant::now() >= ticket.until {
            return Err(ticket.late(refused));
        }
        let mut told = None;
        let (mut changes, mut news) = (self.view.subscribe(), self.gpus_reserved.news());
        // It did not fit with what its turn gave it.
        self.gpus_reserved.lock().line.serve(ticket.number, false);
        loop {
            changes.borrow_and_update();
            news.borrow_and_update();
            if let Some(ended) = self.gpus_reserved.lock().line.ended(ticket.number) {
                return Err(left(ended, spec));
            }
            if self.already_runs(spec).is_some() {
                return Ok(None);
            }
            let why = match self.book_in_turn(spec, ticket.number).await {
                Ok(booked) => return Ok(Some(booked)),
                // A driver that is away for a while ends no wait.
                Err(error) if matches!(error.reason(), GPUS_TAKEN | GPUS_UNUSABLE | NO_GPU) => {
                    error
                }
                Err(error) => return Err(error),
            };
            let (place, of) = self.gpus_reserved.lock().line.place(ticket.number);
            let standing = Standing { place, of, why: why.message().to_owned() };
            if told.as_ref() != Some(&standing) {
                tell.tell(Step::Queued(standing.clone()));
                told = Some(standing);
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = news.changed() => {}
                () = sleep(LOOK) => {}
                () = sleep_until(ticket.until) => return Err(ticket.late(why)),
                () = self.tasks.stopped() => {
                    let why = "the service stops; run it again when it is back";
                    return Err(Error::new(Kind::Unavailable, "STOPPING", why));
                }
            }
        }
    }
}

fn left(ended: Ended, spec: &RunSpec) -> Error {
    let name = spec.engine_name();
    let why = match ended {
        Ended::Stopped => "it was stopped or removed",
        Ended::Overtaken => "a later run described it otherwise",
    };
    let message = format!("\"{name}\" does not wait for GPUs any more: {why}");
    Error::new(Kind::Cancelled, "LEFT_GPU_QUEUE", message)
}
