//! The container in which this process runs, when it runs in one of this engine.

use bollard::query_parameters::InspectContainerOptions;

use super::Engine;
use crate::domain::{Kind, Result, place::OwnMount};

/// What the engine says of a container that may be our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Whole id.
    pub id: String,
    /// Host name that it was given.
    pub hostname: String,
    /// It runs, as our own must.
    pub running: bool,
    /// It has a network namespace of its own; else it is in that of the host or of
    /// another container, and can join no network.
    pub own_network: bool,
    /// What of the host is in it.
    pub mounts: Vec<OwnMount>,
}

impl Engine {
    /// Asks about a container by its id; `None` when there is none.
    pub async fn own(&self, id: &str) -> Result<Option<Own>> {
        let docker = self.docker().await?;
        let question = docker.inspect_container(id, None::<InspectContainerOptions>);
        let found = match self.within(self.timeout, question).await {
            Ok(found) => found,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mounts = found.mounts.unwrap_or_default().into_iter().filter_map(|mount| {
            let (source, destination) = (mount.source?, mount.destination?);
            // A tmpfs has no place on the host.
            let there = source.starts_with('/') && destination.starts_with('/');
            there.then(|| OwnMount { source: source.into(), destination: destination.into() })
        });
        let mode = found.host_config.and_then(|host| host.network_mode).unwrap_or_default();
        Ok(Some(Own {
            own_network: mode != "host" && mode != "none" && !mode.starts_with("container:"),
            id: found.id.unwrap_or_default(),
            hostname: found.config.and_then(|config| config.hostname).unwrap_or_default(),
            running: found.state.and_then(|state| state.running).unwrap_or(false),
            mounts: mounts.collect(),
        }))
    }
}
