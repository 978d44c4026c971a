//! Stop and remove.

use std::sync::Arc;

use super::{App, events, list::Selector, turns::Newer, unknown};
use crate::domain::{
    Error, Kind, Result,
    container::Container,
    event::{Subject, What},
};

impl App {
    /// Stops a container; one that does not run is left as it is.
    pub async fn stop(self: &Arc<Self>, selector: Selector) -> Result<()> {
        let app = self.clone();
        let number = self.turns.draw();
        let work = async move {
            let found = app.find_and_lock(&selector, number, Newer::Stop).await?;
            let Some((container, _guards)) = found else { return Ok(()) };
            app.stop_alone(&container).await?;
            if !container.is_left_over() {
                app.turns.overtake(container.key(), number, Newer::Stop);
            }
            Ok(())
        };
        self.tasks.to_the_end(work).await
    }

    /// Stops a run of a container of ours for good, for a reason of this service. Unlike a
    /// stop that somebody asks for, it ends no run under way: that may be the remedy. It
    /// does nothing when that run of the container has ended.
    pub(super) async fn stop_run(self: &Arc<Self>, seen: &Container) -> Result<()> {
        let (app, seen) = (self.clone(), seen.clone());
        let work = async move {
            let names = vec![format!("name:{}", seen.plain_name()), seen.key().to_owned()];
            let _guards = app.locks.take(names).await;
            let now = app.refresh(&seen.id).await?;
            match now.filter(|now| now.is_running() && now.started_at == seen.started_at) {
                Some(container) => app.stop_alone(&container).await,
                None => Ok(()),
            }
        };
        self.tasks.to_the_end(work).await
    }

    /// Stops it, with the locks of its names held, and notes that somebody wants that.
    async fn stop_alone(&self, container: &Container) -> Result<()> {
        if !container.has_ended() {
            self.engine.stop(&container.id).await?;
            self.refresh(&container.id).await?;
            tracing::info!(name = container.name(), "stopped");
            if !self.is_ours(container) {
                self.emit(Subject::container(container), What::Stopped).await;
            }
        }
        // The record of a name is of the one that has it.
        if container.is_left_over() {
            return Ok(());
        }
        self.note_stopped(container).await
    }

    /// Removes a container of ours and frees its ports.
    pub async fn remove(self: &Arc<Self>, selector: Selector, force: bool) -> Result<()> {
        let app = self.clone();
        let number = self.turns.draw();
        let work = async move {
            let found = app.find_and_lock(&selector, number, Newer::Removal).await?;
            let Some((container, _guards)) = found else { return Ok(()) };
            let name = container.name();
            if !app.is_ours(&container) {
                return Err(Error::precondition(
                    "NOT_OURS",
                    format!(
                        "container \"{name}\" was not made by this service; remove it where it was made"
                    ),
                ));
            }
            if !container.has_ended() {
                if !force {
                    return Err(Error::precondition(
                        "STILL_RUNS",
                        format!("container \"{name}\" runs; stop it first, or set force"),
                    ));
                }
                app.engine.stop(&container.id).await?;
            }
            app.engine.remove(&container.id).await?;
            app.view.remove(&container.id);
            tracing::info!(name, "removed");
            let what = What::Removed { by_service: true };
            if container.is_left_over() {
                // The record of the name is of the one that took its place.
                app.emit(Subject::container(&container), what).await;
                return Ok(());
            }
            let event = events::now(Subject::container(&container), what);
            let told = app.restarts.with_untold(container.key(), event);
            app.store.delete_record(container.key(), told).await?;
            app.restarts.forget(container.key());
            app.turns.overtake(container.key(), number, Newer::Removal);
            Ok(())
        };
        self.tasks.to_the_end(work).await
    }

    /// Finds a container, waits until nobody works on it, and looks again. `None` when
    /// there is none, but runs that would have made it were given up.
    async fn find_and_lock(
        &self,
        selector: &Selector,
        number: u64,
        newer: Newer,
    ) -> Result<Option<(Container, Vec<tokio::sync::OwnedMutexGuard<()>>)>> {
        let allowed = "id or name";
        if self.give_up_runs(selector, allowed, number, newer).await? {
            return Ok(None);
        }
        let mut found = self.find(selector, allowed)?;
        loop {
            let names = lock_names(&found);
            let guards = self.locks.take(names.clone()).await;
            // It may have been replaced while we waited, or an alias may mean another
            // one by now, whose locks we do not have.
            let now = self.find(selector, allowed)?;
            if lock_names(&now) == names {
                let fresh = self.refresh(&now.id).await?.ok_or_else(|| unknown("id", &now.id))?;
                if lock_names(&fresh) == names {
                    return Ok(Some((fresh, guards)));
                }
            }
            found = now;
        }
    }

    /// Gives up the runs of a name that has no container yet: whoever stops it does not
    /// want one that comes a moment later.
    async fn give_up_runs(
        &self,
        selector: &Selector,
        allowed: &str,
        number: u64,
        newer: Newer,
    ) -> Result<bool> {
        let name = &selector.name;
        let is_missing = || match self.find(selector, allowed) {
            Err(error) if error.kind() == Kind::NotFound => Ok(true),
            other => other.map(|_| false),
        };
        if !selector.id.is_empty() || !self.turns.are_under_way(name) || !is_missing()? {
            return Ok(false);
        }
        // One that makes it just now has the lock of the name.
        let _guard = self.locks.take(vec![format!("name:{name}")]).await;
        Ok(is_missing()? && self.turns.overtake_named(name, number, newer))
    }

    /// Somebody wants it stopped: neither a restart of the service nor a policy must
    /// undo that.
    async fn note_stopped(&self, container: &Container) -> Result<()> {
        if !self.is_ours(container) {
            return Ok(());
        }
        self.restarts.rests(&container.id, container.started_at);
        match self.store.find_record(container.key()).await?.filter(|record| record.wanted) {
            Some(mut record) => {
                record.wanted = false;
                let event = events::now(Subject::container(container), What::Stopped);
                let waited = self.restarts.get(&record.key).is_some();
                self.put_record(record, event).await?;
                if waited {
                    self.view.touch(&container.id);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// The locks of those who work on a container.
fn lock_names(container: &Container) -> Vec<String> {
    let mut names = vec![format!("name:{}", container.name())];
    if !container.key().is_empty() {
        names.push(container.key().to_owned());
    }
    names
}
