//! Follows a build of the engine to its end, and clears up after one that broke off.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;

use super::{Events, SWEEP, TELL, tell};
use crate::{
    app::App,
    domain::{
        Result,
        build::{BuildEvent, Failure, Mask},
    },
    engine::{
        ENGINE_UNREACHABLE,
        builds::{Building, Next, build_error},
        context::State,
    },
};

impl App {
    /// Passes on what happens until there is an image.
    pub(super) async fn follow_build(
        self: &Arc<Self>,
        building: &mut Building,
        mut mask: Mask,
        since: Timestamp,
        state: &State,
        events: &Events,
    ) -> Result<String> {
        loop {
            let next = match self.next_of(building).await {
                Ok(next) => next,
                Err(stalled) => {
                    tell_all(events, mask.rest()).await;
                    return Err(stalled.tell(events).await);
                }
            };
            match next {
                Ok(Some(Next::Moved)) => {}
                Ok(Some(Next::Event(event))) => tell_all(events, mask.pass(event)).await,
                Ok(Some(Next::Made(id))) => {
                    tell_all(events, mask.rest()).await;
                    return Ok(id);
                }
                Ok(Some(Next::Failed(failure))) => {
                    tell_all(events, mask.rest()).await;
                    if let Some(failure) = state.failure() {
                        return Err(failure);
                    }
                    let failure = mask.failure(failure);
                    tell(events, BuildEvent::Failed(failure.clone())).await;
                    return Err(build_error(&failure));
                }
                Ok(None) => {
                    tell_all(events, mask.rest()).await;
                    let failure = Failure {
                        message: "the engine ended the build without an image".to_owned(),
                        ..Failure::default()
                    };
                    return Err(build_error(&failure));
                }
                Err(error) => {
                    tell_all(events, mask.rest()).await;
                    if error.reason() == ENGINE_UNREACHABLE
                        && let Some(container) = building.container()
                    {
                        self.sweep(container.to_owned(), since);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Removes the container of a step, which an engine that was killed kept.
    ///
    /// Its id stands in what the build wrote, so a build could name another's: only
    /// one that is younger than the build, does not run and is not ours is removed.
    fn sweep(self: &Arc<Self>, container: String, began: Timestamp) {
        let app = self.clone();
        self.tasks.background("build sweep", async move {
            let until = Instant::now() + SWEEP;
            while Instant::now() < until {
                // It runs again, and has read what it kept.
                if app.view.freshness().synced {
                    let found = app.engine.inspect(&container).await;
                    let swept = match found {
                        Ok(Some(found)) => {
                            let its = found.id.starts_with(&container)
                                && found.created_at >= began
                                && !app.is_ours(&found);
                            // The engine may still be about to end it.
                            !its || (!found.is_running()
                                && app.engine.remove(&found.id).await.is_ok())
                        }
                        Ok(None) => true,
                        Err(_) => false,
                    };
                    if swept {
                        return;
                    }
                }
                tokio::time::sleep(TELL).await;
            }
            tracing::warn!(container, "a container that a build left could not be removed");
        });
    }
}

async fn tell_all(events: &Events, all: impl IntoIterator<Item = BuildEvent>) {
    for event in all {
        tell(events, event).await;
    }
}
