//! Names of our own files for the engine: the same on its host, others when we run
//! in one of its containers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::sync::OnceCell;

use super::App;
use crate::{
    domain::{
        Error, Result,
        place::{Traces, own_ids, translate},
    },
    engine::Own,
};

/// Where the service runs; asked for once, since a container keeps its mounts.
#[derive(Debug, Default)]
pub struct Place(OnceCell<Option<Own>>);

impl App {
    /// The path of one of our files for the engine, as the source of a mount.
    ///
    /// FAILED_PRECONDITION when the engine's host cannot have the file: the engine
    /// is on another machine, or the path is in no mount of our own container.
    pub(super) async fn host_path(&self, path: &Path) -> Result<PathBuf> {
        let (data, elsewhere) = (&self.settings.data_dir, &self.settings.host_data_dir);
        if let (Some(there), Ok(rest)) = (elsewhere, path.strip_prefix(data)) {
            return Ok(there.join(rest).components().collect());
        }
        if let Some(host) = self.engine.remote_host().filter(|host| !is_here(host)) {
            return Err(Error::precondition(
                "ENGINE_ELSEWHERE",
                format!(
                    "{} is not on the engine's host {host}; share the data directory and set host_data_dir",
                    path.display()
                ),
            ));
        }
        let Some(own) = self.own_container().await? else { return Ok(path.to_owned()) };
        // A link may lead from one mount into another, which the engine would not see.
        let real = tokio::fs::canonicalize(path).await;
        translate(real.as_deref().unwrap_or(path), &own.mounts).ok_or_else(|| {
            Error::precondition(
                "DATA_NOT_ON_HOST",
                format!(
                    "{} is in the layer of the service's own container {}, where no other container reaches it; mount a directory or a volume at {}",
                    path.display(),
                    own.id.get(..12).unwrap_or(&own.id),
                    data.display()
                ),
            )
        })
    }

    /// Our own container, when we run in one of this engine.
    async fn own_container(&self) -> Result<Option<&Own>> {
        let found = self.place.0.get_or_try_init(|| self.find_own_container()).await?;
        Ok(found.as_ref())
    }

    async fn find_own_container(&self) -> Result<Option<Own>> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let traces = Traces {
            cgroup: read("/proc/self/cgroup"),
            mountinfo: read("/proc/self/mountinfo"),
            hostname: read("/proc/sys/kernel/hostname"),
        };
        for id in own_ids(&traces) {
            // A name alone may be a coincidence, and an engine in an engine knows
            // nothing of the container that it is in.
            let is_name = id == traces.hostname.trim();
            let own = self.engine.own(&id).await?;
            let own = own.filter(|own| own.running && (!is_name || own.hostname == id));
            if let Some(own) = own {
                tracing::info!(id = own.id, mounts = own.mounts.len(), "runs in a container");
                if own.id.starts_with(&self.settings.node_id) {
                    tracing::warn!(
                        "the node id is that of this container, and the next one would not know \
                         what it made; set node_id"
                    );
                }
                return Ok(Some(own));
            }
        }
        Ok(None)
    }

    /// Finds out where the service runs, so that nobody has to wait for it later.
    pub(super) async fn locate(&self) {
        if let Err(error) = self.own_container().await {
            tracing::warn!(?error, "whether this runs in a container is not known yet");
        }
        self.join_network().await;
    }

    /// Puts our own container into the network of those that we make: the engine keeps
    /// networks apart, and a probe could not reach them.
    pub(super) async fn join_network(&self) {
        let Ok(Some(own)) = self.own_container().await else { return };
        let network = self.settings.network.as_str();
        if !own.own_network || network == "bridge" {
            return;
        }
        if let Err(error) = self.engine.join_network(network, &own.id).await {
            tracing::warn!(?error, network, "probes may not reach containers");
        }
    }

    /// Where the service runs, as far as it is known without asking: its own
    /// container, and its data directory on the host.
    pub async fn whereabouts(&self) -> (Option<String>, Option<PathBuf>) {
        let Some(own) = self.place.0.get() else { return (None, None) };
        let id = own.as_ref().map(|own| own.id.clone());
        (id, self.host_path(&self.settings.data_dir).await.ok())
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}
