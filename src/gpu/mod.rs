//! The only place with nvml-wrapper: the GPUs of the node in the words of the domain.
//!
//! NVML blocks, and a broken driver can make it block for ever. One thread owns the
//! library and looks when it is asked; callers wait for it no longer than a limit,
//! and share what was seen a moment ago.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::domain::{
    Error, Result,
    gpu::{
        Inventory,
        xid::{Drains, Xid},
    },
};

mod events;
mod library;
mod look;

/// How long a look is good for. Shorter than the shortest interval of a watch.
const FRESH: Duration = Duration::from_millis(200);
/// How long a look may take before the driver counts as hung.
const LIMIT: Duration = Duration::from_secs(5);

type Look = oneshot::Sender<Inventory>;

/// The GPUs of this node, behind NVIDIA's management library.
#[derive(Debug)]
pub struct Gpus {
    library: String,
    looks: mpsc::Sender<Look>,
    /// Held while the thread looks, so that callers share its answer.
    turn: tokio::sync::Mutex<()>,
    seen: Mutex<Seen>,
    drains: Drained,
}

/// GPUs that are given to nobody, and how long one must be well to return.
#[derive(Debug, Clone)]
struct Drained {
    all: Arc<Mutex<Drains>>,
    quiet: Duration,
}

impl Drained {
    fn lock(&self) -> std::sync::MutexGuard<'_, Drains> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a GPU is drained now.
    fn why(&self, uuid: &str, lost: bool) -> Option<String> {
        let mut drains = self.lock();
        drains.settle(uuid, lost, Timestamp::now(), self.quiet);
        let xid = drains.of(uuid)?;
        let what = xid.fatal().unwrap_or("it is broken");
        let quiet = self.quiet.as_secs();
        Some(format!(
            "XID {}: {what}; it returns when it has been well for {quiet} s, see the kernel's log \
             and reset it when it does not",
            xid.code
        ))
    }
}

#[derive(Debug)]
struct Seen {
    at: Option<Instant>,
    inventory: Arc<Inventory>,
}

impl Gpus {
    /// With the library of this name or path; nothing is loaded yet. A GPU that told that
    /// it is broken is drained until it has been well for so long.
    pub fn new(library: &str, quiet: Duration) -> Result<Self> {
        let drains = Drained { all: Arc::default(), quiet };
        let drains_of = drains.clone();
        // One look under way, and one that waits behind it when it hangs.
        let (looks, mut asked) = mpsc::channel::<Look>(1);
        let path = library.to_owned();
        thread::Builder::new()
            .name("nvml".to_owned())
            .spawn(move || {
                let mut library = library::Library::new(path);
                let mut next = asked.blocking_recv();
                // The driver may be installed, or exchanged, between two looks.
                while let Some(question) = next {
                    next = match library.load() {
                        Ok(nvml) => {
                            look::serve(&nvml, &mut library, &drains_of, question, &mut asked)
                        }
                        Err(why) => {
                            let _ = question.send(Inventory::none(why));
                            asked.blocking_recv()
                        }
                    };
                }
            })
            .map_err(|error| {
                Error::internal("the thread that watches GPUs cannot start").because(error)
            })?;
        let inventory = Arc::new(Inventory::none("it was not looked for yet"));
        Ok(Self {
            library: library.to_owned(),
            looks,
            turn: tokio::sync::Mutex::default(),
            seen: Mutex::new(Seen { at: None, inventory }),
            drains,
        })
    }

    /// Takes over what was known before the service began.
    pub fn remember(&self, uuid: &str, xid: Xid) {
        self.drains.lock().note(uuid, xid);
    }

    /// Name or path of the library.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// What was seen last, without a new look.
    pub fn last(&self) -> Arc<Inventory> {
        self.seen().inventory.clone()
    }

    /// What is there now, or was a moment ago. Never fails: a node without a GPU,
    /// or with a driver that hangs, says so.
    pub async fn look(&self) -> Arc<Inventory> {
        let _turn = self.turn.lock().await;
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let (answer, wait) = oneshot::channel();
        // No room means that two looks hang already.
        let seen = match self.looks.try_send(answer) {
            Ok(()) => tokio::time::timeout(LIMIT, wait).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        let inventory = Arc::new(seen.unwrap_or_else(|| {
            Inventory::none(format!(
                "the NVIDIA driver did not answer within {} s; see the kernel's log, and restart \
                 the machine when it hangs",
                LIMIT.as_secs()
            ))
        }));
        *self.seen() = Seen { at: Some(Instant::now()), inventory: inventory.clone() };
        inventory
    }

    fn fresh(&self) -> Option<Arc<Inventory>> {
        let seen = self.seen();
        seen.at.is_some_and(|at| at.elapsed() < FRESH).then(|| seen.inventory.clone())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_without_the_library_has_no_gpu_and_says_why() {
        let gpus = Gpus::new("libno-such-thing-ml.so.1", LIMIT).unwrap();
        let seen = gpus.look().await;
        let why = seen.missing.clone().unwrap_or_default();
        assert!(why.contains("libno-such-thing-ml.so.1") && why.contains("driver"), "{why}");
        assert!(seen.devices.is_empty());
        assert!(Arc::ptr_eq(&seen, &gpus.look().await), "a look is shared for a moment");
        assert!(Arc::ptr_eq(&seen, &gpus.last()));
    }
}
