//! Mends what a crash left between two steps of a run or a replacement.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    App,
    gpus::Booked,
    replace::{predecessor, successor},
};
use crate::domain::{
    Error, Kind, Result,
    container::{Container, State},
};

/// Mends every identity that has more than one container or an odd name, or one that was
/// started and has no record.
pub(super) async fn recover_all(app: &Arc<App>) {
    let mut keys: BTreeSet<String> = app
        .view
        .all()
        .iter()
        .filter(|container| app.is_ours(container) && container.is_left_over())
        .map(|container| container.key().to_owned())
        .collect();
    match app.store.intents().await {
        Ok(intents) => keys.extend(intents.into_iter().map(|intent| intent.key)),
        Err(error) => tracing::warn!(?error, "runs that were cut short cannot be mended yet"),
    }
    for key in keys {
        // Whoever works on it knows better; the next run looks again.
        if app.locks.is_held(&key) {
            continue;
        }
        let _guard = app.locks.take(vec![key.clone()]).await;
        if let Err(error) = app.recover_run(&key).await {
            tracing::warn!(?error, key, "a run that was cut short cannot be mended yet");
        }
    }
}

impl App {
    async fn recover_run(&self, key: &str) -> Result<()> {
        self.recover_key(key).await?;
        let all = self.view.keyed(&self.settings.node_id, key);
        for container in &all {
            self.adopt(container).await?;
        }
        for intent in self.store.intents().await?.into_iter().filter(|intent| intent.key == key) {
            if !all.iter().any(|container| container.id == intent.container_id) {
                self.store.forget_intent(key, &intent.container_id).await?;
            }
        }
        Ok(())
    }

    /// Mends one identity; its lock must be held.
    pub(super) async fn recover_key(&self, key: &str) -> Result<()> {
        let known = self.view.keyed(&self.settings.node_id, key);
        if !known.iter().any(|container| container.is_left_over()) {
            return Ok(());
        }
        // What was last heard may be older than what was done: one that runs under its
        // name by now must not be taken for a successor that never started.
        let mut all = Vec::new();
        for container in &known {
            all.extend(self.refresh(&container.id).await?);
        }
        if !all.iter().any(Container::is_left_over) {
            return Ok(());
        }
        let name = all.first().map(|container| container.plain_name().to_owned());
        let Some(name) = name else { return Ok(()) };
        tracing::info!(name, "mending a replacement that was cut short");
        let called = |wanted: String| all.iter().find(move |container| container.name() == wanted);
        let (current, new, old) =
            (called(name.clone()), called(successor(&name)), called(predecessor(&name)));

        match (current, old) {
            // It has the name; once it started, the predecessor has done its duty.
            (Some(current), Some(old)) => {
                if current.state != State::Created || self.starts(current).await? {
                    self.refresh(&current.id).await?;
                    self.discard(&old.id).await;
                } else {
                    self.engine.rename(&current.id, &successor(&name)).await?;
                    self.bring_back(old, &name, Some(current)).await?;
                    self.discard(&current.id).await;
                }
            }
            (None, Some(old)) => self.bring_back(old, &name, new).await?,
            // Stopped for its successor.
            (Some(current), None) if !current.is_running() => {
                self.start_again(current, new).await?;
            }
            (Some(_) | None, None) => {}
        }
        // A successor without the name never started: nothing is lost with it. It goes
        // last, as it says whether its predecessor ran.
        if let Some(new) = new {
            self.discard(&new.id).await;
        }
        Ok(())
    }

    async fn bring_back(&self, old: &Container, name: &str, new: Option<&Container>) -> Result<()> {
        self.engine.rename(&old.id, name).await?;
        self.start_again(old, new).await
    }

    /// Starts a predecessor if it ran when its replacement began: one that had ended by
    /// itself is its policy's affair.
    async fn start_again(&self, old: &Container, new: Option<&Container>) -> Result<()> {
        let ran = match new.and_then(Container::predecessor_ran) {
            Some(ran) => ran,
            // Somebody removed the successor, or an older version made it.
            None => {
                let dealt_with = self.restarts.get(old.key()).and_then(|state| state.end);
                let own = dealt_with.is_some() && dealt_with == old.finished_at;
                !own && self.is_wanted(old.key()).await?
            }
        };
        let booked = if ran { self.book_again_or_warn(old).await } else { None };
        let mut started = false;
        if booked.is_some() {
            match self.engine.start(&old.id).await {
                Ok(()) => started = true,
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => {
                    let name = old.plain_name();
                    tracing::warn!(?error, name, "the predecessor stays stopped");
                }
            }
        }
        self.is_back(&old.id, started).await
    }

    /// Takes over how a predecessor is that may have been started again. Nobody is told of
    /// that: it is what it was before.
    pub(super) async fn is_back(&self, id: &str, started: bool) -> Result<()> {
        // By now it has its name back.
        let Some(now) = self.refresh(id).await? else { return Ok(()) };
        self.take_up(&now).await;
        if started {
            self.is_used_again(&now).await;
        }
        Ok(())
    }

    /// Starts a successor; false when it does not start.
    async fn starts(&self, current: &Container) -> Result<bool> {
        let Some(_booked) = self.book_again_or_warn(current).await else { return Ok(false) };
        match self.engine.start(&current.id).await {
            // Nobody knows what came of it; the next look shows that.
            Err(error) if error.kind() == Kind::Unavailable => Err(error),
            done => Ok(done.is_ok()),
        }
    }

    /// The GPUs that a container had, for a start that no run asked for. `None` when it
    /// cannot have them now: then it stays stopped, and its restart policy or the next
    /// run decides.
    async fn book_again_or_warn(&self, container: &Container) -> Option<Booked> {
        let warn = |error: &Error| {
            let (name, why) = (container.name(), error.message());
            tracing::warn!(name, why, "not started again: its GPUs cannot be had now");
        };
        self.book_as_before(container).await.inspect_err(warn).ok()
    }

    async fn is_wanted(&self, key: &str) -> Result<bool> {
        Ok(self.store.records().await?.iter().any(|record| record.key == key && record.wanted))
    }
}
