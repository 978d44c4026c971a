//! Ends builds that wait for an image of which nothing comes any more.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future;

use super::{Events, tell};
use crate::{
    app::{
        App,
        images::{LOCAL, nothing_came},
    },
    domain::{
        Error, Result,
        build::{BuildEvent, BuildSpec, Failure, Step},
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

    /// Asks the registries of images whose layers may be taken whether they say anything.
    ///
    /// Where such a registry is mute, BuildKit waits for ever, also when the build is
    /// given up, and every other build of the node waits with it.
    pub(super) async fn hear_caches(&self, spec: &BuildSpec) -> Result<(), Stalled> {
        let mut asked = BTreeSet::new();
        let first = spec.cache_from.iter().filter(|image| asked.insert(image.registry()));
        let patience = self.settings.pull_stall_timeout;
        let heard = first.map(async |image| {
            let spoke = tokio::time::timeout(patience, self.registry.speaks(image)).await;
            let name = format!("importing cache manifest from {image}");
            spoke.map_err(|_| Stalled::new(Step { name, ..Step::default() }, patience))
        });
        future::try_join_all(heard).await.map(drop)
    }
}
