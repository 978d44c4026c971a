//! Assets: fetched once for all who name them, held while somebody needs them.
//!
//! ```text
//! a run ──► what its container has ── not there ──► the cache ── not there, or refresh ──► a download
//!                                                                      that equal runs share
//! ```
//!
//! A file of the cache is never removed while a container has it or a run holds a pin on
//! its content.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use super::{
    App,
    run::{Step, Teller},
};
use crate::{
    domain::{
        Error, Kind, Result,
        asset::{self, Asset, Policy},
        container::Container,
        event::{Subject, What},
        spec::RunSpec,
    },
    fetch::{
        AssetFetcher,
        assets::{ASSET_REFUSED, Validator},
    },
    store::{AssetFiles, StoredAsset},
};

mod clean;
mod list;

pub use clean::clean;
pub use list::AssetInfo;

/// Downloads under way at once; more wait for their turn.
const AT_ONCE: usize = 16;
/// A caller that leaves as another comes must not end a download.
const GRACE: Duration = Duration::from_millis(500);
/// Over how long a rate is told.
const RATE: Duration = Duration::from_secs(1);

/// What the configuration decides about the cache.
#[derive(Debug, Clone)]
pub struct AssetCacheSettings {
    /// Folder of the cache.
    pub folder: PathBuf,
    /// Where assets may come from.
    pub policy: Arc<Policy>,
    /// How long one stays that nobody uses.
    pub max_age: Duration,
    /// Most bytes of all; what is in use counts and stays.
    pub max_total_bytes: u64,
}

/// How far one asset of a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetStep {
    /// Environment variable of the asset.
    pub env_var_key: String,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole; 0 is not known.
    pub total: u64,
    /// Bytes of the last second or so.
    pub rate: u64,
    /// All of it is there.
    pub done: bool,
}

/// How far a download is.
#[derive(Debug, Clone, Default)]
struct Progress {
    bytes: u64,
    total: u64,
    rate: u64,
    /// When, and with how many bytes, the rate was last told.
    since: Option<(Instant, u64)>,
    /// Set at its end.
    end: Option<Result<Arc<Pin>>>,
}

impl Progress {
    fn step(&mut self, bytes: u64, total: u64) {
        let now = Instant::now();
        let (at, had) = *self.since.get_or_insert((now, bytes));
        let past = now.duration_since(at);
        if past >= RATE || (self.rate == 0 && past >= RATE / 10) {
            let millis = u64::try_from(past.as_millis()).unwrap_or(u64::MAX).max(1);
            self.rate = bytes.saturating_sub(had).saturating_mul(1000) / millis;
            self.since = Some((now, bytes));
        }
        (self.bytes, self.total) = (bytes, total);
    }
}

/// How often each content is pinned.
#[derive(Debug, Default)]
struct Pins(Mutex<HashMap<String, usize>>);

/// Keeps a content in the cache while it lives.
#[derive(Debug)]
struct Pin {
    sha256: String,
    pins: Arc<Pins>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.sha256) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.sha256);
            }
        }
    }
}

/// The cache, its downloads and who holds what.
#[derive(Debug)]
pub struct Assets {
    fetcher: AssetFetcher,
    files: Arc<AssetFiles>,
    downloads: Mutex<HashMap<String, watch::Sender<Progress>>>,
    pins: Arc<Pins>,
    turns: Semaphore,
}

/// The files of a spec's assets, in its order, held in the cache.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    /// The folder of the cache for the engine.
    folder: PathBuf,
    /// Names of the files in it.
    files: Vec<String>,
    _pins: Vec<Arc<Pin>>,
}

impl InPlace {
    /// Paths on the engine's host, to be mounted.
    pub(super) fn sources(&self) -> Vec<String> {
        let path = |file| self.folder.join(file).to_string_lossy().into_owned();
        self.files.iter().map(path).collect()
    }
}

