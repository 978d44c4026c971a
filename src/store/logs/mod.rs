//! Stored logs: one thread writes, a few connections read.
//!
//! Each commit holds the lines of one or more containers together with how far
//! their logs were read, so a kill at any instant loses nothing and repeats
//! nothing. Entries are numbered over the whole node as they are committed; that
//! number is the cursor. Small commits lie in the database as they are and are
//! packed into larger, compressed segments later.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{connect, migrations, unusable};
use crate::domain::{
    Error, Kind, Result,
    logs::{Batch, Checkpoint, Selection},
};

mod recent;
mod retention;
mod scan;
mod schema;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use recent::Committed;
pub use retention::{Limits, Retired};

pub use scan::{Ask, Found, Line};

use recent::Recent;
use retention::Book;
use writer::{Job, Writer};

/// Appends that may wait; collectors beyond that wait for room.
const QUEUE: usize = 64;
/// Questions that are answered at once.
const READERS: usize = 4;
/// From so many bytes on, a batch is packed before it is handed to the writer.
const PACK: usize = 128 << 10;

/// What a container is known by, also when it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Engine id.
    pub container_id: String,
    /// Name and aliases.
    pub names: Vec<String>,
    /// The caller's hash and the computed one.
    pub hashes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Image as it was asked for.
    #[serde(default)]
    pub image: String,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub created_at: String,
}

/// One container of which lines are, or were, collected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// Number in the store.
    pub id: i64,
    /// What it is known by.
    pub about: About,
    /// How far its log was read.
    pub checkpoint: Option<Checkpoint>,
    /// Its log was read to the end of its last run.
    pub complete: bool,
    /// The container is gone.
    pub removed: bool,
    /// Number of its next entry, counted from 0 within the container.
    pub next_position: u64,
    /// First and last entry that are stored; (0, 0) when there is none.
    pub seqs: (u64, u64),
    /// Last entry that retention took; 0 when it took none.
    pub retired_seq: u64,
    /// Entries that are stored.
    pub lines: u64,
    /// Bytes of these.
    pub raw_bytes: u64,
    /// Bytes that they take.
    pub stored_bytes: u64,
}

impl Source {
    /// True when the selection asks for it.
    pub fn is_selected(&self, selection: &Selection) -> bool {
        let About { container_id, names, hashes, labels, .. } = &self.about;
        selection.fits(container_id, names, hashes, labels)
    }
}

