//! Images: which content a name means, and downloads that callers share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{
    App,
    run::{Step, Teller},
};
use crate::{
    domain::{
        Error, Kind, Result,
        event::{Subject, What},
        image::ImageRef,
        spec::{PullPolicy, RunSpec, hex},
    },
    engine::PullStep,
};

mod claims;
mod download;
mod manage;
mod push;

use claims::Claims;

pub use crate::engine::{Credential, ListedImage};
pub(super) use claims::Claim;
pub(super) use download::{LOCAL, nothing_came};
pub use manage::{ImageInfo, Prune, Pruned};
pub use push::PushUpdate;

/// How long a download goes on that nobody listens to.
const GRACE: Duration = Duration::from_millis(500);
/// Names whose content is remembered.
const REMEMBERED: usize = 1024;

/// One layer of a download.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// The engine's words.
    pub status: String,
    /// Bytes done of this step.
    pub current: u64,
    /// Bytes of this step.
    pub total: u64,
    /// Bytes fetched, however far later steps are.
    pub fetched: u64,
    /// Bytes to fetch.
    pub size: u64,
    /// Nothing more happens to it.
    pub done: bool,
    version: u64,
}

/// What a finished download brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Content id.
    pub image_id: String,
    /// Digest in the registry.
    pub digest: String,
}

/// How far a download is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Layers by id.
    pub layers: BTreeMap<String, Layer>,
    /// Set at its end.
    pub end: Option<Result<Pulled>>,
    version: u64,
}

impl Progress {
    fn step(&mut self, step: PullStep) {
        // Messages about the image name its tag in the id's place.
        let of_layer = [
            "Pulling fs layer",
            "Waiting",
            "Downloading",
            "Verifying",
            "Download ",
            "Extracting",
            "Pull complete",
            "Already exists",
            "Retrying",
        ];
        if step.id.is_empty() || !of_layer.iter().any(|word| step.status.starts_with(word)) {
            return;
        }
        self.version += 1;
        let layer = self.layers.entry(step.id).or_default();
        match step.status.as_str() {
            "Downloading" => {
                layer.size = layer.size.max(step.total);
                layer.fetched = step.current;
            }
            "Download complete" | "Pull complete" => layer.fetched = layer.size,
            _ => {}
        }
        layer.done = matches!(step.status.as_str(), "Pull complete" | "Already exists");
        layer.status = step.status;
        layer.current = step.current;
        layer.total = step.total;
        layer.version = self.version;
    }
}

/// One message to a caller: all layers, and the one that moved.
#[derive(Debug, Clone)]
pub struct PullUpdate {
    /// The whole.
    pub progress: Progress,
    /// Id of the layer that moved.
    pub layer: Option<String>,
}

type Download = watch::Receiver<Progress>;

/// Downloads under way and names whose content is known.
#[derive(Debug, Default)]
pub struct Images {
    downloads: Mutex<HashMap<String, Download>>,
    known: RwLock<(u64, HashMap<String, String>)>,
    /// Images of runs that are under way.
    claims: Arc<Claims>,
}

impl Images {
    /// Names may mean other content than before.
    pub fn forget_names(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.0 += 1;
        known.1.clear();
    }

    /// What a name is known to mean, without the engine.
    pub(super) fn known(&self, image: &ImageRef) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.1.get(&image.to_string()).cloned()
    }

    /// Resolves when only the map listens, and goes on doing so for a moment: a
    /// caller that leaves as another comes must not end the download. Then nobody can
    /// join it any more.
    async fn unheard(&self, key: &str, sender: &watch::Sender<Progress>) {
        loop {
            tokio::time::sleep(GRACE).await;
            if sender.receiver_count() > 1 {
                continue;
            }
            tokio::time::sleep(GRACE).await;
            let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
            if sender.receiver_count() <= 1 {
                downloads.remove(key);
                return;
            }
        }
    }

    fn generation(&self) -> u64 {
        self.known.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Remembers a name, unless names changed since the engine was asked.
    fn learn(&self, image: &ImageRef, id: &str, asked_in: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.0 == asked_in && known.1.len() < REMEMBERED {
            known.1.insert(image.to_string(), id.to_owned());
        }
    }
}

impl App {
    /// Makes sure that the image is here. No request of ours removes it as long as the
    /// claim is held.
    pub(super) async fn ensure_image(
        self: &Arc<Self>,
        spec: &RunSpec,
        tell: &Teller,
    ) -> Result<Claim> {
        let id = self.have_image(spec, tell).await?;
        Ok(self.images.claim(&id))
    }

    /// Which content the image of a spec has now, claimed until a container has it; `None`
    /// when somebody removed it meanwhile.
    pub(super) async fn image_now(&self, spec: &RunSpec) -> Result<Option<(String, Claim)>> {
        let found = self.engine.image(&spec.image).await?;
        Ok(found.map(|found| {
            let claim = self.images.claim(&found.id);
            (found.id, claim)
        }))
    }

