//! Mends what a crash left between two steps of a replacement.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    App,
    gpus::Booked,
    replace::{predecessor, successor},
};
use crate::domain::{
    Error, Result,
    container::{Container, State},
};

/// Mends every identity that has more than one container or an odd name.
pub(super) async fn recover_all(app: &Arc<App>) {
    let keys: BTreeSet<String> = app
        .view
        .all()
        .iter()
        .filter(|container| app.is_ours(container) && container.is_left_over())
        .map(|container| container.key().to_owned())
        .collect();
    for key in keys {
        // Whoever works on it knows better; the next run looks again.
        if app.locks.is_held(&key) {
            continue;
        }
        let _guard = app.locks.take(vec![key.clone()]).await;
        if let Err(error) = app.recover_key(&key).await {
            tracing::warn!(?error, key, "a replacement that was cut short cannot be mended yet");
        }
    }
}

impl App {
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

        // A successor without the name never started: nothing is lost with it.
        if let Some(new) = new {
            self.discard(&new.id).await;
        }
        match (current, old) {
            // It has the name; once it started, the predecessor has done its duty.
            (Some(current), Some(old)) => {
                let waits = current.state == State::Created;
                let booked = if waits { self.book_again_or_warn(current).await } else { None };
                let starts =
                    !waits || (booked.is_some() && self.engine.start(&current.id).await.is_ok());
                if starts {
                    self.refresh(&current.id).await?;
                    self.discard(&old.id).await;
                } else {
                    self.discard(&current.id).await;
                    self.bring_back(old, &name).await?;
                }
            }
            (None, Some(old)) => self.bring_back(old, &name).await?,
            // Stopped for its successor, which is gone now.
            (Some(current), None) if !current.is_running() && self.is_wanted(key).await? => {
                let booked = self.book_again_or_warn(current).await;
                if booked.is_some() {
                    self.engine.start(&current.id).await?;
                }
                self.refresh(&current.id).await?;
            }
            (Some(_) | None, None) => {}
        }
        Ok(())
    }

    async fn bring_back(&self, old: &Container, name: &str) -> Result<()> {
        self.engine.rename(&old.id, name).await?;
        let mut booked = None;
        if self.is_wanted(old.key()).await? {
            booked = self.book_again_or_warn(old).await;
        }
        if booked.is_some() {
            self.engine.start(&old.id).await?;
        }
        self.refresh(&old.id).await.map(drop)
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
