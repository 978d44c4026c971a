//! The kinds of events, without their details, and the words for them.

use super::What;

/// The kind of an event, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the variant of What of the same name")]
pub enum EventKind {
    Created,
    Replaced,
    Started,
    Stopped,
    Removed,
    Died,
    Restarted,
    BackingOff,
    GaveUp,
    Healthy,
    Unhealthy,
    Pulled,
    Built,
    BuildFailed,
    KeepCreated,
    KeepRemoved,
    KeepImported,
    AssetFetched,
    AssetRemoved,
    GpuOverrun,
    GpuLost,
    GpuDrained,
    GpuReturned,
    CudaChosen,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::Created,
        Self::Replaced,
        Self::Started,
        Self::Stopped,
        Self::Removed,
        Self::Died,
        Self::Restarted,
        Self::BackingOff,
        Self::GaveUp,
        Self::Healthy,
        Self::Unhealthy,
        Self::Pulled,
        Self::Built,
        Self::BuildFailed,
        Self::KeepCreated,
        Self::KeepRemoved,
        Self::KeepImported,
        Self::AssetFetched,
        Self::AssetRemoved,
        Self::GpuOverrun,
        Self::GpuLost,
        Self::GpuDrained,
        Self::GpuReturned,
        Self::CudaChosen,
    ];

    /// What this service did with a container, which its history tells.
    pub const DEEDS: [Self; 7] = [
        Self::Created,
        Self::Replaced,
        Self::Started,
        Self::Stopped,
        Self::Removed,
        Self::Restarted,
        Self::GaveUp,
    ];

    /// Its word, which is also how the store knows it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Removed => "removed",
            Self::Died => "died",
            Self::Restarted => "restarted",
            Self::BackingOff => "backing_off",
            Self::GaveUp => "gave_up",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Pulled => "pulled",
            Self::Built => "built",
            Self::BuildFailed => "build_failed",
            Self::KeepCreated => "keep_created",
            Self::KeepRemoved => "keep_removed",
            Self::KeepImported => "keep_imported",
            Self::AssetFetched => "asset_fetched",
            Self::AssetRemoved => "asset_removed",
            Self::GpuOverrun => "gpu_overrun",
            Self::GpuLost => "gpu_lost",
            Self::GpuDrained => "gpu_drained",
            Self::GpuReturned => "gpu_returned",
            Self::CudaChosen => "cuda_chosen",
        }
    }
}

impl What {
    /// The kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Created => EventKind::Created,
            Self::Replaced { .. } => EventKind::Replaced,
            Self::Started => EventKind::Started,
            Self::Stopped => EventKind::Stopped,
            Self::Removed { .. } => EventKind::Removed,
            Self::Died { .. } => EventKind::Died,
            Self::Restarted { .. } => EventKind::Restarted,
            Self::BackingOff { .. } => EventKind::BackingOff,
            Self::GaveUp { .. } => EventKind::GaveUp,
            Self::Healthy => EventKind::Healthy,
            Self::Unhealthy { .. } => EventKind::Unhealthy,
            Self::Pulled { .. } => EventKind::Pulled,
            Self::Built { .. } => EventKind::Built,
            Self::BuildFailed { .. } => EventKind::BuildFailed,
            Self::KeepCreated { .. } => EventKind::KeepCreated,
            Self::KeepRemoved { .. } => EventKind::KeepRemoved,
            Self::KeepImported { .. } => EventKind::KeepImported,
            Self::AssetFetched { .. } => EventKind::AssetFetched,
            Self::AssetRemoved { .. } => EventKind::AssetRemoved,
            Self::GpuOverrun { .. } => EventKind::GpuOverrun,
            Self::GpuLost { .. } => EventKind::GpuLost,
            Self::GpuDrained { .. } => EventKind::GpuDrained,
            Self::GpuReturned { .. } => EventKind::GpuReturned,
            Self::CudaChosen { .. } => EventKind::CudaChosen,
        }
    }
}
