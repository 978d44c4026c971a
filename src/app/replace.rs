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

use std::sync::Arc;

use super::{
    App,
    ports::Lost,
    run::{Action, Outcome, Ready, Step},
};
use crate::{
    domain::{
        Result,
        container::{Container, PREDECESSOR, SUCCESSOR},
        event::What,
        spec::RunSpec,
    },
    engine::PORT_IN_USE,
};

/// What the successor is called until it has the name.
pub(super) fn successor(name: &str) -> String {
    format!("{name}{SUCCESSOR}")
}

/// What the predecessor is called until the successor runs.
pub(super) fn predecessor(name: &str) -> String {
    format!("{name}{PREDECESSOR}")
}

impl App {
    /// Replaces `old`, which differs in these fields. `lost` are ports that
    /// turned out to be taken.
    pub(super) async fn replace(
        self: &Arc<Self>,
        spec: &RunSpec,
        ready: &Ready,
        old: &Container,
        fields: Vec<String>,
        lost: Lost,
    ) -> Result<Outcome> {
        let mut back = true;
        let outcome = self.try_successors(spec, ready, old, fields, lost, &mut back).await;
        outcome.map_err(|error| match back {
            true => error,
            false => error.and(
                "the predecessor does not run any more either: its host port was taken when it \
                 was stopped for this",
            ),
        })
    }

    /// `back` says whether the predecessor is as it was before.
    async fn try_successors(
        self: &Arc<Self>,
        spec: &RunSpec,
        ready: &Ready,
        old: &Container,
        fields: Vec<String>,
        mut lost: Lost,
        back: &mut bool,
    ) -> Result<Outcome> {
        let name = spec.engine_name();
        let booked = self.book_gpus(spec, Some(old)).await?;
        loop {
            let chosen = self.choose_ports(&spec.ports, Some(old), &lost)?;
            let called = successor(&name);
            let new = self.create(spec, &called, Some(old), ready, &chosen, &booked).await?;
            ready.tell.tell(Step::Starting);
            match self.switch(&name, old, &new).await {
                Ok(()) => {
                    let (ports, predecessor) = (&chosen.host_ports, old.id.clone());
                    let what = What::Replaced { fields: fields.clone(), predecessor };
                    let action = Action::Replaced(fields);
                    let outcome = self.finish(spec, &new, ports, action, what).await;
                    self.discard(&old.id).await;
                    return outcome;
                }
                Err(error) => {
                    *back = self.put_back(&name, old, &new).await?;
                    if error.reason() != PORT_IN_USE {
                        let error = super::run::does_not_start(&name, &error);
                        return Err(error.with("rolledBack", back.to_string()));
                    }
                    self.try_again(spec, &error, &chosen.host_ports, &mut lost, &old.id)?;
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

    /// Undoes a switch from wherever it stopped. `false` when the predecessor
    /// cannot run again because its own port was taken meanwhile: a successor
    /// with another port is the better remedy then.
    async fn put_back(&self, name: &str, old: &Container, new: &str) -> Result<bool> {
        self.discard(new).await;
        let now = self.engine.inspect(&old.id).await?;
        if now.is_some_and(|now| now.name() != name) {
            self.engine.rename(&old.id, name).await?;
        }
        let back = match old.is_running() {
            true => self.engine.start(&old.id).await,
            false => Ok(()),
        };
        self.is_back(&old.id, back.is_ok() && old.is_running()).await?;
        match back {
            Ok(()) => {
                tracing::warn!(name, "the successor does not start; the predecessor is back");
                Ok(true)
            }
            Err(error) if error.reason() == PORT_IN_USE => {
                tracing::warn!(?error, name, "the predecessor's port was taken; it cannot be back");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
