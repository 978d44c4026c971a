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
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use super::{App, run::Teller};
use crate::{
    domain::{
        Error, Result,
        asset::{self, Asset, Policy},
        container::Container,
        spec::RunSpec,
    },
    fetch::{AssetFetcher, assets::ASSET_REFUSED},
    store::{AssetFiles, StoredAsset},
};

mod clean;
mod download;
mod list;

pub use clean::clean;
pub use list::{AssetInfo, AssetPage, AssetQuery};

use download::Progress;

/// Downloads under way at once; more wait for their turn.
const AT_ONCE: usize = 16;

/// What the configuration decides about the cache.
#[derive(Debug, Clone)]
pub struct AssetCacheSettings {
    /// Folder of the cache.
    pub folder: PathBuf,
    /// Where assets may come from.
    pub policy: Arc<Policy>,
    /// How long one stays that nobody uses.
    pub max_age: Duration,
    /// Most bytes of all, parts too; what is in use counts and stays.
    pub max_total_bytes: u64,
    /// Bytes that stay free on the disk.
    pub min_free: u64,
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
    turns: Arc<Semaphore>,
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
            files: Arc::new(AssetFiles::open(&settings.folder, settings.min_free)?),
            downloads: Mutex::default(),
            pins: Arc::default(),
            turns: Semaphore::new(AT_ONCE).into(),
        })
    }

    fn pin(&self, sha256: &str) -> Arc<Pin> {
        let mut pins = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        *pins.entry(sha256.to_owned()).or_default() += 1;
        Arc::new(Pin { sha256: sha256.to_owned(), pins: self.pins.clone() })
    }

    /// True when the files that a container has for these assets are all there. Asks the
    /// disk for no more than their names, which is quicker than asking another thread.
    pub(super) fn are_there(&self, container: &Container, spec: &RunSpec) -> bool {
        spec.assets.iter().all(|asset| {
            let content = container.mounted_at(&asset.path).and_then(content_mounted);
            content.is_some_and(|content| self.files.is_there(content, asset.mode))
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
            let (files, content, mode) = (assets.files.clone(), content.to_owned(), asset.mode);
            let there = blocking(move || Ok(files.is_there(&content, mode))).await?;
            if there {
                return Ok((asset::cache_file(&pin.sha256, asset.mode), pin));
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

    /// Notes that the assets of a spec are used now.
    pub(super) async fn used_assets(&self, spec: &RunSpec) -> Result<()> {
        if spec.assets.is_empty() {
            return Ok(());
        }
        let ids = spec.assets.iter().map(Asset::id).collect();
        self.store.use_assets(ids, Timestamp::now()).await
    }

    /// Notes that the contents that a container has are used now.
    pub(super) async fn used_contents(&self, container: &Container) -> Result<()> {
        let mounted = container.volumes.iter().filter_map(|volume| content_mounted(&volume.source));
        let mounted: HashSet<&str> = mounted.collect();
        if mounted.is_empty() {
            return Ok(());
        }
        let mut rows = self.store.assets().await?;
        rows.retain(|row| mounted.contains(row.sha256.as_str()));
        let ids = rows.into_iter().map(|row| row.id).collect();
        self.store.use_assets(ids, Timestamp::now()).await
    }
}

/// The content that a source of a mount holds, when it is a file of the cache. Its name says
/// so: what the folders are called on the engine's host, nobody knows.
fn content_mounted(source: &str) -> Option<&str> {
    Path::new(source).file_name()?.to_str().and_then(asset::content_of)
}

/// A source that a rule refuses is a wrong field of the request.
fn explain(asset: &Asset, error: &Error) -> Error {
    if error.reason() == ASSET_REFUSED {
        return Error::field(format!("assets[{}].url", asset.at), error.message());
    }
    error.clone().with("envVarKey", &asset.given.env_var_key)
}

/// Runs what may wait for the disk where that holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let work = tokio::task::spawn_blocking(work).await;
    work.map_err(|error| Error::internal("work on the asset cache ended early").because(error))?
}
