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
            // What only waited for GPUs has no container yet.
            let waited = app.end_waiting_of(&selector);
            let found = match app.find_and_lock(&selector, number, Newer::Stop).await {
                Err(error) if waited && error.kind() == Kind::NotFound => None,
                found => found?,
            };
            let Some((container, _guards)) = found else { return Ok(()) };
            if container.is_running() {
                app.engine.stop(&container.id).await?;
                app.refresh(&container.id).await?;
                tracing::info!(name = container.name(), "stopped");
                if !app.is_ours(&container) {
                    app.emit(Subject::container(&container), What::Stopped).await;
                }
            }
            app.note_stopped(&container).await?;
            app.turns.overtake(container.key(), number, Newer::Stop);
            Ok(())
        };
        self.tasks.to_the_end(work).await
    }

    /// Removes a container of ours and frees its ports.
    pub async fn remove(self: &Arc<Self>, selector: Selector, force: bool) -> Result<()> {
        let app = self.clone();
        let number = self.turns.draw();
        let work = async move {
            let waited = app.end_waiting_of(&selector);
            let found = match app.find_and_lock(&selector, number, Newer::Removal).await {
                Err(error) if waited && error.kind() == Kind::NotFound => None,
                found => found?,
            };
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
            if container.is_running() {
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
            let event = events::now(Subject::container(&container), what);
            app.store.delete_record(container.key(), event).await?;
            app.restarts.forget(container.key());
            app.turns.overtake(container.key(), number, Newer::Removal);
            Ok(())
        };
        self.tasks.to_the_end(work).await
    }

    /// Ends the runs of what is selected that wait for GPUs.
    fn end_waiting_of(&self, selector: &Selector) -> bool {
        let Selector { id, name, .. } = selector;
        let found = self.view.identified(id).ok().flatten().filter(|_| !id.is_empty());
        let names = found.map(|found| found.names.clone()).unwrap_or_default();
        let names = names.iter().chain([name]).filter(|name| !name.is_empty());
        names.filter(|name| self.end_waiting(name)).count() > 0
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
        let found = self.find(selector, allowed)?;
        let mut names = vec![format!("name:{}", found.name())];
        if !found.key().is_empty() {
            names.push(found.key().to_owned());
        }
        let guards = self.locks.take(names).await;
        // It may have been replaced while we waited.
        let found = self.find(selector, allowed)?;
        let fresh = self.refresh(&found.id).await?;
        Ok(Some((fresh.ok_or_else(|| unknown("id", &found.id))?, guards)))
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
