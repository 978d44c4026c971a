//! The only place with rusqlite: what must outlive the process.
//!
//! One thread owns the connection and does one job after the other; callers
//! wait for its answer through a bounded queue. A second one only reads events,
//! so that no run waits for a long search.

use std::{path::Path, sync::Arc, thread};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use crate::domain::{Error, Kind, Result};

mod assets;
mod events;
mod files;
mod health;
mod intents;
mod keeps;
pub mod logs;
mod migrations;
mod records;
mod tokens;

pub use assets::StoredAsset;
pub use events::{EventPage, EventQuery, StoredEvent, Told, nanos};
pub use files::{AssetFiles, CacheFile};
pub use keeps::UsedKeep;
pub use records::Record;
pub use tokens::StoredToken;

/// Jobs that may wait; callers beyond that wait for room.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A SQLite database. Cheap to clone; closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
    events: Arc<events::State>,
    recorded: Arc<records::Recorded>,
}

impl Store {
    /// Opens or makes the database file, readable by its owner only.
    ///
    /// FAILED_PRECONDITION when the file is damaged, not writable, or from a
    /// newer version; it is never replaced by an empty one.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            let connection = connect(path)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            check(&connection)?;
            Ok(connection)
        };
        let mut connection = open().map_err(|error| unusable(path, &error))?;
        migrations::run(&mut connection, path, migrations::RECORDS)?;
        let recorded =
            records::Recorded::read(&connection).map_err(|error| unusable(path, &error))?;
        let state = events::State::read(&connection).map_err(|error| unusable(path, &error))?;
        let reader = reader(path).map_err(|error| unusable(path, &error))?;
        Ok(Self {
            jobs: worker("store", connection)?,
            reads: worker("store reader", reader)?,
            events: Arc::new(state),
            recorded: Arc::new(recorded),
        })
    }

    /// Shows that the store still writes.
    pub async fn probe(&self) -> Result<()> {
        self.run(|db| {
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', '')", [])
        })
        .await
        .map(drop)
    }

    /// Runs one job on the owner's thread.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        run_on(&self.jobs, job).await
    }

    /// Runs one job that only reads.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        run_on(&self.reads, job).await
    }
}

/// A thread that owns a connection and does the jobs that it is sent.
fn worker(name: &str, mut connection: Connection) -> Result<mpsc::Sender<Job>> {
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut connection);
            }
        })
        .map_err(|error| Error::internal("the store's thread cannot start").because(error))?;
    Ok(jobs)
}

async fn run_on<T: Send + 'static>(
    jobs: &mpsc::Sender<Job>,
    job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, wait) = oneshot::channel();
    let job: Job = Box::new(move |db| {
        // Nobody waits any more when the caller has left.
        let _ = answer.send(job(db));
    });
    let gone = || Error::internal("the store has ended");
    jobs.send(job).await.map_err(|_| gone())?;
    wait.await.map_err(|_| gone())?.map_err(|error| failed(&error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Made before SQLite opens it, so that it is never readable by others.
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    if let Err(error) = options.create(true).append(true).open(path) {
        let why = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        return Err(rusqlite::Error::SqliteFailure(why, Some(error.to_string())));
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // Has an effect only on a database that is new.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}

fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

fn check(connection: &Connection) -> rusqlite::Result<()> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        let why = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(why, Some(verdict)));
    }
    Ok(())
}

fn unusable(path: &Path, error: &rusqlite::Error) -> Error {
    Error::precondition(
        "STORE_UNUSABLE",
        format!(
            "the database {} cannot be used: {error}; restore it, or move it away to begin anew",
            path.display()
        ),
    )
}

fn failed(error: &rusqlite::Error) -> Error {
    let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    let (kind, reason) = match full {
        true => (Kind::ResourceExhausted, "DISK_FULL"),
        false => (Kind::Unavailable, "STORE_FAILED"),
    };
    Error::new(kind, reason, format!("the store cannot do its work: {error}"))
}

#[cfg(test)]
mod tests;