impl Assets {
    /// Opens the folder of the cache.
    pub fn new(fetcher: AssetFetcher, settings: &AssetCacheSettings) -> Result<Self> {
        Ok(Self {
            fetcher,
            files: Arc::new(AssetFiles::open(&settings.folder)?),
            downloads: Mutex::default(),
            pins: Arc::default(),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    fn pin(&self, sha256: &str) -> Arc<Pin> {
        let mut pins = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        *pins.entry(sha256.to_owned()).or_default() += 1;
        Arc::new(Pin { sha256: sha256.to_owned(), pins: self.pins.clone() })
    }

    /// True when the files that a container has for these assets are all there. Looks at
    /// the disk, but asks nobody.
    pub(super) fn are_there(&self, container: &Container, spec: &RunSpec) -> bool {
        spec.assets.iter().all(|asset| {
            let content = container.mounted_at(&asset.path).and_then(content_mounted);
            content.is_some_and(|content| self.files.path(content, asset.mode).is_file())
        })
    }

    /// True when a container must be replaced because it has other files than these.
    pub(super) fn differ(&self, container: &Container, spec: &RunSpec, now: &InPlace) -> bool {
        // Without a wish to refresh, what a container has is good while it is there.
        let refresh = spec.assets.iter().any(|asset| asset.given.refresh);
        let other = spec.assets.iter().zip(&now.files).any(|(asset, file)| {
            let have = container.mounted_at(&asset.path).map(Path::new);
            have.and_then(Path::file_name) != Some(file.as_ref())
        });
        other && (refresh || !self.are_there(container, spec))
    }
}

/// A download's place in the list. However it ends, by a panic or a stop too, nobody
/// finds it there any more, and who waits for it sees that.
struct Listed {
    app: Arc<App>,
    key: Option<String>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let downloads = &self.app.assets.downloads;
            downloads.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

impl App {
    /// Makes sure that the files of a spec's assets are in the cache.
    pub(super) async fn ensure_assets(
        self: &Arc<Self>,
        spec: &RunSpec,
        tell: &Teller,
    ) -> Result<InPlace> {
        if spec.assets.is_empty() {
            return Ok(InPlace::default());
        }
        // Nothing is fetched that the engine could not mount.
        let folder = self.host_path(self.assets.files.folder()).await?;
        let existing = self.view.named(&spec.engine_name()).into_iter().next();
        let existing =
            existing.filter(|have| self.is_ours(have) && have.spec_hash() == spec.spec_hash());
        let one = |asset| Box::pin(self.ensure_asset(asset, existing.as_deref(), tell));
        let (files, pins) = try_join_all(spec.assets.iter().map(one)).await?.into_iter().unzip();
        Ok(InPlace { folder, files, _pins: pins })
    }

    async fn ensure_asset(
        self: &Arc<Self>,
        asset: &Asset,
        existing: Option<&Container>,
        tell: &Teller,
    ) -> Result<(String, Arc<Pin>)> {
        let assets = &self.assets;
        let has = existing.and_then(|have| have.mounted_at(&asset.path));
        if let Some(content) = has.and_then(content_mounted)
            && !asset.given.refresh
        {
            let pin = assets.pin(content);
            if assets.files.path(content, asset.mode).is_file() {
                return Ok((asset::cache_file(content, asset.mode), pin));
            }
        }
        let pin = match self.cached(asset).await? {
            Some((_, pin)) if !asset.given.refresh => pin,
            _ => self.fetched(asset, tell).await.map_err(|error| explain(asset, &error))?,
        };
        let (files, content, mode) = (assets.files.clone(), pin.sha256.clone(), asset.mode);
        blocking(move || files.in_mode(&content, mode)).await?;
        Ok((asset::cache_file(&pin.sha256, mode), pin))
    }

    /// What the cache has of an asset, if it is what was asked for.
    async fn cached(&self, asset: &Asset) -> Result<Option<(StoredAsset, Arc<Pin>)>> {
        let Some(row) = self.store.asset(&asset.id()).await? else { return Ok(None) };
        if !asset.sha256.is_empty() && asset.sha256 != row.sha256 {
            return Ok(None);
        }
        // Pinned first: then it cannot go after it was seen to be there.
        let pin = self.assets.pin(&row.sha256);
        let (files, content, bytes) = (self.assets.files.clone(), row.sha256.clone(), row.bytes);
        let there = blocking(move || Ok(files.has(&content, bytes))).await?;
        Ok(there.then_some((row, pin)))
    }

    /// Waits for the download of an asset and tells how far it is.
    async fn fetched(self: &Arc<Self>, asset: &Asset, tell: &Teller) -> Result<Arc<Pin>> {
        let mut download = self.join_download(asset);
        loop {
            let Progress { bytes, total, rate, end, .. } = download.borrow_and_update().clone();
            tell.tell(Step::Downloading(AssetStep {
                env_var_key: asset.given.env_var_key.clone(),
                bytes,
                total,
                rate,
                done: matches!(end, Some(Ok(_))),
            }));
            if let Some(end) = end {
                return end;
            }
            if download.changed().await.is_err() {
                let why = "the service stops; try again later, what came is kept";
                return Err(Error::new(Kind::Cancelled, "STOPPING", why));
            }
        }
    }

    fn is_fetching(&self, id: &str) -> bool {
        let downloads = self.assets.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        downloads.keys().any(|key| key.starts_with(id))
    }

    fn join_download(self: &Arc<Self>, asset: &Asset) -> watch::Receiver<Progress> {
        // Those who name a checksum and those who do not must not share: what one of them
        // refuses the other takes.
        let key = match asset.sha256.get(..16) {
            Some(checksum) => format!("{}-{checksum}", asset.id()),
            None => asset.id(),
        };
        let mut downloads = self.assets.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = downloads.get(&key) {
            return sender.subscribe();
        }
        let sender = watch::Sender::new(Progress::default());
        let download = sender.subscribe();
        downloads.insert(key.clone(), sender.clone());
        drop(downloads);
        let (app, asset) = (self.clone(), asset.clone());
        let mut listed = Listed { app: app.clone(), key: Some(key.clone()) };
        self.tasks.background("asset", async move {
            let Some(end) = app.fetch_asset(&asset, &key, &sender).await else {
                // Another one may stand there by now.
                listed.key.take();
                return;
            };
            if let Err(error) = &end {
                tracing::warn!(?error, url = asset::shown(&asset.url), "an asset is not fetched");
            }
            drop(listed);
            sender.send_modify(|progress| progress.end = Some(end));
        });
        download
    }

    /// Downloads and publishes; `None` when nobody waits for it any more.
    async fn fetch_asset(
        &self,
        asset: &Asset,
        key: &str,
        sender: &watch::Sender<Progress>,
    ) -> Option<Result<Arc<Pin>>> {
        let part = self.assets.files.part(key);
        let fetch = async {
            let turn = self.assets.turns.acquire().await;
            let _turn = turn.map_err(|_| Error::internal("the turns of downloads have ended"))?;
            // Another download may have brought it a moment ago.
            let have = self.cached(asset).await?;
            let known = match &have {
                Some((_, pin)) if !asset.given.refresh => return Ok(Err(pin.clone())),
                Some((row, _)) => Some(Validator {
                    etag: row.etag.clone(),
                    last_modified: row.last_modified.clone(),
                }),
                None => None,
            };
            let known = known.filter(|known| *known != Validator::default());
            let tell = |bytes, total| sender.send_modify(|progress| progress.step(bytes, total));
            let fetched =
                self.assets.fetcher.fetch(&asset.url, known.as_ref(), &part, &tell).await?;
            match (fetched, have) {
                (Some(content), _) => Ok(Ok(content)),
                (None, Some((_, pin))) => Ok(Err(pin)),
                (None, None) => Err(Error::internal("nothing was fetched")),
            }
        };
        let content = tokio::select! {
            fetched = Box::pin(fetch) => match fetched {
                Ok(Ok(content)) => content,
                Ok(Err(pin)) => return Some(Ok(pin)),
                Err(error) => return Some(Err(error)),
            },
            () = self.given_up(key, sender) => return None,
        };
        // Not given up from here on: the part may be on its way to its place.
        if !asset.sha256.is_empty() && asset.sha256 != content.sha256 {
            if let Err(error) = self.assets.files.remove(&part) {
                tracing::warn!(?error, "a refused asset is left behind");
            }
            return Some(Err(mismatch(asset, &content.sha256)));
        }
        let pin = self.assets.pin(&content.sha256);
        let (files, sha256) = (self.assets.files.clone(), content.sha256.clone());
        if let Err(error) = blocking(move || files.publish(&part, &sha256)).await {
            return Some(Err(error));
        }
        let now = Timestamp::now();
        let row = StoredAsset {
            id: asset.id(),
            url: asset.url.clone(),
            sha256: content.sha256,
            bytes: content.bytes,
            etag: content.validator.etag,
            last_modified: content.validator.last_modified,
            fetched_at: now,
            last_used_at: now,
        };
        let (url, sha256, bytes) = (asset::shown(&row.url), row.sha256.clone(), row.bytes);
        tracing::info!(url, bytes, "an asset is fetched");
        let stored = self.store.put_asset(row).await;
        self.emit(Subject::default(), What::AssetFetched { url, sha256, bytes }).await;
        Some(stored.map(|()| pin))
    }

    /// Resolves when nobody listens for a while, and then nobody can join any more.
    async fn given_up(&self, key: &str, sender: &watch::Sender<Progress>) {
        loop {
            sender.closed().await;
            tokio::time::sleep(GRACE).await;
            let mut downloads =
                self.assets.downloads.lock().unwrap_or_else(PoisonError::into_inner);
            if sender.receiver_count() == 0 {
                downloads.remove(key);
                return;
            }
        }
    }

    /// Notes that the assets of a spec are used now.
    pub(super) async fn used_assets(&self, spec: &RunSpec) -> Result<()> {
        if spec.assets.is_empty() {
            return Ok(());
        }
        let ids = spec.assets.iter().map(Asset::id).collect();
        self.store.use_assets(ids, Timestamp::now()).await
    }
}

/// The content that a source of a mount holds, when it is a file of the cache, whatever
/// the folder of that is called on the engine's host.
fn content_mounted(source: &str) -> Option<&str> {
    let path = Path::new(source);
    let ours = path.parent().is_some_and(|folder| folder.ends_with(AssetFiles::FOLDER));
    path.file_name().filter(|_| ours)?.to_str().and_then(asset::content_of)
}

/// A source that a rule refuses is a wrong field of the request.
fn explain(asset: &Asset, error: &Error) -> Error {
    if error.reason() == ASSET_REFUSED {
        return Error::field(format!("assets[{}].url", asset.at), error.message());
    }
    error.clone().with("envVarKey", &asset.given.env_var_key)
}

fn mismatch(asset: &Asset, got: &str) -> Error {
    let (url, asked) = (asset::shown(&asset.url), &asset.sha256);
    Error::precondition(
        "ASSET_CHECKSUM",
        format!(
            "{url} has the sha256 {got}, and {asked} was asked for; nothing of it is kept; \
             correct the checksum or the URL"
        ),
    )
    .with("sha256", got)
}

/// Runs what may wait for the disk where that holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let work = tokio::task::spawn_blocking(work).await;
    work.map_err(|error| Error::internal("work on the asset cache ended early").because(error))?
}
