//! Tells what a run does, to whoever looks on; the run never waits for that.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::{sync::mpsc, time::Instant};

use super::{App, Outcome};
use crate::{
    app::{assets::AssetStep, gpus::Standing, images::PullUpdate},
    domain::{Result, spec::RunRequest},
};

/// What a run is doing.
#[derive(Debug)]
pub enum Step {
    /// The image is fetched.
    Pulling(Box<PullUpdate>),
    /// An asset is fetched.
    Downloading(AssetStep),
    /// It waits for GPUs.
    Queued(Standing),
    /// A container is made.
    Creating,
    /// A container is started.
    Starting,
}

/// What is told about a run.
#[derive(Debug)]
pub enum Told {
    /// It is under way.
    Step(Step),
    /// It has ended.
    Ready(Outcome),
}

/// Steps that wait for a reader; one that is slower misses some.
const STEPS: usize = 64;

/// Where a run tells what it does, if somebody wants to know.
#[derive(Debug, Clone, Default)]
pub(in crate::app) struct Teller(Option<mpsc::Sender<Step>>);

impl Teller {
    /// Tells a step, unless the reader is behind: a run never waits for who looks on.
    pub(in crate::app) fn tell(&self, step: Step) {
        if let Some(reader) = &self.0 {
            let _ = reader.try_send(step);
        }
    }
}

impl App {
    /// Makes sure that a container of this description runs, and tells what it does
    /// until it is done.
    pub fn run_stream(
        self: &Arc<Self>,
        request: RunRequest,
        deadline: Option<Instant>,
    ) -> impl Stream<Item = Result<Told>> + Send + use<> {
        let (sender, steps) = mpsc::channel(STEPS);
        let app = self.clone();
        let run = async move { app.run_and_tell(request, deadline, Teller(Some(sender))).await };
        stream::unfold(Some((steps, Box::pin(run), None)), |state| async move {
            let (mut steps, mut run, mut end) = state?;
            loop {
                let step = tokio::select! {
                    biased;
                    step = steps.recv() => step,
                    ended = &mut run, if end.is_none() => {
                        end = Some(ended);
                        continue;
                    }
                };
                return Some(match (step, end) {
                    (Some(step), end) => (Ok(Told::Step(step)), Some((steps, run, end))),
                    (None, Some(ended)) => (ended.map(Told::Ready), None),
                    (None, None) => (run.await.map(Told::Ready), None),
                });
            }
        })
    }
}
