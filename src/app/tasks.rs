//! Background work with an owner: it is stopped, awaited, and its panics seen.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::domain::{Error, Result};

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
