//! Pours a stream of bytes into a part, and minds how fast it comes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{Failure, Tell, failed, part::Part};
use crate::domain::{Error, Result};

/// Chunks that wait to be written; each has at most some hundred KiB.
const QUEUE: usize = 16;
/// How often progress is told.
const OFTEN: Duration = Duration::from_millis(100);

/// Appends all of a stream. The part is given back in any case but a defect, with what
/// was written; it is whole when this succeeds.
pub(super) async fn pour(
    mut body: impl Stream<Item = Result<Bytes, Failure>> + Unpin + Send,
    part: &mut Option<Part>,
    stall: Duration,
    min_rate: u64,
    tell: Tell<'_>,
) -> Result<Part, Failure> {
    let lost = || Failure::Never(Error::internal("a part of an asset is missing"));
    let mut writing = part.take().ok_or_else(lost)?;
    let (url, total, mut length) = (writing.url().to_owned(), writing.total(), writing.length());
    let (chunks, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    // Writing and hashing would hold up who reads from the network.
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = queue.blocking_recv() {
            if let Err(error) = writing.write(&chunk) {
                return (writing, Err(error));
            }
        }
        (writing, Ok(()))
    });

    tell(length, total);
    let mut told = Instant::now();
    let mut window = (Instant::now(), length);
    let ended = loop {
        match timeout_at(window.0 + stall, body.next()).await {
            Ok(None) => break Ok(()),
            Ok(Some(Err(failure))) => break Err(failure),
            Ok(Some(Ok(chunk))) => {
                length += chunk.len() as u64;
                // Who writes has ended, and will say why.
                if chunks.send(chunk).await.is_err() {
                    break Ok(());
                }
            }
            Err(_) => {}
        }
        if window.0.elapsed() >= stall {
            let least = min_rate.saturating_mul(stall.as_millis() as u64) / 1000;
            if length - window.1 < least.max(1) {
                let what = format!(
                    "sent {} bytes within {} s, less than the least rate of {min_rate} a second; \
                     try again later",
                    length - window.1,
                    stall.as_secs_f32(),
                );
                break Err(Failure::Again(failed("ASSET_TOO_SLOW", &url, &what)));
            }
            window = (Instant::now(), length);
        }
        if told.elapsed() >= OFTEN {
            told = Instant::now();
            tell(length, total);
        }
    };
    drop(chunks);
    let (written, result) = writer.await.map_err(|error| {
        Failure::Never(Error::internal("writing an asset ended early").because(error))
    })?;
    let length = written.length();
    if let Err(error) = result {
        return Err(Failure::Never(error));
    }
    tell(length, total);
    if ended.is_ok() && (total == 0 || length == total) {
        return Ok(written);
    }
    *part = Some(written);
    ended?;
    let what = format!("ended after {length} of {total} bytes; try again later");
    Err(Failure::Again(failed("ASSET_TRUNCATED", &url, &what)))
}
