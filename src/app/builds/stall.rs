//! Ends builds that wait for an image of which nothing comes any more.

use std::time::Duration;

use super::{Events, tell};
use crate::{
    app::{
        App,
        images::{LOCAL, nothing_came},
    },
    domain::{
        Error, Result,
        build::{BuildEvent, Failure, Step},
    },
    engine::builds::{Building, Fetch, Next, stalled_error},
};

/// A build whose registry is mute.
pub(super) struct Stalled(Failure);

impl Stalled {
    fn new(step: Step, patience: Duration) -> Self {
        let message = format!(
            "{}, and build again: steps that ended are in the cache",
            nothing_came(patience)
        );
        Self(Failure { message, step: Some(step), exit_code: None })
    }

    /// Tells it to the caller; what the build ends with.
    pub(super) async fn tell(self, events: &Events) -> Error {
        let error = stalled_error(&self.0);
        tell(events, BuildEvent::Failed(self.0)).await;
        error
    }
}

impl App {
    /// What happens next in a build, unless it waits for a registry and nothing comes.
    ///
    /// Only while nothing else goes on: no step that runs is ended for being silent.
    pub(super) async fn next_of(
        &self,
        building: &mut Building,
    ) -> Result<Result<Option<Next>>, Stalled> {
        while let Some(Fetch { step, quiet, unless_here }) = building.fetch() {
            let patience = match quiet {
                true => self.settings.pull_stall_timeout * LOCAL,
                false => self.settings.pull_stall_timeout,
            };
            if let Ok(next) = tokio::time::timeout(patience, building.next()).await {
                return Ok(next);
            }
            let fetched = match &unless_here {
                Some(image) => matches!(self.engine.image(image).await, Ok(None)),
                None => true,
            };
            if fetched {
                return Err(Stalled::new(step, patience));
            }
        }
        Ok(building.next().await)
    }
}
