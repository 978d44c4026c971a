//! A context on its way to the engine: how much of it was sent, and what is wrong with it.

use std::{convert::Infallible, future::pending, sync::Arc};

use tokio::sync::mpsc;

use super::{Events, TELL, tell};
use crate::{
    domain::{Error, build::BuildEvent},
    engine::{builds::refused, context::State},
};

/// A context on its way.
pub(super) struct Sends {
    /// The Dockerfile.
    pub(super) text: String,
    pub(super) warnings: mpsc::Receiver<String>,
    pub(super) state: Arc<State>,
}

impl Sends {
    /// Tells how it goes; never resolves.
    pub(super) async fn tell(&mut self, events: &Events) -> Infallible {
        let mut ticks = tokio::time::interval(TELL);
        let mut before = 0;
        loop {
            tokio::select! {
                warning = self.warnings.recv() => match warning {
                    Some(warning) => tell(events, BuildEvent::Warning(warning)).await,
                    None => return pending().await,
                },
                _ = ticks.tick() => {
                    let sent = self.state.sent();
                    if sent > before {
                        before = sent;
                        tell(events, context_progress(sent, 0)).await;
                    }
                }
            }
        }
    }

    /// Tells what is left to tell.
    pub(super) async fn tell_end(&mut self, events: &Events) {
        while let Ok(warning) = self.warnings.try_recv() {
            tell(events, BuildEvent::Warning(warning)).await;
        }
        let sent = self.state.sent();
        tell(events, context_progress(sent, sent)).await;
    }

    /// What is wrong with the context explains what the engine says of it.
    pub(super) fn explain(&self, error: Error) -> Error {
        self.state.failure().unwrap_or_else(|| refused(error, &self.text))
    }
}

fn context_progress(current: u64, total: u64) -> BuildEvent {
    let (id, status) = ("context".to_owned(), "Sending the context".to_owned());
    BuildEvent::Progress { id, status, current, total }
}
