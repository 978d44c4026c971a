//! What the engine tells of long work: one JSON object a line.

use bytes::BytesMut;
use serde::Deserialize;

use super::{body::Body, errors};
use crate::domain::Result;

/// Longest message.
const LONGEST: usize = 16 << 20;

/// The messages of one answer. Dropping them gives the work up.
pub(super) struct Lines {
    address: String,
    body: Body,
    buffer: BytesMut,
}

/// One message of the engine.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Message {
    pub(super) stream: String,
    pub(super) status: String,
    pub(super) id: String,
    pub(super) progress_detail: Option<Progress>,
    pub(super) error_detail: Option<Detail>,
    pub(super) aux: serde_json::Value,
}

/// How far something is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    current: i64,
    total: i64,
}

/// What went wrong.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Detail {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Lines {
    pub(super) fn new(address: String, body: Body) -> Self {
        Self { address, body, buffer: BytesMut::new() }
    }

    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end + 1);
                let line = line.trim_ascii();
                if !line.is_empty() {
                    let message = serde_json::from_slice(line)
                        .map_err(|error| errors::garbled(&self.address).because(error))?;
                    return Ok(Some(message));
                }
            }
            if self.buffer.len() > LONGEST {
                return Err(errors::garbled(&self.address));
            }
            match self.body.chunk().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => self.buffer.extend_from_slice(b"\n"),
            }
        }
    }
}

impl Message {
    /// Bytes done and bytes in all; 0 where it does not say.
    pub(super) fn progress(&self) -> (u64, u64) {
        let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
        let detail = self.progress_detail.as_ref();
        detail.map_or((0, 0), |detail| (bytes(detail.current), bytes(detail.total)))
    }
}
