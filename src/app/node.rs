//! The node: its engine, its host address, and the epoch of cursors.

use std::sync::{
    RwLock,
    atomic::{AtomicBool, Ordering},
};

use super::App;
use crate::{
    domain::{Error, Result, spec::hex},
    engine::Version,
};

/// Facts that are learnt while the service runs.
#[derive(Debug)]
pub struct Facts {
    version: RwLock<Version>,
    /// Whether the engine answered last.
    answers: AtomicBool,
    /// Random; cursors of another run of the service are not ours.
    epoch: String,
}

impl Default for Facts {
    fn default() -> Self {
        let mut epoch = [0; 6];
        // Without randomness, cursors of different runs could be mistaken for
        // each other; the clock is the next best.
        if getrandom::fill(&mut epoch).is_err() {
            let now = jiff::Timestamp::now().as_nanosecond().to_le_bytes();
            epoch.copy_from_slice(&now[..6]);
        }
        Self { version: RwLock::default(), answers: AtomicBool::new(false), epoch: hex(&epoch) }
    }
}

impl Facts {
    /// Notes what the engine says of itself.
    pub fn set_version(&self, version: Version) {
        *self.version.write().unwrap_or_else(std::sync::PoisonError::into_inner) = version;
    }

    /// What the engine said of itself last.
    pub fn version(&self) -> Version {
        self.version.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether the engine answered when it was last asked.
    pub fn engine_answers(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// The cursor after a change.
    pub fn cursor(&self, seq: u64) -> String {
        format!("{}-{seq}", self.epoch)
    }

    /// Reads a cursor; `None` when it leads nowhere any more.
    pub fn read_cursor(&self, cursor: &str) -> Result<Option<u64>> {
        let parts =
            cursor.split_once('-').and_then(|(epoch, seq)| Some((epoch, seq.parse().ok()?)));
        let Some((epoch, seq)) = parts else {
            return Err(Error::field(
                "cursor",
                format!("\"{cursor}\" is no cursor; leave it out to begin anew"),
            ));
        };
        Ok((epoch == self.epoch && seq > 0).then_some(seq))
    }
}

impl App {
    /// Asks the engine whether it answers, and remembers it.
    pub async fn probe_engine(&self) -> bool {
        let answers = self.engine.ping().await.is_ok();
        self.node.answers.store(answers, Ordering::Relaxed);
        answers
    }

    /// The address at which containers reach each other's published ports.
    pub async fn host(&self) -> Result<String> {
        if let Some(host) = self.engine.remote_host() {
            return Ok(host.to_owned());
        }
        for network in [self.settings.network.as_str(), "bridge"] {
            match self.engine.gateway(network).await? {
                Some(gateway) if !gateway.is_empty() => return Ok(gateway),
                _ => {}
            }
        }
        Ok("127.0.0.1".to_owned())
    }
}
