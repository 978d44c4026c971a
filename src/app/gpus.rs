//! GPUs: what is there now, again and again, and for the figures.

mod book;
mod image;
mod queue;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use jiff::Timestamp;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::App;
use crate::domain::{Error, Result, gpu::Inventory};

pub use image::CudaChoice;

pub use queue::Standing;

pub(super) use book::{Booked, GPUS_TAKEN, Reserved};
pub(super) use image::Tags;

/// How often a watch looks where the request says nothing, and the range.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(3600);
/// How often the service looks for itself: where there are GPUs, and where there are none.
const SAMPLE: Duration = Duration::from_secs(5);
const SEARCH: Duration = Duration::from_secs(30);

/// Looks again and again, so that figures are true and changes are told.
pub async fn sample(app: Arc<App>) {
    let mut before = None;
    loop {
        let seen = app.gpus.look().await;
        tell(before.as_deref(), &seen);
        let pause = if seen.devices.is_empty() { SEARCH } else { SAMPLE };
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
