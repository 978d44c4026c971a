//! The data of a keep as a tar archive.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{App, staging::Helper, stopping};
use crate::domain::{Error, Result};

/// Most bytes of one piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a slow reader.
const WAITING: usize = 4;

type Sender = mpsc::Sender<Result<Bytes>>;

impl App {
    /// Reads a keep. While a container with it runs, what it writes meanwhile may be
    /// in the archive in part: so that is refused unless `live` asks for it.
    pub async fn export_keep(
        self: &Arc<Self>,
        owner: &str,
        path: &str,
        live: bool,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let (volume, keep) = self.find_keep(owner, path).await?;
        let running = self.view.all().into_iter().find(|container| {
            container.is_running() && container.volumes.iter().any(|m| m.source == volume)
        });
        if let Some(running) = running.filter(|_| !live) {
            return Err(Error::precondition(
                "KEEP_IN_USE",
                format!(
                    "\"{}\" runs with the keep {} and may write to it; stop it first, or set live",
                    running.name(),
                    keep.path
                ),
            ));
        }
        let (send, receive) = mpsc::channel(WAITING);
        let app = self.clone();
        // Not the caller's own: it may leave at any time, and the helper must go.
        self.tasks.draining(async move { app.export(&volume, send).await });
        Ok(ReceiverStream::new(receive))
    }

    async fn export(&self, volume: &str, send: Sender) {
        let done = match self.hold(volume, HashMap::new()).await {
            Ok(helper) => {
                let done = tokio::select! {
                    done = self.send_volume(&helper, &send) => done,
                    () = send.closed() => Ok(()),
                    () = self.tasks.stopped() => Err(stopping()),
                };
                self.release(helper).await;
                done
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            // Nobody hears it when the caller has left.
            let _ = send.send(Err(error)).await;
        }
    }

    async fn send_volume(&self, helper: &Helper, send: &Sender) -> Result<()> {
        let mut chunks = self.engine.read_volume(&helper.id).await?;
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk?;
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(PIECE));
                if send.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
