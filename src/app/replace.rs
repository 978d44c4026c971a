//! Replacing a container: everything that can fail comes first, and until the
//! successor runs the predecessor can come back.
//!
//! ```text
//! create NAME__new   stop NAME   NAME -> NAME__old   NAME__new -> NAME   start NAME   remove NAME__old
//!      |                 |              |                   |               |
//!      +-- fails: remove NAME__new -----+-- fails: put the predecessor back under
//!                                           its name, and start it if it ran
//! ```
//!
//! A crash between two steps is mended by `recover`.

use std::{collections::HashSet, sync::Arc};

use super::{
    App,
    run::{Action, Outcome},
};
use crate::{
    domain::{Result, container::Container, spec::RunSpec},
    engine::PORT_IN_USE,
};

/// What the successor is called until it has the name.
pub(super) fn successor(name: &str) -> String {
    format!("{name}__new")
}

/// What the predecessor is called until the successor runs.
pub(super) fn predecessor(name: &str) -> String {
    format!("{name}__old")
}

impl App {
    pub(super) async fn replace(
        self: &Arc<Self>,
        spec: &RunSpec,
        image_id: &str,
        old: &Container,
        fields: Vec<String>,
    ) -> Result<Outcome> {
        let name = spec.engine_name();
        let mut avoid = HashSet::new();
        loop {
            let chosen = self.choose_ports(&spec.ports, Some(old), &avoid)?;
            let new = self.create(spec, &successor(&name), image_id, &chosen).await?;
            match self.switch(&name, old, &new).await {
                Ok(()) => {
                    let detail = fields.join(", ");
                    let action = Action::Replaced(fields);
                    let outcome = self.finish(spec, &new, &chosen.host_ports, action, detail).await;
                    self.discard(&old.id).await;
                    return outcome;
                }
                Err(error) => {
                    self.put_back(&name, old, &new).await?;
                    if error.reason() != PORT_IN_USE {
                        return Err(
                            super::run::does_not_start(&name, &error).with("rolledBack", "true")
                        );
                    }
                    self.try_again(spec, &error, &chosen, &mut avoid, &old.id)?;
                }
            }
        }
    }

    async fn switch(&self, name: &str, old: &Container, new: &str) -> Result<()> {
        if old.is_running() {
            self.engine.stop(&old.id).await?;
        }
        self.engine.rename(&old.id, &predecessor(name)).await?;
        self.engine.rename(new, name).await?;
        self.engine.start(new).await
    }

    /// Undoes a switch from wherever it stopped.
    async fn put_back(&self, name: &str, old: &Container, new: &str) -> Result<()> {
        self.discard(new).await;
        let now = self.engine.inspect(&old.id).await?;
        if now.is_some_and(|now| now.name() != name) {
            self.engine.rename(&old.id, name).await?;
        }
        if old.is_running() {
            self.engine.start(&old.id).await?;
        }
        self.refresh(&old.id).await?;
        tracing::warn!(name, "the successor does not start; the predecessor is back");
        Ok(())
    }
}
