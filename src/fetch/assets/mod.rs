//! Fetches the content of an asset into a file: resumed, bounded, hashed on the way.
//!
//! ```text
//! fetch ── again while it makes progress ──► http: ask, follow redirects, judge the answer
//!                                        └─► file: open below a root
//!                                               │
//!                                             pour: least rate, progress
//!                                               │ 16 chunks at most
//!                                             part: write, hash, limits, room on the disk
//! ```

mod file;
mod http;
mod part;
mod pour;
mod retry_after;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use reqwest::{Client, Url};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::domain::{
    Error, Kind, Result,
    asset::{self, Policy},
};

use part::Part;

/// Reason of an error for a source that a rule refuses.
pub const ASSET_REFUSED: &str = "ASSET_REFUSED";

/// Failures one after the other, each without much progress, before it is given up.
const TRIES: u32 = 4;
/// So many bytes are much progress.
const PROGRESS: u64 = 1 << 20;
/// Wait after the first of these failures; twice as long after each more.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait that a source may ask for; beyond it, the caller may come again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How assets are fetched.
#[derive(Debug, Clone)]
pub struct AssetSettings {
    /// Where they may come from.
    pub policy: Arc<Policy>,
    /// URL of the 1Backend server whose File Svc is asked before the source.
    pub file_svc: Option<String>,
    /// What one may cost.
    pub limits: AssetLimits,
}

/// What one asset may cost.
#[derive(Debug, Clone, Copy)]
pub struct AssetLimits {
    /// Most bytes.
    pub bytes: u64,
    /// The setting that decides them, for errors.
    pub setting: &'static str,
    /// Most time, all tries together.
    pub time: Duration,
    /// Least bytes a second, over `stall`.
    pub min_rate: u64,
    /// How long an answer may take to begin.
    pub stall: Duration,
    /// Bytes that stay free on the disk.
    pub min_free: u64,
}

/// By what a source tells contents apart; empty is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validator {
    /// As it came, quotes and all.
    pub etag: String,
    /// As it came.
    pub last_modified: String,
}

/// What is to be fetched.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Where from.
    pub url: &'a str,
    /// What is there already; `None` is answered when the source still has that.
    pub have: Option<&'a Validator>,
    /// The source itself is asked, and not File Svc, which may have an older content.
    pub fresh: bool,
    /// A checksum will tell whether all of it came.
    pub checked: bool,
}

/// What is there after a fetch.
#[derive(Debug)]
pub struct Content {
    /// Checksum, lower-case hexadecimal digits.
    pub sha256: String,
    /// Length.
    pub bytes: u64,
    /// By what the source will know it again.
    pub validator: Validator,
    /// Open and locked: until it has its place, nobody takes the part away.
    _held: File,
}

/// How far a fetch is: bytes that are there, and bytes of the whole or 0.
pub type Tell<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Why a try ended.
enum Failure {
    /// Another may do better.
    Again(Error),
    /// Another may do better after this, as the source says.
    Later(Error, Duration),
    /// Another would not.
    Never(Error),
}

/// Fetches assets. Clones share one HTTP client.
#[derive(Debug, Clone)]
pub struct AssetFetcher {
    client: Client,
    /// Without the guard: its address is the configuration's.
    file_svc: Client,
    settings: Arc<AssetSettings>,
}

impl AssetFetcher {
    /// Opens the HTTP clients; nothing is asked yet.
    pub fn new(settings: AssetSettings) -> Result<Self> {
        let (client, file_svc) = http::clients(&settings)?;
        Ok(Self { client, file_svc, settings: Arc::new(settings) })
    }

