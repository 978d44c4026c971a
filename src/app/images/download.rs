//! One download: what stalls or cannot reach its registry is tried again.
//!
//! ```text
//! once ── image ──► done
//!   ├── nothing came for a while, or no connection ──► wait, twice as long each time ──► once
//!   ├── too many requests: ask the registry how long to wait ──► not too long ──► once
//!   └── anything else, or too often without progress ──► error
//! ```

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::{Credential, Progress, Pulled};
use crate::{
    app::App,
    domain::{Error, Kind, Result, image::ImageRef},
    engine::{REGISTRY_LIMIT, REGISTRY_UNREACHABLE, is_local},
    fetch,
};

/// Reason of an error for a download of which nothing came any more.
const STALLED: &str = "PULL_STALLED";
/// Tries one after the other without progress.
const TRIES: u32 = 4;
/// Wait after the first of these; twice as long after each more.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait that a registry may ask for, and most of them.
const LONGEST: Duration = Duration::from_secs(60);
const WAITS: u32 = 5;
/// Unpacking and checking a large layer may tell nothing for so many times as long.
pub(in crate::app) const LOCAL: u32 = 10;

/// Why an image is given up of which nothing came for so long.
pub(in crate::app) fn nothing_came(patience: Duration) -> String {
    let seconds = patience.as_secs_f32();
    format!(
        "the image cannot be pulled: nothing came from its registry for {seconds} s; see whether \
         it hangs"
    )
}

impl Progress {
    /// Something is done here, for which no registry is waited for.
    fn is_local(&self) -> bool {
        self.layers.values().any(|layer| is_local(&layer.status))
    }

    /// How far it is, in numbers that only grow.
    fn reached(&self) -> (usize, u64) {
        let done = self.layers.values().filter(|layer| layer.done).count();
        (done, self.layers.values().map(|layer| layer.fetched).sum())
    }
}

impl App {
    /// Downloads an image, if need be in several tries.
    pub(super) async fn download(
        &self,
        image: &ImageRef,
        credential: Option<Credential>,
        sender: &watch::Sender<Progress>,
    ) -> Result<Pulled> {
        let (mut tries, mut waits, mut reached) = (0, 0, (0, 0));
        loop {
            let error = match self.download_once(image, credential.clone(), sender).await {
                Ok(pulled) => return Ok(pulled),
                Err(error) => error,
            };
            let now = sender.borrow().reached();
            tries = if now > reached { 1 } else { tries + 1 };
            reached = reached.max(now);
            let wait = match error.reason() {
                STALLED | REGISTRY_UNREACHABLE if tries < TRIES => PAUSE * 2_u32.pow(tries - 1),
                REGISTRY_LIMIT => {
                    waits += 1;
                    let asked_with = credential.clone().map(|given| fetch::Credential {
                        username: given.username,
                        password: given.password,
                        identity_token: given.identity_token,
                    });
                    match self.registry.with(asked_with).wait_asked_by(image).await {
                        Some(wait) if wait <= LONGEST && waits <= WAITS => wait,
                        Some(wait) => {
                            let seconds = wait.as_secs();
                            let more = format!("it asks to wait for {seconds} s");
                            return Err(error.and(&more).with("retryAfter", seconds.to_string()));
                        }
                        None => return Err(error),
                    }
                }
                _ => return Err(error),
            };
            tracing::info!(%image, error = error.message(), ?wait, "pulling again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn download_once(
        &self,
        image: &ImageRef,
        credential: Option<Credential>,
        sender: &watch::Sender<Progress>,
    ) -> Result<Pulled> {
        let mut steps = self.engine.pull(image, credential).await?;
        let mut digest = None;
        loop {
            let patience = match sender.borrow().is_local() {
                true => self.settings.pull_stall_timeout * LOCAL,
                false => self.settings.pull_stall_timeout,
            };
            let step = match tokio::time::timeout(patience, steps.next()).await {
                Ok(Some(step)) => step?,
                Ok(None) => break,
                Err(_) => {
                    return Err(Error::new(Kind::Unavailable, STALLED, nothing_came(patience)));
                }
            };
            if let Some(told) = step.status.strip_prefix("Digest: ") {
                digest = Some(told.to_owned());
            }
            sender.send_modify(|progress| progress.step(step));
        }
        let found = self.engine.image(image).await?.ok_or_else(|| {
            Error::precondition(
                "PULL_FAILED",
                format!("the engine pulled \"{image}\" but has it not"),
            )
        })?;
        Ok(Pulled { image_id: found.id, digest: digest.unwrap_or(found.digest) })
    }
}
