//! How many containers are attended to at once, as far as that loads the engine.
//!
//! Who waits for somebody else, as for a stop that takes its time or for the lock of a
//! name, needs no place, and who has been at it for long loses it: otherwise a few that
//! hang would hold up all others of the node.

use std::{
    future::{Future, ready},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places.
const PLACES: usize = 8;
/// How long one is held at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// All places.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

/// One of them, until it is left.
#[derive(Debug)]
pub(super) struct Place(Mutex<Option<OwnedSemaphorePermit>>);

impl Default for Places {
    fn default() -> Self {
        Self(Semaphore::new(PLACES).into())
    }
}

impl Places {
    /// Waits for one; who came first gets it first.
    pub(super) async fn take(&self) -> Place {
        // It is never closed.
        Place(Mutex::new(self.0.clone().acquire_owned().await.ok()))
    }
}

impl Place {
    /// Does some work, in the end without the place when it takes long.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PATIENCE) => self.leave(),
        }
        work.await
    }

    /// Waits for something, without the place when that is not there at once.
    pub(super) async fn waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        tokio::select! {
            biased;
            done = &mut wait => return done,
            () = ready(()) => self.leave(),
        }
        wait.await
    }

    fn leave(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// One place is free, if any is.
    fn is_free(places: &Places) -> bool {
        places.take().now_or_never().is_some()
    }

    #[tokio::test]
    async fn work_that_hangs_holds_its_place_for_a_while_and_waits_hold_none() {
        let places = Places::default();
        let mut held = Vec::new();
        for _ in 0..PLACES {
            held.push(places.take().await);
        }
        assert!(!is_free(&places));
        // What is there at once costs no place.
        assert_eq!(held[0].waiting(ready(7)).await, 7);
        assert!(!is_free(&places));
        let wait = timeout(Duration::from_millis(1), held[0].waiting(pending::<()>()));
        assert!(wait.await.is_err() && is_free(&places));

        let places = Places::default();
        let works = async {
            let all = (0..PLACES).map(|_| async {
                places.take().await.during(pending::<()>()).await;
            });
            futures_util::future::join_all(all).await;
        };
        let begin = Instant::now();
        let mut works = pin!(works);
        assert!(works.as_mut().now_or_never().is_none() && !is_free(&places));
        tokio::select! {
            _ = works => unreachable!("it hangs"),
            _ = places.take() => assert!(begin.elapsed() >= PATIENCE - Duration::from_millis(10)),
        }
    }
}
