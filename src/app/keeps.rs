//! Keeps: made on first use, found again, listed, and removed on purpose only.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{App, events};
use crate::{
    domain::{
        Error, Kind, Result,
        container::{Container, Volume},
        event::{Subject, What},
        keep::{self, labels},
        spec::RunSpec,
    },
    engine,
    store::UsedKeep,
};

mod export;
mod import;
mod staging;

pub use import::Import;
use staging::is_helper;
pub use staging::{Helpers, mend};

/// Reason of an error about a keep that a container has.
const KEEP_IN_USE: &str = "KEEP_IN_USE";
/// How long a caller may neither send nor take anything of an archive.
const IDLE: Duration = Duration::from_secs(600);

/// Which keeps are asked for; empty is all.
#[derive(Debug, Clone, Default)]
pub struct KeepQuery {
    /// Name of the container that they belong to.
    pub owner: String,
    /// Their sizes too, for which the engine walks all volumes.
    pub sizes: bool,
}

/// One keep.
#[derive(Debug, Clone)]
pub struct KeepInfo {
    /// Name of the volume.
    pub volume: String,
    /// Name of the container that it belongs to.
    pub owner: String,
    /// Path in the container.
    pub path: String,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When a container with it was last started.
    pub last_used_at: Option<Timestamp>,
    /// Names of the containers that have it, running or not.
    pub used_by: Vec<String>,
    /// Bytes, when they were asked for and the engine tells them.
    pub bytes: Option<u64>,
}

