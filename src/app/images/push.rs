//! Sends an image to its registry and tells how far it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::sync::mpsc;

use super::{Credential, Layer, download::LOCAL};
use crate::{
    app::App,
    domain::{Error, Kind, Result, image::ImageRef},
    engine::{PullStep, Pushed},
};

/// Messages that wait for a caller; one that reads slowly slows its own push.
const AHEAD: usize = 64;

/// One message to a caller: all layers, the one that moved, and the end.
#[derive(Debug, Clone, Default)]
pub struct PushUpdate {
    /// Layers by id.
    pub layers: BTreeMap<String, Layer>,
    /// Id of the layer that moved.
    pub layer: Option<String>,
    /// Digest in the registry, at the end.
    pub digest: Option<String>,
}

impl App {
    /// Pushes an image; the last message has the digest. Dropping the stream gives
    /// up.
    pub async fn push(
        self: &Arc<Self>,
        image: ImageRef,
        credential: Option<Credential>,
    ) -> Result<impl Stream<Item = Result<PushUpdate>> + Send + use<>> {
        if image.digest().is_some() {
            let why = "has a digest, which only its content decides; push it by a tag";
            return Err(Error::field("name", why));
        }
        let credential = match credential {
            Some(credential) => Some(credential),
            None => self.credential_of(&image).await?,
        };
        let (updates, receiver) = mpsc::channel(AHEAD);
        let app = self.clone();
        self.tasks.background("push", async move {
            let end = tokio::select! {
                end = app.send_image(&image, credential.as_ref(), &updates) => end,
                () = updates.closed() => return,
            };
            // A caller that left needs no answer.
            let _ = updates.send(end).await;
        });
        Ok(stream::unfold((receiver, false), |(mut receiver, ended)| async move {
            if ended {
                return None;
            }
            let stopped =
                || Error::new(Kind::Cancelled, "STOPPING", "the service stops; try again later");
            let next = receiver.recv().await.unwrap_or_else(|| Err(stopped()));
            let ended = next.as_ref().map_or(true, |update| update.digest.is_some());
            Some((next, (receiver, ended)))
        }))
    }

    async fn send_image(
        &self,
        image: &ImageRef,
        credential: Option<&Credential>,
        updates: &mpsc::Sender<Result<PushUpdate>>,
    ) -> Result<PushUpdate> {
        let mut pushing = self.engine.push(image, credential).await?;
        let mut layers = BTreeMap::new();
        loop {
            let patience = match are_sent(&layers) {
                // The registry may take its time to check what it has.
                true => self.settings.pull_stall_timeout * LOCAL,
                false => self.settings.pull_stall_timeout,
            };
            let next = tokio::time::timeout(patience, pushing.next()).await;
            let Some(pushed) = next.map_err(|_| stalled(patience))?? else { break };
            match pushed {
                Pushed::Done(digest) => {
                    return Ok(PushUpdate { layers, layer: None, digest: Some(digest) });
                }
                Pushed::Step(step) => {
                    let id = step.id.clone();
                    moved(layers.entry(id.clone()).or_default(), step);
                    let update =
                        PushUpdate { layers: layers.clone(), layer: Some(id), digest: None };
                    // That nobody listens ends the push elsewhere.
                    let _ = updates.send(Ok(update)).await;
                }
            }
        }
        let told = format!("the engine ended the push of \"{image}\" without a digest");
        Err(Error::precondition("PUSH_FAILED", told))
    }
}

/// True when every layer that was begun is with the registry, as far as is known here.
fn are_sent(layers: &BTreeMap<String, Layer>) -> bool {
    let mut begun = layers.values().filter(|layer| layer.done || layer.size > 0).peekable();
    begun.peek().is_some() && begun.all(|layer| layer.done || layer.fetched >= layer.size)
}

fn stalled(patience: Duration) -> Error {
    let seconds = patience.as_secs_f32();
    let why = format!(
        "the image cannot be pushed: its registry took nothing for {seconds} s; see whether it hangs"
    );
    Error::new(Kind::Unavailable, "PUSH_STALLED", why)
}

fn moved(layer: &mut Layer, step: PullStep) {
    layer.done = matches!(step.status.as_str(), "Pushed" | "Layer already exists")
        || step.status.starts_with("Mounted from");
    if step.status == "Pushing" {
        // The engine sees the size of what it packs, and may send a little more.
        layer.size = layer.size.max(step.total).max(step.current);
        layer.fetched = step.current;
    }
    if layer.done {
        layer.fetched = layer.size;
    }
    layer.status = step.status;
    layer.current = step.current;
    layer.total = step.total;
}