    async fn have_image(self: &Arc<Self>, spec: &RunSpec, tell: &Teller) -> Result<String> {
        let (image, policy) = (&spec.image, spec.pull_policy);
        if policy != PullPolicy::Always {
            let generation = self.images.generation();
            if let Some(found) = self.engine.image(image).await? {
                if self.view.freshness().synced {
                    self.images.learn(image, &found.id, generation);
                }
                return Ok(found.id);
            }
            if policy == PullPolicy::Never {
                return Err(Error::precondition(
                    "IMAGE_NOT_PRESENT",
                    format!(
                        "the node has no image \"{image}\" and the pull policy is NEVER; pull it first"
                    ),
                ));
            }
        }
        let mut updates =
            Box::pin(self.pull(image.clone(), spec.login.as_ref().map(Into::into)).await?);
        while let Some(update) = updates.next().await {
            let update = update?;
            if let Some(end) = update.progress.end {
                return end.map(|pulled| pulled.image_id);
            }
            tell.tell(Step::Pulling(Box::new(update)));
        }
        Err(Error::new(Kind::Cancelled, "STOPPING", "the service stops; try again later"))
    }

    /// Downloads an image and tells how far it is. Callers with the same image
    /// and credential share one download, which ends when none listens.
    pub async fn pull(
        self: &Arc<Self>,
        image: ImageRef,
        credential: Option<Credential>,
    ) -> Result<impl Stream<Item = Result<PullUpdate>> + Send + use<>> {
        let credential = match credential {
            Some(credential) => Some(credential),
            None => self.credential_of(&image).await?,
        };
        let download = self.join(image, credential);
        Ok(stream::unfold((download, 0, false), |(mut download, mut seen, ended)| async move {
            if ended {
                return None;
            }
            loop {
                let moved = {
                    let progress = download.borrow_and_update();
                    // One layer a message, the one that moved longest ago.
                    let layer = progress
                        .layers
                        .iter()
                        .filter(|(_, layer)| layer.version > seen)
                        .min_by_key(|(_, layer)| layer.version)
                        .map(|(id, layer)| (id.clone(), layer.version));
                    match (layer, &progress.end) {
                        (Some((id, version)), _) => {
                            seen = version;
                            Some((Some(id), Progress { end: None, ..progress.clone() }))
                        }
                        (None, Some(_)) => Some((None, progress.clone())),
                        (None, None) => None,
                    }
                };
                if let Some((layer, progress)) = moved {
                    let ended = layer.is_none();
                    let item = match &progress.end {
                        Some(Err(error)) => Err(error.clone()),
                        _ => Ok(PullUpdate { layer, progress }),
                    };
                    return Some((item, (download, seen, ended)));
                }
                if download.changed().await.is_err() {
                    let error =
                        Error::new(Kind::Cancelled, "PULL_ENDED", "the download was given up");
                    return Some((Err(error), (download, seen, true)));
                }
            }
        }))
    }

    /// What the node's own configuration opens the image's registry with.
    pub(super) async fn credential_of(&self, image: &ImageRef) -> Result<Option<Credential>> {
        Ok(self.registry.credential_for(image).await?.map(|found| Credential {
            username: found.username,
            password: found.password,
            identity_token: found.identity_token,
        }))
    }

    /// True when the image's own registry would give it.
    pub async fn is_pullable(&self, image: &str) -> Result<bool> {
        let image = ImageRef::parse(image)?;
        self.registry.pullable(&image).await
    }

    fn join(self: &Arc<Self>, image: ImageRef, credential: Option<Credential>) -> Download {
        let key = format!("{image} {}", fingerprint(credential.as_ref()));
        let mut downloads = self.images.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(download) = downloads.get(&key) {
            // One that failed without a word has no sender any more; one that ended is old.
            if download.has_changed().is_ok() && download.borrow().end.is_none() {
                return download.clone();
            }
        }
        let (sender, download) = watch::channel(Progress::default());
        // The map must not keep the download alive: it holds a receiver, so
        // listeners are counted without it.
        downloads.retain(|_, download| download.has_changed().is_ok());
        downloads.insert(key.clone(), download.clone());
        drop(downloads);
        let app = self.clone();
        self.tasks.background("pull", async move {
            let end = tokio::select! {
                end = app.download(&image, credential, &sender) => end,
                // Nobody finds it any more, and another one may stand there by now.
                () = app.images.unheard(&key, &sender) => return,
            };
            let about = format!("image \"{}\"", image.familiar());
            let end = end.map_err(|error| error.about(&about));
            if let Ok(Pulled { image_id, digest }) = &end {
                let what = What::Pulled { image_id: image_id.clone(), digest: digest.clone() };
                app.emit(Subject::image(&image.familiar()), what).await;
            }
            app.images.downloads.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_modify(|progress| progress.end = Some(end));
        });
        download
    }
}

fn fingerprint(credential: Option<&Credential>) -> String {
    credential.map_or("anonymous".to_owned(), |credential| {
        let mut hasher = Sha256::new();
        let token = credential.identity_token.as_deref().unwrap_or_default();
        for part in [credential.username.as_str(), &credential.password, token] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        hex(&hasher.finalize())
    })
}
