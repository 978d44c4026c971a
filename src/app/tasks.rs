//! Background work with an owner: it is stopped, awaited, and its panics seen.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::domain::{Error, Result};

/// How long work that ended in a panic rests before it begins anew.
const REST: Duration = Duration::from_secs(1);

/// Owns every task of the service.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs work that ends when the service stops.
    #[expect(clippy::disallowed_methods, reason = "the one owner of tasks")]
    pub fn background(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = tokio::spawn(self.tracker.track_future(async move {
            stop.run_until_cancelled(work).await;
        }));
        // A second task sees how the first ends.
        tokio::spawn(self.tracker.track_future(async move {
            if let Err(error) = task.await {
                tracing::error!(task = name, %error, "a background task ended in a panic");
            }
        }));
    }

    /// Runs work without which the service would answer what is not true any more:
    /// when it ends in a panic, it begins anew.
    pub fn vital<T, F>(
        &self,
        name: &'static str,
        with: &Arc<T>,
        work: impl Fn(Arc<T>) -> F + Send + 'static,
    ) where
        T: Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let with = with.clone();
        self.background(name, async move {
            // What it knew is gone with it, and it shares nothing that a panic leaves
            // half done: locks are used on after one.
            while AssertUnwindSafe(work(with.clone())).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task ended in a panic and begins anew");
                tokio::time::sleep(REST).await;
            }
        });
    }

    /// Runs work to its end even when the caller leaves.
    #[expect(clippy::disallowed_methods, reason = "the one owner of tasks")]
    pub async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match tokio::spawn(self.tracker.track_future(work)).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a use case ended in a panic");
                Err(Error::internal("a defect of container-svc ended this call; see its log"))
            }
        }
    }

    /// Runs work that sees the stop itself and is given time to end.
    #[expect(clippy::disallowed_methods, reason = "the one owner of tasks")]
    pub fn draining(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(work));
    }

    /// Resolves when the service stops.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Tells background work to end.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Waits until all work has ended; call after `stop`.
    pub async fn ended(&self) {
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn vital_work_begins_anew_after_a_panic_and_not_after_its_end() {
        let (tasks, begun) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        tasks.vital("test", &begun, |begun| async move {
            assert!(begun.fetch_add(1, Ordering::Relaxed) == 2, "not yet");
        });
        // All work has ended when the tracker is closed and waited for; nothing stops it.
        tasks.tracker.close();
        tasks.ended().await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
