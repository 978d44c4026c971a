//! Containers that never start and only hold a volume, so that its data can be read
//! and written. None is left behind: what a crash leaves is found by its labels.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{App, import};
use crate::domain::{
    Error, Result,
    container::{self, Container, State},
    keep::labels,
    spec::hex,
};

/// What the name of each begins with.
const PREFIX: &str = "container-svc-helper-";

/// True for a helper of this node, of this process or an earlier one. A label alone is
/// no proof, since an image may have brought it.
pub(super) fn is_helper(container: &Container, node: &str) -> bool {
    container.labels.get(labels::HELPER).is_some_and(|have| have == node)
        && container.name().starts_with(PREFIX)
        && container.state == State::Created
}

/// How long what could not be removed stays before it is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the engine is asked for staged volumes of which no error told us.
const UNTOLD: Duration = Duration::from_secs(600);

/// What this process works with.
#[derive(Debug, Default)]
pub struct Helpers {
    /// Names of helpers and volumes.
    names: Mutex<BTreeSet<String>>,
    /// A staged volume, or a keep whose volume is gone, may have been left behind.
    left: AtomicBool,
}

/// A container that holds a volume.
#[derive(Debug)]
pub(super) struct Helper {
    /// Engine id.
    pub(super) id: String,
    /// Name.
    pub(super) name: String,
}

impl Helpers {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a name is ours to work with; false when it was already.
    pub(super) fn begin(&self, name: &str) -> bool {
        self.names().insert(name.to_owned())
    }

    /// Notes that nobody works with it any more.
    pub(super) fn end(&self, name: &str) {
        self.names().remove(name);
    }

    fn has(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    /// Notes that a staged volume may be left behind.
    pub(super) fn may_be_left(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

/// Mends what is left over, again and again, until the service stops. Helpers are in
/// the view; for volumes the engine must be asked, so only an error makes us ask soon.
pub async fn mend(app: Arc<App>) {
    let mut asked = Instant::now();
    loop {
        tokio::time::sleep(AGAIN).await;
        if !app.view.freshness().synced {
            continue;
        }
        app.mend_helpers().await;
        if app.helpers.left.load(Ordering::Relaxed) || asked.elapsed() >= UNTOLD {
            asked = Instant::now();
            app.mend_volumes().await;
        }
    }
}

impl App {
    /// A name that no helper and no volume has.
    pub(super) fn helper_name() -> Result<String> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::internal(format!("no randomness for a name: {error}")))?;
        Ok(format!("{PREFIX}{}", hex(&bytes)))
    }

    /// Makes a container that holds a volume.
    pub(super) async fn hold(&self, volume: &str, more: HashMap<String, String>) -> Result<Helper> {
        let name = Self::helper_name()?;
        self.helpers.begin(&name);
        let mut own = more;
        own.insert(labels::HELPER.to_owned(), self.settings.node_id.clone());
        match self.engine.hold_volume(&name, volume, container::labels::sealed(own)).await {
            Ok(id) => {
                // It is in the view before the engine is busy with it and tells nothing.
                self.refresh(&id).await.ok();
                Ok(Helper { id, name })
            }
            Err(error) => {
                // It may be there in spite of the error, and a marker would be believed.
                if let Err(error) = self.engine.remove(&name).await {
                    tracing::warn!(?error, name, "a helper may be left behind for now");
                }
                self.helpers.end(&name);
                Err(error)
            }
        }
    }

    /// True for a helper that the view has. It never changes, and the engine does not
    /// tell of it while its volume is read or filled.
    pub(in crate::app) fn knows_helper(&self, id: &str) -> bool {
        let known = self.view.get(id);
        known.is_some_and(|container| is_helper(&container, &self.settings.node_id))
    }

    /// Removes a helper. The volume stays.
    pub(super) async fn release(&self, helper: Helper) {
        self.discard(&helper.id).await;
        self.helpers.end(&helper.name);
    }

    /// Removes what a crash or an error of the engine left: helpers, and what was half
    /// imported. What was imported as a whole is brought to its end.
    pub(in crate::app) async fn mend_keeps(self: &Arc<Self>) {
        self.mend_helpers().await;
        self.mend_volumes().await;
    }

    async fn mend_helpers(self: &Arc<Self>) {
        let node = &self.settings.node_id;
        for container in self.view.all() {
            if !is_helper(&container, node) || self.helpers.has(container.name()) {
                continue;
            }
            match import::Marker::of(&container, node) {
                Some(marker) => self.finish_import(marker),
                None => self.discard(&container.id).await,
            }
        }
    }

    async fn mend_volumes(&self) {
        // What is left while we look is looked for again.
        self.helpers.left.store(false, Ordering::Relaxed);
        if let Err(error) = self.remove_lost_imports().await {
            tracing::warn!(?error, "what a crash left of an import cannot be removed yet");
            self.helpers.may_be_left();
        }
        if let Err(error) = self.forget_lost_keeps().await {
            tracing::warn!(?error, "keeps whose volumes are gone cannot be forgotten yet");
            self.helpers.may_be_left();
        }
    }

    async fn remove_lost_imports(&self) -> Result<()> {
        let label = format!("{}={}", labels::IMPORT, self.settings.node_id);
        for volume in self.engine.volumes(&label).await? {
            let marked = |container: &Arc<_>| {
                import::Marker::of(container, &self.settings.node_id)
                    .is_some_and(|marker| marker.staging == volume.name)
            };
            if !self.helpers.has(&volume.name) && !self.view.all().iter().any(marked) {
                self.drop_volume(&volume.name).await;
            }
        }
        Ok(())
    }
}
