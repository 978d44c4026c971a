//! The data of a keep as a tar archive.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{App, IDLE, attended, staging::Helper, stopping};
use crate::domain::{Error, Result, container::Container};

/// Most bytes of one piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a slow reader.
const WAITING: usize = 4;
/// Changes of containers taken from memory at a time.
const BATCH: usize = 256;

type Sender = mpsc::Sender<Bytes>;
/// How it ends. It has a way of its own, so that it waits for no reader.
type End = oneshot::Sender<Result<()>>;
/// When containers were last started, by id.
type Starts = BTreeMap<String, Option<Timestamp>>;

/// A keep that is read.
struct Reading {
    volume: String,
    path: String,
    /// Of the containers with it, before it was read; `None` where any may write.
    starts: Option<Starts>,
    /// Number of the last change of containers before.
    since: u64,
}

impl Reading {
    /// A container that was started meanwhile may have written what is there in part.
    fn torn_by(&self, user: &Container) -> Option<Error> {
        let before = self.starts.as_ref()?.get(&user.id).copied().flatten();
        if user.started_at.is_none() || user.started_at == before {
            return None;
        }
        let (name, path) = (user.name(), &self.path);
        Some(Error::precondition(
            "KEEP_IN_USE",
            format!(
                "\"{name}\" was started while its keep {path} was read, and may have written to it; stop it and export again, or set live"
            ),
        ))
    }
}

impl App {
    /// Reads a keep. While a container with it runs, what it writes meanwhile may be
    /// in the archive in part: so that is refused unless `live` asks for it.
    pub async fn export_keep(
        self: &Arc<Self>,
        owner: &str,
        path: &str,
        live: bool,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        // Nobody may remove it before it is held: the engine would make it anew.
        let guards = self.locks.take(vec![format!("name:{owner}")]).await;
        let (volume, keep) = self.find_keep(owner, path).await?;
        self.refuse_half_imported(owner, &keep.path)?;
        let (since, known) = self.view.snapshot();
        let mut reading = Reading { volume, path: keep.path, starts: None, since };
        if !live {
            let users = self.users(&reading.volume).await?;
            if let Some(running) = users.iter().find(|user| user.is_running()) {
                return Err(Error::precondition(
                    "KEEP_IN_USE",
                    format!(
                        "\"{}\" runs with the keep {} and may write to it; stop it first, or set live",
                        running.name(),
                        reading.path
                    ),
                ));
            }
            // One that is gone by now is told as gone later on, with the run that it had.
            let had = known.iter().filter(|user| self.uses(user, &reading.volume));
            let mut starts: Starts = had.map(|user| (user.id.clone(), user.started_at)).collect();
            starts.extend(users.into_iter().map(|user| (user.id, user.started_at)));
            reading.starts = Some(starts);
        }
        let (send, end, archive) = pieces();
        let app = self.clone();
        // Not the caller's own: it may leave at any time, and the helper must go.
        self.tasks.draining(async move {
            // Nobody hears it when the caller has left.
            let _ = end.send(app.export(reading, guards, send).await);
        });
        Ok(archive)
    }

    async fn export(
        &self,
        reading: Reading,
        guards: Vec<OwnedMutexGuard<()>>,
        send: Sender,
    ) -> Result<()> {
        let held = self.hold(&reading.volume, HashMap::new()).await;
        drop(guards);
        let helper = held?;
        let mut torn = pin!(self.is_torn(&reading));
        let sent = tokio::select! {
            biased;
            error = &mut torn => Err(error),
            () = send.closed() => Ok(()),
            () = self.tasks.stopped() => Err(stopping()),
            sent = self.send_volume(&helper, &send) => sent,
        };
        self.release(helper).await;
        sent?;
        tokio::select! {
            biased;
            error = &mut torn => Err(error),
            refused = self.refuse_started(&reading) => refused,
        }
    }

    async fn send_volume(&self, helper: &Helper, send: &Sender) -> Result<()> {
        let mut chunks = self.engine.read_volume(&helper.id).await?;
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk?;
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(PIECE));
                if attended(IDLE, send.send(piece)).await?.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Resolves when a container with the keep was seen to be started meanwhile, gone by
    /// now or not.
    async fn is_torn(&self, reading: &Reading) -> Error {
        let (mut latest, mut seq) = (self.view.subscribe(), reading.since);
        loop {
            let now = *latest.borrow_and_update();
            // Where more than is remembered came at once, the end shows who is still there.
            let changes = self.view.changes_after(seq, BATCH).unwrap_or_default();
            let users = changes.iter().map(|change| change.container.as_ref());
            let mut users = users.filter(|container| self.uses(container, &reading.volume));
            if let Some(error) = users.find_map(|user| reading.torn_by(user)) {
                return error;
            }
            seq = changes.last().map_or(seq.max(now), |last| last.seq);
            if changes.is_empty() && latest.changed().await.is_err() {
                return stopping();
            }
        }
    }

    /// The same at the end, as the engine tells.
    async fn refuse_started(&self, reading: &Reading) -> Result<()> {
        let users = match reading.starts {
            Some(_) => self.users(&reading.volume).await?,
            None => Vec::new(),
        };
        users.iter().find_map(|user| reading.torn_by(user)).map_or(Ok(()), Err)
    }

    /// The containers that have a volume, as the engine describes them now.
    async fn users(&self, volume: &str) -> Result<Vec<Container>> {
        let mut users = Vec::new();
        for user in self.view.all().iter().filter(|container| self.uses(container, volume)) {
            users.extend(self.refresh(&user.id).await?);
        }
        Ok(users)
    }
}

/// A queue of pieces, its end, and the stream of both. What has no good end must not
/// pass for whole, however little of it was read when it ended.
fn pieces() -> (Sender, End, impl Stream<Item = Result<Bytes>> + Send + use<>) {
    let (send, receive) = mpsc::channel(WAITING);
    let (end, ended) = oneshot::channel();
    let last = async move { ended.await.unwrap_or_else(|_| Err(stopping())).err().map(Err) };
    let last = stream::once(last).filter_map(std::future::ready);
    (send, end, ReceiverStream::new(receive).map(Ok).chain(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_end_waits_for_no_reader_and_is_told_after_what_was_read() {
        for end in [Some(Err(stopping())), None, Some(Ok(()))] {
            let bad = !matches!(end, Some(Ok(())));
            let (send, told, archive) = pieces();
            while send.try_send(Bytes::from_static(b"piece")).is_ok() {}
            drop(send);
            match end {
                Some(end) => told.send(end).expect("the reader is there"),
                None => drop(told),
            }
            let read: Vec<_> = archive.collect().await;
            assert_eq!(read.iter().filter(|piece| piece.is_ok()).count(), WAITING);
            assert_eq!(read.last().is_some_and(Result::is_err), bad, "{read:?}");
        }
    }
}