    /// Fetches the content of a URL into a file; its first part may be there from an
    /// earlier fetch. Its turn, if it has one, others have while the source asks for a
    /// wait; what it then waits for it counts in no limit.
    ///
    /// INVALID_ARGUMENT where a rule refuses the source, RESOURCE_EXHAUSTED without
    /// room on the disk, FAILED_PRECONDITION for what else keeps it from being whole.
    /// What came stays for the next fetch when that can help.
    pub async fn fetch(
        &self,
        question: Question<'_>,
        file: &Path,
        mut turn: Option<OwnedSemaphorePermit>,
        tell: Tell<'_>,
    ) -> Result<Option<Content>> {
        let url = question.url;
        // The policy may be another than when the request was read.
        let source = self.settings.policy.source(url).map_err(|why| refused(url, &why))?;
        let limit = self.settings.limits.time;
        let mut end = Instant::now() + limit;
        let too_slow = |_| {
            let what =
                format!("was not there after {} s, the most that it may take", limit.as_secs());
            failed("ASSET_TOO_SLOW", url, &what)
        };
        let mut part = Some(Part::open(file, url, self.settings.limits).await?);
        let (mut tries, mut reached) = (0, 0);
        loop {
            let once = Box::pin(self.once(&source, question, &mut part, tries == 0, tell));
            let (again, wait) = match timeout_at(end, once).await.map_err(too_slow)? {
                Ok(None) => {
                    Part::discard(file).await;
                    return Ok(None);
                }
                Ok(Some(whole)) => return whole.finish().await.map(Some),
                Err(Failure::Never(error)) => {
                    Part::discard(file).await;
                    return Err(error);
                }
                Err(Failure::Again(error)) => (error, Duration::ZERO),
                Err(Failure::Later(error, wait)) => (error, wait),
            };
            let length = part.as_ref().map_or(0, Part::length);
            tries = if length >= reached + PROGRESS { 1 } else { tries + 1 };
            reached = reached.max(length);
            if tries >= TRIES || wait > LONGEST_PAUSE {
                return Err(again);
            }
            tracing::debug!(url = asset::shown(url), error = ?again, length, "fetching on");
            let turns = turn.take_if(|_| !wait.is_zero()).map(|turn| turn.semaphore().clone());
            let pause = tokio::time::sleep(wait.max(PAUSE * 2_u32.pow(tries - 1)));
            timeout_at(end, pause).await.map_err(too_slow)?;
            if let Some(turns) = turns {
                let since = Instant::now();
                let ended = |_| Error::internal("the turns of downloads have ended");
                turn = Some(turns.acquire_owned().await.map_err(ended)?);
                end += since.elapsed();
            }
            if part.is_none() {
                part = Some(Part::open(file, url, self.settings.limits).await?);
            }
        }
    }

    /// One try. Takes the part away with success, and where it was lost.
    async fn once(
        &self,
        url: &Url,
        question: Question<'_>,
        part: &mut Option<Part>,
        first: bool,
        tell: Tell<'_>,
    ) -> Result<Option<Part>, Failure> {
        match url.scheme() {
            "file" => file::fetch(&self.settings, url, question.have, part, tell).await,
            _ => self.ask(url, question, part, first, tell).await,
        }
    }
}

/// Makes a part ready for what comes, where waiting for the disk holds up nobody.
async fn prepare(
    part: &mut Option<Part>,
    work: impl FnOnce(&mut Part) -> Result<()> + Send + 'static,
) -> Result<(), Failure> {
    let lost = || Failure::Never(Error::internal("a part of an asset is missing"));
    let mut taken = part.take().ok_or_else(lost)?;
    let worked = part::blocking(move || {
        let done = work(&mut taken);
        Ok((taken, done))
    });
    let (taken, done) = worked.await.map_err(Failure::Never)?;
    *part = Some(taken);
    done.map_err(Failure::Never)
}

/// An error about the source of an asset.
fn failed(reason: &'static str, url: &str, what: &str) -> Error {
    let url = asset::shown(url);
    Error::precondition(reason, format!("{url} {what}")).with("url", url)
}

fn refused(url: &str, why: &str) -> Error {
    Error::new(Kind::InvalidArgument, ASSET_REFUSED, why).with("url", asset::shown(url))
}

fn too_large(url: &str, bytes: u64, limits: &AssetLimits) -> Error {
    let AssetLimits { bytes: most, setting, .. } = limits;
    let what =
        format!("has {bytes} bytes or more; at most {most} are fetched, which {setting} decides");
    failed("ASSET_TOO_LARGE", url, &what)
}

fn disk_full(url: &str) -> Error {
    let url = asset::shown(url);
    Error::new(
        Kind::ResourceExhausted,
        "DISK_FULL",
        format!(
            "{url} has no room: the disk of the assets is full, or would have less free than \
             asset_min_free_bytes; make room, or remove assets that nobody uses"
        ),
    )
    .with("url", url)
}
