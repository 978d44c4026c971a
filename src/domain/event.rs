//! Events: what the service did and saw, as a closed set of kinds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::container::Container;

mod kind;

pub use kind::EventKind;

/// Longest text of a detail, in bytes, and most items of a list.
const LONGEST_TEXT: usize = 4096;
const LONGEST_LIST: usize = 64;

/// One thing that was done or seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub at: Timestamp,
    /// To whom.
    pub subject: Subject,
    /// What.
    pub what: What,
}

/// What an event is about. A text is empty where it does not apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The container's name.
    pub name: String,
    /// Its further names.
    pub aliases: Vec<String>,
    /// Its engine id.
    pub container_id: String,
    /// The caller's hash, else the computed one.
    pub hash: String,
    /// The computed hash.
    pub spec_hash: String,
    /// Image, as it was asked for.
    pub image: String,
}

/// What happened, with what is to be known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A container was made and started.
    Created,
    /// A container took another's place, for these fields.
    Replaced {
        /// JSON names of the fields that differed.
        fields: Vec<String>,
        /// Id of the container before it.
        #[serde(default)]
        predecessor: String,
    },
    /// A container that did not run was started, by a run or on the engine.
    Started,
    /// A container was stopped because a caller asked for it, or on the engine.
    Stopped,
    /// A container is gone.
    Removed {
        /// Because a caller of this service asked for it.
        by_service: bool,
    },
    /// A container ended, whoever ended it.
    Died {
        /// Exit code, where it is known.
        exit_code: Option<i32>,
        /// For want of memory.
        oom_killed: bool,
    },
    /// A container was started again by its restart policy.
    Restarted {
        /// Number of the try, from 1.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// The next try to start it again waits.
    BackingOff {
        /// Number of the next try.
        attempt: u32,
        /// When it will be.
        next_try: Timestamp,
        /// Why.
        reason: String,
    },
    /// It is not started again any more.
    GaveUp {
        /// Why.
        reason: String,
        /// Exit code of the last run, where it is known.
        exit_code: Option<i32>,
        /// The last run ended for want of memory.
        oom_killed: bool,
        /// The last lines that it wrote.
        last_lines: Vec<String>,
    },
    /// Its health check holds again, or for the first time.
    Healthy,
    /// Its health check failed too often.
    Unhealthy {
        /// What the last check said.
        output: String,
    },
    /// An image was fetched.
    Pulled {
        /// Content id.
        image_id: String,
        /// Digest in its registry.
        digest: String,
    },
    /// An image was built.
    Built {
        /// Content id.
        image_id: String,
    },
    /// An image could not be built.
    BuildFailed {
        /// Why.
        error: String,
    },
    /// A keep was made.
    KeepCreated {
        /// Path in the container.
        path: String,
        /// Its volume.
        volume: String,
    },
    /// A keep was removed with its data.
    KeepRemoved {
        /// Path in the container.
        path: String,
        /// Its volume.
        volume: String,
    },
    /// The data of a keep were replaced by those of an archive.
    KeepImported {
        /// Path in the container.
        path: String,
        /// Its volume.
        volume: String,
        /// Bytes of the archive.
        bytes: u64,
    },
    /// A file was fetched.
    AssetFetched {
        /// Where from.
        url: String,
        /// What it is.
        sha256: String,
        /// How large it is.
        bytes: u64,
    },
    /// A fetched file was removed.
    AssetRemoved {
        /// Where it had come from.
        url: String,
        /// How large it was.
        bytes: u64,
    },
    /// A container uses more memory of a GPU than it booked.
    GpuOverrun {
        /// UUID of the GPU or the instance.
        device: String,
        /// MiB that it booked.
        booked_mb: u64,
        /// MiB that it uses.
        used_mb: u64,
        /// What is done about it, in a word.
        action: String,
    },
    /// A container that runs cannot use a GPU any more that it was given.
    GpuLost {
        /// UUID of the GPU or the instance.
        device: String,
        /// Why.
        reason: String,
    },
    /// A GPU is given to nobody for a while.
    GpuDrained {
        /// Its UUID.
        device: String,
        /// The XID that told that it is broken.
        xid: u64,
        /// Why.
        reason: String,
    },
    /// A GPU is given out again.
    GpuReturned {
        /// Its UUID.
        device: String,
    },
    /// A container runs another image than was asked for, as the driver runs that one.
    CudaChosen {
        /// The image that was asked for.
        asked: String,
        /// The image that was taken.
        image: String,
        /// Why.
        reason: String,
    },
}

