//! Downloads of assets: equal runs share one, and it is given up when nobody waits for
//! it any more.
//!
//! ```text
//! runs ── join ──► one task: its turn, fetch ──► checksum ──► publish ──► row and event
//!          ▲                    │                                │
//!          └───── progress ─────┴──────────── end, with a pin ◄──┘
//! ```

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{App, AssetStep, Pin, blocking};
use crate::{
    app::{
        events,
        run::{Step, Teller},
    },
    domain::{
        Error, Kind, Result,
        asset::{self, Asset},
        event::{Subject, What},
    },
    fetch::assets::{Content, Question, Validator},
    store::StoredAsset,
};

/// A caller that leaves as another comes must not end a download.
const GRACE: Duration = Duration::from_millis(500);
/// Over how long a rate is told.
const RATE: Duration = Duration::from_secs(1);

/// How far a download is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
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

/// What a fetch brought.
enum Brought {
    /// A content that is to be published.
    New(Content),
    /// What the cache has already.
    Known(Arc<Pin>),
}

impl App {
    /// Waits for the download of an asset and tells how far it is.
    pub(super) async fn fetched(
        self: &Arc<Self>,
        asset: &Asset,
        tell: &Teller,
    ) -> Result<Arc<Pin>> {
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

    pub(super) fn is_fetching(&self, id: &str) -> bool {
        let downloads = self.assets.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        downloads.keys().any(|key| key.starts_with(id))
    }

    fn join_download(self: &Arc<Self>, asset: &Asset) -> watch::Receiver<Progress> {
        // Those who name a checksum and those who do not must not share: what one of them
        // refuses the other takes. Nor those who want it fresh and those who do not.
        let mut key = match asset.sha256.as_str() {
            "" => asset.id(),
            checksum => format!("{}-{checksum}", asset.id()),
        };
        if asset.given.refresh {
            key.push_str("-fresh");
        }
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
        let brought = tokio::select! {
            brought = Box::pin(self.bring(asset, key, sender)) => brought,
            () = self.given_up(key, sender) => return None,
        };
        // Not given up from here on: the part may be on its way to its place.
        Some(match brought {
            Ok(Brought::New(content)) => self.publish(asset, key, content).await,
            Ok(Brought::Known(pin)) => Ok(pin),
            Err(error) => Err(error),
        })
    }

    /// Waits for its turn and fetches what the cache has not.
    async fn bring(
        &self,
        asset: &Asset,
        key: &str,
        sender: &watch::Sender<Progress>,
    ) -> Result<Brought> {
        let turn = self.assets.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::internal("the turns of downloads have ended"))?;
        // Another download may have brought it a moment ago.
        let have = self.cached(asset).await?;
        let known = match &have {
            Some((_, pin)) if !asset.given.refresh => return Ok(Brought::Known(pin.clone())),
            Some((row, _)) => {
                Some(Validator { etag: row.etag.clone(), last_modified: row.last_modified.clone() })
            }
            None => None,
        };
        let question = Question {
            url: &asset.url,
            have: known.as_ref().filter(|known| **known != Validator::default()),
            fresh: asset.given.refresh,
            checked: !asset.sha256.is_empty(),
        };
        let tell = |bytes, total| sender.send_modify(|progress| progress.step(bytes, total));
        let part = self.assets.files.part(key);
        match (self.assets.fetcher.fetch(question, &part, Some(turn), &tell).await?, have) {
            (Some(content), _) => Ok(Brought::New(content)),
            (None, Some((_, pin))) => Ok(Brought::Known(pin)),
            (None, None) => Err(Error::internal("nothing was fetched")),
        }
    }

    /// Gives a part its place in the cache, when it is what was asked for.
    async fn publish(&self, asset: &Asset, key: &str, content: Content) -> Result<Arc<Pin>> {
        let files = self.assets.files.clone();
        let part = files.part(key);
        if !asset.sha256.is_empty() && asset.sha256 != content.sha256 {
            if let Err(error) = blocking(move || files.drop_part(&part)).await {
                tracing::warn!(?error, "a refused asset is left behind");
            }
            return Err(mismatch(asset, &content.sha256));
        }
        // Before it is there: then it cannot go before its row is.
        let pin = self.assets.pin(&content.sha256);
        let sha256 = content.sha256.clone();
        blocking(move || files.publish(&part, &sha256)).await?;
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
        let fetched = What::AssetFetched { url, sha256, bytes };
        self.store.put_asset(row, events::now(Subject::default(), fetched)).await?;
        Ok(pin)
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
