//! The data of a keep from a tar archive, all of it or nothing.
//!
//! ```text
//! stage:   a volume of its own   <- archive, checked as it comes
//!            fails, or a crash: removed; the keep is as it was
//! commit:  a marker holds the staged volume, remove the keep's volume and older
//!          markers, make it anew, copy, remove the marker and the staged volume
//!            a crash: done again by the marker, and until then the keep is not used
//! ```
//!
//! The marker keeps everybody else off the keep, so the lock of the name is held only
//! until it is there: containers of that name do not wait for the copy.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    App, IDLE, attended, events,
    staging::{Helper, is_helper},
    stopping,
};
use crate::domain::{
    Error, Kind, Result,
    archive::Checker,
    container::Container,
    event::{Subject, What},
    keep::{self, labels},
    spec::is_name,
};

/// Pieces that wait for the engine.
const WAITING: usize = 4;
/// First and longest wait before an import is tried again to be brought to its end.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What comes of an archive: a piece, or its end.
type Piece = Result<Option<Bytes>>;

/// Which keep is to be filled.
#[derive(Debug, Clone)]
pub struct Import {
    /// Name of the container that it belongs to.
    pub owner: String,
    /// Path in the container.
    pub path: String,
    /// Data that are there are replaced.
    pub replace: bool,
}

/// An import that is staged as a whole.
#[derive(Debug, Clone)]
pub(super) struct Marker {
    owner: String,
    path: String,
    bytes: u64,
    /// The volume with the new data.
    pub(super) staging: String,
    id: String,
    name: String,
}

impl Marker {
    /// The import that a container of this node marks.
    pub(super) fn of(container: &Container, node: &str) -> Option<Self> {
        if !is_helper(container, node) {
            return None;
        }
        let label = |key| container.labels.get(key).cloned();
        Some(Self {
            staging: label(labels::STAGED)?,
            owner: label(labels::OWNER)?,
            path: label(labels::PATH)?,
            bytes: label(labels::BYTES)?.parse().ok()?,
            id: container.id.clone(),
            name: container.name().to_owned(),
        })
    }
}

