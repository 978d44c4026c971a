//! GPUs: what is there now, again and again, and for the figures.

mod book;
mod image;
mod monitor;
mod queue;

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use jiff::Timestamp;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::App;
use crate::domain::{
    Error, Result,
    gpu::{Inventory, overrun::OnOverrun},
};

pub use image::CudaChoice;

pub use monitor::check;
pub use queue::Standing;

pub(super) use book::{Booked, Reserved, waits_for};
pub(super) use image::Tags;

/// How often a watch looks where the request says nothing, and the range.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(3600);
/// How often the service looks for itself where there are no GPUs, and none are had.
const SEARCH: Duration = Duration::from_secs(30);

/// How containers with GPUs are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSettings {
    /// How often GPUs are looked at.
    pub interval: Duration,
    /// Containers are asked whether they still see their GPUs.
    pub check: bool,
    /// What is done about an overrun where the request says nothing.
    pub on_overrun: OnOverrun,
    /// How long a GPU must be well to be given out again after a fatal XID.
    pub drain_time: Duration,
    /// Where the control daemon of MPS has its pipes, on the engine's host.
    pub mps_directory: PathBuf,
}

/// Looks again and again, so that figures are true, changes are told, and containers
/// that use too much or lost their GPUs are attended to.
pub async fn sample(app: Arc<App>) {
    let mut watch = monitor::Watch::begin(&app).await;
    let mut before = None;
    loop {
        let seen = app.gpus.look().await;
        // What of bookings is enforced follows from it.
        app.mps().await;
        tell(before.as_deref(), &seen);
        watch.look(&app, &seen).await;
        // A driver that went away under its containers is soon looked for again.
        let none = seen.devices.is_empty() && app.gpu_bookings().is_empty();
        let pause = if none { SEARCH } else { app.settings.gpus.interval };
        before = Some(seen);
        tokio::time::sleep(pause).await;
    }
}

/// Logs what an operator wants to know, once.
fn tell(before: Option<&Inventory>, now: &Inventory) {
    match (before.map(|before| before.missing.as_ref()), &now.missing) {
        (None | Some(None), Some(why)) => tracing::info!(why, "no GPU on this node"),
        (None | Some(Some(_)), None) => {
            tracing::info!(driver = now.driver, count = now.devices.len(), "GPUs of this node");
        }
        (Some(_), _) => {}
    }
    for device in &now.devices {
        let was = before.and_then(|it| it.devices.iter().find(|was| was.index == device.index));
        if let (Some(why), None) = (&device.lost, was.and_then(|was| was.lost.as_ref())) {
            tracing::error!(index = device.index, uuid = device.uuid, why, "a GPU is lost");
        }
    }
}

struct Watcher {
    app: Arc<App>,
    ticks: Interval,
}

impl App {
    /// A sample at once, and then one each interval. Nothing is looked at while the
    /// reader is not ready for it.
    pub fn watch_gpus(
        self: &Arc<Self>,
        every: Option<Duration>,
    ) -> Result<impl Stream<Item = (Timestamp, Arc<Inventory>)> + Send + use<>> {
        let every = every.unwrap_or(INTERVAL);
        if !INTERVALS.contains(&every) {
            let why = format!("{} ms is out of range; use 0.25s to 3600s", every.as_millis());
            return Err(Error::field("interval", why));
        }
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watcher = Watcher { app: self.clone(), ticks };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            tokio::select! {
                _ = watcher.ticks.tick() => {}
                () = watcher.app.tasks.stopped() => return None,
            }
            let seen = watcher.app.gpus.look().await;
            Some(((Timestamp::now(), seen), watcher))
        }))
    }
}