impl App {
    /// The mounts of a container that are keeps.
    pub fn keeps_of<'a>(&self, container: &'a Container) -> impl Iterator<Item = &'a Volume> {
        let (node, owner) = (self.settings.node_id.clone(), container.name().to_owned());
        container
            .volumes
            .iter()
            .filter(move |volume| volume.source == keep::volume(&node, &owner, &volume.destination))
    }

    fn keep_volumes(&self, spec: &RunSpec) -> Vec<String> {
        let (node, owner) = (&self.settings.node_id, spec.engine_name());
        spec.keeps.iter().map(|kept| keep::volume(node, &owner, &kept.path)).collect()
    }

    /// Makes sure that the volumes of a spec are there; answers their names.
    pub(super) async fn ensure_keeps(&self, spec: &RunSpec) -> Result<Vec<String>> {
        let owner = spec.engine_name();
        for kept in &spec.keeps {
            self.refuse_half_imported(&owner, &kept.path)?;
            self.ensure_keep(&owner, &kept.path).await?;
        }
        Ok(self.keep_volumes(spec))
    }

    /// Makes sure that the volume of a keep is there.
    async fn ensure_keep(&self, owner: &str, path: &str) -> Result<()> {
        let name = keep::volume(&self.settings.node_id, owner, path);
        let ours = [
            (labels::NODE, self.settings.node_id.as_str()),
            (labels::OWNER, owner),
            (labels::PATH, path),
        ];
        let ours = ours.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let ours = HashMap::from(ours);
        let found = self.engine.ensure_volume(&name, ours.clone()).await?;
        if ours.iter().all(|(key, value)| found.labels.get(key) == Some(value)) {
            return Ok(());
        }
        Err(Error::new(
            Kind::AlreadyExists,
            "VOLUME_TAKEN",
            format!(
                "the volume \"{name}\" for the keep {path} was made by somebody else; rename or remove it"
            ),
        )
        .with("volume", &name))
    }

    /// An import that was begun must come to its end before anybody else uses the keep.
    fn refuse_half_imported(&self, owner: &str, path: &str) -> Result<()> {
        // Until the first listing nobody knows of it.
        self.view.require_synced()?;
        let has = |container: &Container, key, value: &str| {
            container.labels.get(key).is_some_and(|have| have == value)
        };
        let half = self.view.all().into_iter().any(|container| {
            is_helper(&container, &self.settings.node_id)
                && container.labels.contains_key(labels::STAGED)
                && has(&container, labels::OWNER, owner)
                && has(&container, labels::PATH, path)
        });
        if !half {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unavailable,
            "KEEP_HALF_IMPORTED",
            format!(
                "an import into the keep {path} of \"{owner}\" is being brought to its end; try again in a moment"
            ),
        ))
    }

    /// Notes that the keeps of a container are used now.
    pub(super) async fn used_keeps(&self, container: &Container) -> Result<()> {
        let keeps = self.keeps_of(container).map(|kept| {
            let (path, volume) = (kept.destination.clone(), kept.source.clone());
            let what = What::KeepCreated { path, volume: volume.clone() };
            (volume, events::now(Subject::name(container.name()), what))
        });
        let keeps: Vec<_> = keeps.collect();
        if keeps.is_empty() {
            return Ok(());
        }
        self.store.use_keeps(keeps, Timestamp::now()).await
    }

    /// Notes that what a container has is used by a start that no run asked for.
    pub(super) async fn is_used_again(&self, container: &Container) {
        let noted = async {
            self.used_keeps(container).await?;
            self.used_contents(container).await
        };
        if let Err(error) = noted.await {
            let name = container.name();
            tracing::warn!(?error, name, "the last use of keeps and assets is not written down");
        }
    }

    /// Lists keeps, by owner and path.
    pub async fn list_keeps(&self, query: &KeepQuery) -> Result<Vec<KeepInfo>> {
        // What is not known might have any of them.
        self.view.require_synced()?;
        let label = format!("{}={}", labels::NODE, self.settings.node_id);
        let volumes = self.engine.volumes(&label).await?;
        let sizes = match query.sizes {
            true => self.engine.volume_sizes().await?,
            false => HashMap::new(),
        };
        let last = self.store.keeps().await?;
        let containers = self.view.all();
        let mut keeps: Vec<KeepInfo> = volumes
            .into_iter()
            .filter_map(|volume| self.info(volume, &containers))
            .filter(|keep| query.owner.is_empty() || keep.owner == query.owner)
            .map(|keep| KeepInfo {
                last_used_at: last.get(&keep.volume).copied(),
                bytes: sizes.get(&keep.volume).copied(),
                ..keep
            })
            .collect();
        keeps.sort_by(|a, b| (&a.owner, &a.path).cmp(&(&b.owner, &b.path)));
        Ok(keeps)
    }

    /// Removes a keep and its data, for good. Never while a container has it.
    pub async fn remove_keep(&self, owner: &str, path: &str) -> Result<()> {
        // No run may take it up in between.
        let _guard = self.locks.take(vec![format!("name:{owner}")]).await;
        let (volume, path) = match self.find_keep(owner, path).await {
            Ok((volume, keep)) => {
                self.refuse_half_imported(owner, &keep.path)?;
                self.remove_keep_volume(&keep).await?;
                (volume, keep.path)
            }
            // What is still known was removed, but that was not written down.
            Err(error) if error.kind() == Kind::NotFound => {
                let path = keep::path(path).map_err(|why| Error::field("path", why))?;
                self.refuse_half_imported(owner, &path)?;
                let volume = keep::volume(&self.settings.node_id, owner, &path);
                let gone = self.keep_is_gone(owner, path, volume).await?;
                return if gone { Ok(()) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        self.keep_is_gone(owner, path, volume).await.map(drop)
    }

    /// Forgets a keep whose volume is gone, and tells so. False when it was not known.
    async fn keep_is_gone(&self, owner: &str, path: String, volume: String) -> Result<bool> {
        let what = What::KeepRemoved { path, volume: volume.clone() };
        // Of what an older version noted, nobody knows whose it was.
        let event = (!owner.is_empty()).then(|| events::now(Subject::name(owner), what));
        self.store.forget_keep(volume, event).await
    }

    /// Forgets keeps whose volumes are gone: somebody removed them on the engine, or a
    /// crash came between their removal and its record.
    async fn forget_lost_keeps(&self) -> Result<()> {
        let used = self.store.used_keeps().await?;
        if used.is_empty() {
            return Ok(());
        }
        let label = format!("{}={}", labels::NODE, self.settings.node_id);
        let there = self.engine.volumes(&label).await?;
        for keep in used {
            let UsedKeep { volume, owner, path } = keep;
            if there.iter().any(|found| found.name == volume) {
                continue;
            }
            // A run or an import may have made it anew meanwhile, or be about to.
            let _guard = self.locks.take(vec![format!("name:{owner}")]).await;
            let half = self.refuse_half_imported(&owner, &path).is_err();
            if !half && self.engine.volume(&volume).await?.is_none() {
                self.keep_is_gone(&owner, path, volume).await?;
            }
        }
        Ok(())
    }

    async fn remove_keep_volume(&self, keep: &KeepInfo) -> Result<()> {
        if !keep.used_by.is_empty() {
            return Err(in_use(keep));
        }
        match self.engine.remove_volume(&keep.volume).await {
            // The engine knows of a container that we do not know yet.
            Err(error)
                if matches!(error.kind(), Kind::AlreadyExists | Kind::FailedPrecondition) =>
            {
                Err(in_use(keep).because(error))
            }
            other => other,
        }
    }

    /// What only reads or fills a volume does not use it.
    fn uses(&self, container: &Container, volume: &str) -> bool {
        let has = container.volumes.iter().any(|mount| mount.source == volume);
        has && !is_helper(container, &self.settings.node_id)
    }

    /// `None` for a volume that is no keep.
    fn info(&self, volume: engine::Volume, containers: &[Arc<Container>]) -> Option<KeepInfo> {
        let holders = containers.iter().filter(|container| self.uses(container, &volume.name));
        Some(KeepInfo {
            owner: volume.labels.get(labels::OWNER)?.clone(),
            path: volume.labels.get(labels::PATH)?.clone(),
            created_at: volume.created_at,
            last_used_at: None,
            used_by: holders.map(|container| container.name().to_owned()).collect(),
            bytes: None,
            volume: volume.name,
        })
    }

    /// The keep at a path, and its volume.
    async fn find_keep(&self, owner: &str, path: &str) -> Result<(String, KeepInfo)> {
        if owner.is_empty() {
            return Err(Error::field(
                "name",
                "is empty; name the container that the keep belongs to",
            ));
        }
        let path = keep::path(path).map_err(|why| Error::field("path", why))?;
        let volume = keep::volume(&self.settings.node_id, owner, &path);
        let Some(found) = self.engine.volume(&volume).await? else {
            return Err(Error::not_found(
                "KEEP_NOT_FOUND",
                format!(
                    "the container name \"{owner}\" has no keep at {path}; list the keeps to see which are there"
                ),
            ));
        };
        let containers = self.view.all();
        let Some(keep) = self.info(found, &containers).filter(|keep| keep.owner == owner) else {
            return Err(Error::precondition(
                "VOLUME_TAKEN",
                format!("the volume \"{volume}\" was made by somebody else; it is left alone"),
            ));
        };
        Ok((volume, keep))
    }
}

fn stopping() -> Error {
    Error::new(Kind::Unavailable, "STOPPING", "the service stops; try again later")
}

/// Waits for a caller, who must not stand still for so long.
async fn attended<T>(limit: Duration, turn: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, turn).await.map_err(|_| {
        let why = format!(
            "the caller has neither sent nor taken anything of the archive for {} s; begin again",
            limit.as_secs()
        );
        Error::new(Kind::Cancelled, "CALLER_IDLE", why)
    })
}

fn in_use(keep: &KeepInfo) -> Error {
    let by = match keep.used_by.as_slice() {
        [] => "a container".to_owned(),
        names => format!("\"{}\"", names.join("\", \"")),
    };
    Error::precondition(
        KEEP_IN_USE,
        format!(
            "the keep {} of \"{}\" is in use by {by}; remove that container first",
            keep.path, keep.owner
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_who_stands_still_is_given_up_and_one_who_moves_is_not() {
        let limit = Duration::from_millis(10);
        let (send, mut receive) = tokio::sync::mpsc::channel(1);
        attended(limit, send.send(1)).await.expect("there is room").expect("it is taken");
        let full = attended(limit, send.send(2)).await.expect_err("nobody takes it");
        assert_eq!(full.reason(), "CALLER_IDLE");
        assert_eq!(attended(limit, receive.recv()).await.expect("it was sent"), Some(1));
        let empty = attended(limit, receive.recv()).await.expect_err("nothing is sent");
        assert_eq!(empty.kind(), Kind::Cancelled);
    }
}