/// The log database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStore {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Tells the cursors of this database from those of another.
    store: u64,
    sources: RwLock<BTreeMap<i64, Arc<Source>>>,
    recent: Mutex<Recent>,
    retired: Mutex<Book>,
    /// Number of the last entry.
    latest: watch::Sender<u64>,
    /// Why nothing can be written.
    trouble: RwLock<Option<Error>>,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Shared {
    fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl LogStore {
    /// Opens or makes the database file, readable by its owner only.
    ///
    /// FAILED_PRECONDITION when the file is damaged, not writable, or from a newer
    /// version; it is never replaced by an empty one.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            let db = connect(path)?;
            // With NORMAL a loss of power may take the last commits, lines and
            // checkpoints together; they are then collected again.
            db.pragma_update(None, "synchronous", "NORMAL")?;
            db.pragma_update(None, "wal_autocheckpoint", 4000)?;
            db.pragma_update(None, "journal_size_limit", 64 << 20)?;
            Ok(db)
        };
        let mut db = open().map_err(|error| unusable(path, &error))?;
        migrations::run(&mut db, path, schema::LOGS)?;
        let (mut writer, shared) =
            Writer::load(db, path).map_err(|error| unusable(path, &error))?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || writer.work(&mut queue))
            .map_err(|error| {
                Error::internal("the log store's thread cannot start").because(error)
            })?;
        Ok(Self { jobs, shared })
    }

    /// Tells the cursors of this database from those of another.
    pub fn id(&self) -> u64 {
        self.shared.store
    }

    /// Number of the last entry that was committed.
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.shared.latest.subscribe()
    }

    /// All containers of which anything is known.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        let sources = self.shared.sources.read().unwrap_or_else(PoisonError::into_inner);
        sources.values().cloned().collect()
    }

    /// One of them.
    pub fn source(&self, id: i64) -> Option<Arc<Source>> {
        let sources = self.shared.sources.read().unwrap_or_else(PoisonError::into_inner);
        sources.get(&id).cloned()
    }

    /// Why nothing can be written at the moment.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What retention took since the start.
    pub fn retired(&self) -> Retired {
        lock(&self.shared.retired).sum
    }

    /// How many entries of some containers retention took between two places, before
    /// an answer that has this mark was given; `None` when that is not known any more.
    pub fn missed(&self, sources: &[i64], (after, through): (u64, u64), mark: u64) -> Option<u64> {
        lock(&self.shared.retired).between(sources, after, through, mark)
    }

    /// Makes sure that a container is known under these names.
    pub async fn know(&self, about: About) -> Result<Arc<Source>> {
        let known = self.write(move |writer| writer.know(about)).await;
        // Before its first line is stored, this tells whether one can be.
        self.shared.set_trouble(known.as_ref().err().cloned());
        known
    }

    /// Notes that a log was read to the end of a run, or that more may come; and
    /// that a container is gone.
    pub async fn settle(&self, source: i64, complete: bool, removed: bool) -> Result<()> {
        self.write(move |writer| writer.settle(source, complete, removed)).await
    }

    /// Commits entries together with how far the log was read, and answers when
    /// they can be read back.
    pub async fn append(
        &self,
        source: i64,
        mut batch: Batch,
        checkpoint: Option<Checkpoint>,
    ) -> Result<()> {
        batch.date_gaps(i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0));
        let large = batch.text().len() >= PACK;
        let pack = move || {
            let columns = match large {
                true => segment::Columns::packed(&batch).ok(),
                false => Some(segment::Columns::plain(&batch)),
            };
            (batch, columns)
        };
        let (batch, columns) = match large {
            true => tokio::task::spawn_blocking(pack).await.map_err(|_| gone())?,
            false => pack(),
        };
        let columns = columns.ok_or_else(|| Error::internal("a batch of logs cannot be packed"))?;
        let (answer, wait) = oneshot::channel();
        let append = writer::Append { source, batch, columns, checkpoint, answer };
        self.jobs.send(Job::Append(Box::new(append))).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// Takes away what is too old or too much.
    pub async fn retain(&self, limits: Limits, now: i64) -> Result<()> {
        self.write(move |writer| writer.retain(&limits, now)).await
    }

    /// Answers a question about lines.
    pub async fn ask(&self, ask: Ask) -> Result<Found> {
        let sources: Vec<_> =
            ask.sources.iter().filter_map(|id| self.source(*id)).map(|s| (s.id, s.seqs)).collect();
        self.read(move |db| scan::scan(db, &sources, &ask)).await
    }

    /// What was committed after this number, in order, when it is still in memory.
    pub fn recent(&self, after: u64, most: usize) -> Option<Vec<Arc<Committed>>> {
        lock(&self.shared.recent).after(after, most)
    }

    /// The last number, and of each container the number of its next entry, of one
    /// instant.
    pub fn positions(&self) -> (u64, BTreeMap<i64, u64>) {
        // The writer changes both under this lock.
        let sources = self.shared.sources.read().unwrap_or_else(PoisonError::into_inner);
        let positions = sources.values().map(|source| (source.id, source.next_position)).collect();
        (*self.shared.latest.borrow(), positions)
    }

    /// Within a container, the number of the first entry after a place that is
    /// there; and the mark of this answer.
    pub async fn position_after(&self, source: i64, seq: u64) -> Result<(Option<u64>, u64)> {
        self.read(move |db| scan::position_after(db, source, seq)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let job = Job::Run(Box::new(move |writer| {
            // Nobody waits any more when the caller has left.
            let _ = answer.send(work(writer));
        }));
        self.jobs.send(job).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?.map_err(|error| failed(&error, &self.shared.path))
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.shared.permits.clone().acquire_owned().await.map_err(|_| gone())?;
        let shared = self.shared.clone();
        let answer = tokio::task::spawn_blocking(move || {
            // Held until the work has ended, also when the caller has left.
            let _permit = permit;
            let idle = lock(&shared.idle).pop();
            let db = match idle {
                Some(db) => db,
                None => reader(&shared.path)?,
            };
            let answer = work(&db);
            // A connection that failed may be in any state; a new one is not.
            if answer.is_ok() {
                lock(&shared.idle).push(db);
            }
            answer
        });
        answer.await.map_err(|_| gone())?.map_err(|error| failed(&error, &self.shared.path))
    }
}

fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    Ok(db)
}

fn failed(error: &rusqlite::Error, path: &Path) -> Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => Error::new(
            Kind::Internal,
            "LOG_STORE_DAMAGED",
            format!(
                "the log database {} is damaged: {error}; ask for other containers or times, \
                 or stop the service and restore the file, or move it away to begin anew",
                path.display()
            ),
        ),
        _ => super::failed(error),
    }
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "STORE_FAILED", "the log store has ended")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