impl App {
    /// Fills a keep from an archive and answers with its bytes. Nothing is changed
    /// unless the whole archive is good.
    pub async fn import_keep(
        self: &Arc<Self>,
        import: Import,
        archive: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<u64> {
        let (send, receive) = mpsc::channel(WAITING);
        let app = self.clone();
        // Not the caller's own: it may leave at any time, and what was staged must go.
        let work = self.tasks.to_the_end(async move { app.import(import, receive).await });
        let feed = async move {
            let mut archive = pin!(archive);
            while let Some(piece) = archive.next().await {
                let ends = piece.is_err();
                if send.send(piece.map(Some)).await.is_err() || ends {
                    return;
                }
            }
            let _ = send.send(Ok(None)).await;
        };
        let mut work = pin!(work);
        tokio::select! {
            done = &mut work => done,
            () = feed => work.await,
        }
    }

    async fn import(
        self: Arc<Self>,
        import: Import,
        archive: mpsc::Receiver<Piece>,
    ) -> Result<u64> {
        if !is_name(&import.owner) {
            let why = format!("\"{}\" is no name of a container", import.owner);
            return Err(Error::field("name", why));
        }
        let path = keep::path(&import.path).map_err(|why| Error::field("path", why))?;
        let import = Import { path, ..import };
        self.may_import(&import).await?;
        let staging = Self::helper_name()?;
        self.helpers.begin(&staging);
        let done = match self.stage(&import, &staging, archive).await {
            Ok(bytes) => self.commit(&import, &staging, bytes).await.map(|()| bytes),
            Err(error) => {
                self.drop_volume(&staging).await;
                Err(error)
            }
        };
        self.helpers.end(&staging);
        done
    }

    /// Says why a keep cannot be filled now.
    async fn may_import(&self, import: &Import) -> Result<()> {
        let Import { owner, path, replace } = import;
        self.view.require_synced()?;
        match self.find_keep(owner, path).await {
            Ok((_, keep)) if !keep.used_by.is_empty() => Err(super::in_use(&keep)),
            Ok(_) if !replace => Err(Error::new(
                Kind::AlreadyExists,
                "KEEP_EXISTS",
                format!(
                    "\"{owner}\" has a keep at {path} already; set replace to put other data in its place"
                ),
            )),
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Unpacks the archive into a volume of its own.
    async fn stage(
        &self,
        import: &Import,
        staging: &str,
        archive: mpsc::Receiver<Piece>,
    ) -> Result<u64> {
        let own = [(labels::IMPORT.to_owned(), self.settings.node_id.clone())];
        let made = self.engine.ensure_volume(staging, own.into()).await;
        // It may be there in spite of the error, and come only when we have looked.
        made.inspect_err(|_| self.helpers.may_be_left())?;
        let helper = self.hold(staging, HashMap::new()).await?;
        let done = tokio::select! {
            done = self.unpack(&helper, &import.path, archive) => done,
            () = self.tasks.stopped() => Err(stopping()),
        };
        self.release(helper).await;
        done
    }

    async fn unpack(
        &self,
        helper: &Helper,
        path: &str,
        mut archive: mpsc::Receiver<Piece>,
    ) -> Result<u64> {
        let (send, receive) = mpsc::channel(WAITING);
        let check = async move {
            let mut checker = Checker::new(path);
            let checked = async {
                let (mut bytes, mut taken) = (0, true);
                loop {
                    let left = || Error::new(Kind::Cancelled, "CALLER_LEFT", "the caller left");
                    match attended(IDLE, archive.recv()).await?.ok_or_else(left)?? {
                        Some(piece) => {
                            checker.feed(&piece)?;
                            bytes += piece.len() as u64;
                            // The engine may have seen enough before the last filling.
                            taken = taken && send.send(Ok(piece)).await.is_ok();
                        }
                        None => return checker.finish().map(|()| bytes),
                    }
                }
            };
            let checked = checked.await;
            if checked.is_err() {
                // Without this the engine would take what it has for the whole.
                let _ = send.send(Err(std::io::Error::other("broken off"))).await;
            }
            checked
        };
        let write = self.engine.write_volume(&helper.id, ReceiverStream::new(receive));
        let (mut check, mut write) = (pin!(check), pin!(write));
        tokio::select! {
            checked = &mut check => {
                let written = write.await;
                checked.and_then(|bytes| written.map(|()| bytes))
            }
            written = &mut write => match written {
                Ok(()) => check.await,
                Err(error) => Err(error),
            },
        }
    }

    /// Puts what was staged in the keep's place.
    async fn commit(self: &Arc<Self>, import: &Import, staging: &str, bytes: u64) -> Result<()> {
        let _turn = self.import_turn(&import.owner, &import.path).await;
        let marker = match self.mark(import, staging, bytes).await {
            Ok(marker) => marker,
            Err(error) => {
                self.drop_volume(staging).await;
                return Err(error);
            }
        };
        let done = match self.claim(&marker).await {
            Ok(Some(own)) => self.roll_forward(&marker, &own).await,
            Ok(None) => Err(Error::internal("the container that marks the import was removed")),
            Err(error) => Err(error),
        };
        self.helpers.end(&marker.name);
        match done {
            Err(error) if error.reason() == super::KEEP_IN_USE => {
                // Nothing was touched yet.
                self.discard(&marker.id).await;
                self.drop_volume(staging).await;
                Err(error)
            }
            Err(error) => {
                self.finish_import(marker);
                Err(error.and("the archive is whole and is tried again until it is in place"))
            }
            Ok(()) => Ok(()),
        }
    }

    /// One import into a keep after the other.
    async fn import_turn(&self, owner: &str, path: &str) -> Vec<OwnedMutexGuard<()>> {
        let volume = keep::volume(&self.settings.node_id, owner, path);
        self.locks.take(vec![format!("keep:{volume}")]).await
    }

    /// Marks what is staged as whole. From then on nobody else may use the keep.
    async fn mark(&self, import: &Import, staging: &str, bytes: u64) -> Result<Marker> {
        let Import { owner, path, .. } = import;
        // No run may take the keep up in between.
        let _guard = self.locks.take(vec![format!("name:{owner}")]).await;
        self.may_import(import).await?;
        let own = [
            (labels::STAGED, staging.to_owned()),
            (labels::OWNER, owner.clone()),
            (labels::PATH, path.clone()),
            (labels::BYTES, bytes.to_string()),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let helper = self.hold(staging, own).await?;
        Ok(Marker {
            owner: owner.clone(),
            path: path.clone(),
            bytes,
            staging: staging.to_owned(),
            id: helper.id,
            name: helper.name,
        })
    }

    /// Takes a marker into the view, so that each run that begins later sees it; `None`
    /// when it is gone.
    async fn claim(&self, marker: &Marker) -> Result<Option<Container>> {
        let _guard = self.locks.take(vec![format!("name:{}", marker.owner)]).await;
        self.refresh(&marker.id).await
    }

    /// Brings an import that was cut short to its end, however often it takes.
    pub(super) fn finish_import(self: &Arc<Self>, marker: Marker) {
        if !self.helpers.begin(&marker.name) {
            return;
        }
        let app = self.clone();
        self.tasks.background("keep import", async move {
            let mut wait = RETRY.0;
            while let Err(error) = app.try_to_finish(&marker).await {
                tracing::warn!(?error, "an import cannot be brought to its end yet");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
            app.helpers.end(&marker.name);
        });
    }

    async fn try_to_finish(&self, marker: &Marker) -> Result<()> {
        let _turn = self.import_turn(&marker.owner, &marker.path).await;
        // Another import may have overtaken it.
        let Some(own) = self.claim(marker).await? else {
            return Ok(());
        };
        let staged = self.engine.volume(&marker.staging).await?;
        if staged.and_then(|mut staged| staged.labels.remove(labels::IMPORT)).is_none() {
            // The engine made the marker after we gave it up, with a new volume.
            self.discard(&marker.id).await;
            return Ok(());
        }
        tracing::info!(name = marker.owner, path = marker.path, "an import is brought to its end");
        self.roll_forward(marker, &own).await
    }

    /// The same again leads to the same end, wherever it was cut short.
    async fn roll_forward(&self, marker: &Marker, own: &Container) -> Result<()> {
        let Marker { owner, path, bytes, staging, id, .. } = marker;
        let volume = keep::volume(&self.settings.node_id, owner, path);
        match self.find_keep(owner, path).await {
            Ok((_, keep)) => self.remove_keep_volume(&keep).await?,
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.overtake(marker, own).await?;
        self.ensure_keep(owner, path).await?;
        let target = self.hold(&volume, HashMap::new()).await?;
        let copied = async {
            let data = self.engine.read_volume(id).await?;
            let data = data.map(|piece| piece.map_err(std::io::Error::other));
            self.engine.write_volume(&target.id, data).await
        };
        let copied = copied.await;
        self.release(target).await;
        copied?;
        let made = What::KeepCreated { path: path.clone(), volume: volume.clone() };
        let made = events::now(Subject::name(owner), made);
        let now = jiff::Timestamp::now();
        let what = What::KeepImported { path: path.clone(), volume: volume.clone(), bytes: *bytes };
        let imported = events::now(Subject::name(owner), what);
        self.store.import_keep(volume, made, imported, now).await?;
        self.discard(id).await;
        self.drop_volume(staging).await;
        Ok(())
    }

    /// Removes the markers of older imports that were cut short. Only once this one has
    /// begun: without any marker, what an older one left would pass for whole.
    async fn overtake(&self, marker: &Marker, own: &Container) -> Result<()> {
        for container in self.view.all() {
            let Some(other) = Marker::of(&container, &self.settings.node_id)
                .filter(|other| other.id != marker.id)
            else {
                continue;
            };
            let same = other.owner == marker.owner && other.path == marker.path;
            if same && container.created_at <= own.created_at {
                self.engine.remove(&other.id).await?;
                self.view.remove(&other.id);
                self.drop_volume(&other.staging).await;
            }
        }
        Ok(())
    }

    pub(super) async fn drop_volume(&self, volume: &str) {
        match self.engine.remove_volume(volume).await {
            Err(error) if error.kind() != Kind::NotFound => {
                tracing::warn!(?error, volume, "what was staged is left behind for now");
                self.helpers.may_be_left();
            }
            _ => {}
        }
    }
}