impl What {
    /// What is to be known of it, in few words; empty when the kind says it all.
    pub fn detail(&self) -> String {
        let end = |exit_code: &Option<i32>, oom_killed: &bool| {
            let code =
                exit_code.map_or("exit code unknown".to_owned(), |c| format!("exit code {c}"));
            format!("{code}{}", if *oom_killed { ", out of memory" } else { "" })
        };
        match self {
            Self::Created | Self::Started | Self::Stopped | Self::Healthy => String::new(),
            Self::Replaced { fields, .. } => fields.join(", "),
            Self::Removed { by_service: true } => String::new(),
            Self::Removed { by_service: false } => "not by this service".to_owned(),
            Self::Died { exit_code, oom_killed } => end(exit_code, oom_killed),
            Self::Restarted { attempt, reason } => format!("try {attempt}: {reason}"),
            Self::BackingOff { attempt, next_try, reason } => {
                format!("try {attempt} at {next_try:.0}: {reason}")
            }
            Self::GaveUp { reason, exit_code, oom_killed, .. } => {
                format!("{reason}; {}", end(exit_code, oom_killed))
            }
            Self::Unhealthy { output } => output.clone(),
            Self::Pulled { image_id, .. } | Self::Built { image_id } => image_id.clone(),
            Self::BuildFailed { error } => error.clone(),
            Self::KeepCreated { path, .. } | Self::KeepRemoved { path, .. } => path.clone(),
            Self::KeepImported { path, bytes, .. } => format!("{path}, {bytes} bytes"),
            Self::AssetFetched { url, bytes, .. } | Self::AssetRemoved { url, bytes } => {
                format!("{url}, {bytes} bytes")
            }
            Self::GpuOverrun { device, booked_mb, used_mb, action } => {
                format!("{used_mb} MiB in use of {booked_mb} MiB booked on {device}: {action}")
            }
            Self::GpuLost { device, reason } | Self::GpuDrained { device, reason, .. } => {
                format!("{device}: {reason}")
            }
            Self::GpuReturned { device } => device.clone(),
            Self::CudaChosen { asked, image, reason } => format!("{image} for {asked}: {reason}"),
        }
    }

    /// The same with all that others wrote cut to a bounded size.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        match &mut self {
            Self::Restarted { reason: text, .. }
            | Self::BackingOff { reason: text, .. }
            | Self::Unhealthy { output: text }
            | Self::BuildFailed { error: text }
            | Self::AssetFetched { url: text, .. }
            | Self::AssetRemoved { url: text, .. }
            | Self::GpuLost { reason: text, .. }
            | Self::GpuDrained { reason: text, .. }
            | Self::CudaChosen { reason: text, .. } => clip(text, LONGEST_TEXT),
            Self::Replaced { fields, .. } => fields.truncate(LONGEST_LIST),
            Self::GaveUp { reason, last_lines, .. } => {
                clip(reason, LONGEST_TEXT);
                last_lines.truncate(LONGEST_LIST);
                last_lines.iter_mut().for_each(|line| clip(line, LONGEST_TEXT / 8));
            }
            // The rest is ours, or bounded where it comes from.
            Self::Created
            | Self::Started
            | Self::Stopped
            | Self::Removed { .. }
            | Self::Died { .. }
            | Self::Healthy
            | Self::Pulled { .. }
            | Self::Built { .. }
            | Self::KeepCreated { .. }
            | Self::KeepRemoved { .. }
            | Self::KeepImported { .. }
            | Self::GpuOverrun { .. }
            | Self::GpuReturned { .. } => {}
        }
        self
    }
}

impl Event {
    /// What happened in one line, without to whom.
    pub fn message(&self) -> String {
        let word = self.what.kind().word().replace('_', " ");
        match self.what.detail().as_str() {
            "" => word,
            detail => format!("{word}: {detail}"),
        }
    }
}

impl Subject {
    /// A container.
    pub fn container(container: &Container) -> Self {
        Self {
            name: container.plain_name().to_owned(),
            aliases: container.names.get(1..).unwrap_or_default().to_vec(),
            container_id: container.id.clone(),
            hash: container.hash().to_owned(),
            spec_hash: container.spec_hash().to_owned(),
            image: container.image.clone(),
        }
    }

    /// The name of a container, which need not be there.
    pub fn name(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// An image.
    pub fn image(image: &str) -> Self {
        Self { image: image.to_owned(), ..Self::default() }
    }
}

fn clip(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests;
