//! Tells a reader that its log may have grown, by inotify, so that hundreds of
//! quiet logs cost nothing and a new line is seen at once.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::Notify;

/// Bytes of events that are read at once.
const BUFFER: usize = 64 << 10;
/// Events that are taken together, and how long later ones may gather.
const TOGETHER: usize = 4096;
const PAUSE: Duration = Duration::from_millis(3);

type Table = Arc<Mutex<HashMap<WatchDescriptor, Arc<Notify>>>>;

/// All directories that are watched.
#[derive(Debug, Clone)]
pub struct Wakes {
    watches: Watches,
    table: Table,
}

/// One watched directory, until it is dropped.
#[derive(Debug)]
pub struct Wake {
    notify: Arc<Notify>,
    descriptor: WatchDescriptor,
    wakes: Wakes,
}

impl Wakes {
    /// The watcher, and the work that passes its events on.
    pub fn new() -> io::Result<(Self, impl Future<Output = ()> + Send)> {
        let inotify = Inotify::init()?;
        let wakes = Self { watches: inotify.watches(), table: Table::default() };
        let mut events = inotify.into_event_stream(vec![0; BUFFER])?;
        let table = wakes.table.clone();
        let work = async move {
            while let Some(first) = events.next().await {
                let mut next = Some(first);
                let mut count = 0;
                while let Some(event) = next.take() {
                    match event {
                        Ok(event) if event.mask.contains(EventMask::Q_OVERFLOW) => {
                            lock(&table).values().for_each(|notify| notify.notify_one());
                        }
                        Ok(event) => {
                            if let Some(notify) = lock(&table).get(&event.wd) {
                                notify.notify_one();
                            }
                        }
                        Err(error) => tracing::warn!(%error, "inotify fails; logs are polled"),
                    }
                    count += 1;
                    if count < TOGETHER {
                        next = events.next().now_or_never().flatten();
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        Ok((wakes, work))
    }

    /// Watches a directory.
    pub fn watch(&self, directory: &Path) -> io::Result<Wake> {
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::ONLYDIR;
        let notify = Arc::new(Notify::new());
        // Held meanwhile, so that the first event already finds its entry.
        let mut table = lock(&self.table);
        let descriptor = self.watches.clone().add(directory, mask)?;
        table.insert(descriptor.clone(), notify.clone());
        drop(table);
        Ok(Wake { notify, descriptor, wakes: self.clone() })
    }
}

impl Wake {
    /// Resolves when something happened since the last time.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        lock(&self.wakes.table).remove(&self.descriptor);
        // It fails when the directory, and with it the watch, is gone already.
        let _ = self.wakes.watches.remove(self.descriptor.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
