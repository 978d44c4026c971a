//! The one thread that writes: commits, packs, and keeps the books.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard},
};

use rusqlite::{Connection, params};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    About, Book, Committed, READERS, Recent, Shared, Source, lock,
    segment::{self, Columns, PACKED, PLAIN, Place, Runs, int},
};
use crate::domain::{
    Result,
    logs::{Batch, Checkpoint},
};

mod known;
mod seal;

/// Bytes of text that are committed together; more waits for the next commit.
const TOGETHER: usize = 4 << 20;

/// Something for the thread to do.
pub(super) enum Job {
    Append(Box<Append>),
    Run(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// Entries of one container and how far its log was read.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) source: i64,
    pub(super) batch: Batch,
    pub(super) columns: Columns,
    /// `None` leaves the one that is stored.
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

/// Plain segments of a container.
#[derive(Debug, Clone, Copy, Default)]
struct Tail {
    count: u64,
    bytes: u64,
}

/// Owns the connection.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) shared: Arc<Shared>,
    next_seq: u64,
    tails: HashMap<i64, Tail>,
    /// When retention last looked at ages, in nanoseconds since 1970.
    pub(super) looked_at: i64,
    /// No damage was met yet.
    pub(super) sound: bool,
}

impl Writer {
    /// Reads what is known of each container; no text is read.
    pub(super) fn load(db: Connection, path: &Path) -> rusqlite::Result<(Self, Arc<Shared>)> {
        let random = getrandom::u64().unwrap_or(1) >> 1;
        db.execute(
            "INSERT OR IGNORE INTO log_state (id, store, next_seq, retired) VALUES (1, ?1, 1, 0)",
            [int(random)],
        )?;
        let (store, next_seq) =
            db.query_row("SELECT store, next_seq FROM log_state", [], |row| {
                Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
            })?;
        let mut sources = known::sources(&db)?;
        let tails = known::count(&db, &mut sources)?;
        let forgotten = sources.values().map(|source| source.retired_seq).max().unwrap_or(0);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            store,
            sources: RwLock::new(sources.into_iter().map(|(id, s)| (id, Arc::new(s))).collect()),
            recent: Mutex::new(Recent::new(next_seq)),
            retired: Mutex::new(Book::new(forgotten)),
            latest: watch::Sender::new(next_seq - 1),
            trouble: RwLock::default(),
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(READERS)),
        });
        Ok((
            Self { db, shared: shared.clone(), next_seq, tails, looked_at: i64::MIN, sound: true },
            shared,
        ))
    }

    /// Does one job after the other; appends that wait are committed together.
    pub(super) fn work(&mut self, queue: &mut mpsc::Receiver<Job>) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Run(work) => work(self),
                Job::Append(first) => {
                    let mut bytes = first.batch.text().len();
                    let mut appends = vec![*first];
                    while bytes < TOGETHER {
                        match queue.try_recv() {
                            Ok(Job::Append(more)) => {
                                bytes += more.batch.text().len();
                                appends.push(*more);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.commit_all(appends);
                }
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
        // The last connection that is closed empties the write-ahead log, which one
        // that only reads cannot.
        lock(&self.shared.idle).clear();
    }

    fn commit_all(&mut self, appends: Vec<Append>) {
        for append in &appends {
            // What is plain is packed first, or it would stay so behind this one.
            if append.columns.codec == PACKED && self.tails.contains_key(&append.source) {
                self.seal_or_warn(append.source);
            }
        }
        let outcome = self.commit(&appends);
        let outcome = outcome.map_err(|error| super::failed(&error, &self.shared.path));
        self.shared.set_trouble(outcome.as_ref().err().cloned());
        let mut answers = Vec::with_capacity(appends.len());
        match &outcome {
            Ok(places) => {
                let touched = appends.iter().map(|append| append.source).collect::<Vec<_>>();
                answers.extend(self.publish(appends, places));
                for source in touched {
                    self.seal_if_due(source);
                }
            }
            Err(error) => {
                tracing::warn!(?error, "log lines cannot be stored; they are collected again");
                answers.extend(appends.into_iter().map(|append| append.answer));
            }
        }
        for answer in answers {
            // The collector may have left.
            let _ = answer.send(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
        }
    }

    /// All or nothing: entries, positions and checkpoints.
    fn commit(&mut self, appends: &[Append]) -> rusqlite::Result<Vec<Place>> {
        let mut next_seq = self.next_seq;
        let mut positions: HashMap<i64, u64> = HashMap::new();
        let mut places = Vec::with_capacity(appends.len());
        let transaction = self.db.transaction()?;
        for append in appends {
            let position = match positions.get(&append.source) {
                Some(position) => *position,
                None => transaction
                    .prepare_cached("SELECT next_position FROM log_sources WHERE id = ?1")?
                    .query_row([append.source], |row| row.get::<_, i64>(0))?
                    .unsigned_abs(),
            };
            let lines = append.batch.len() as u64;
            let mut runs = Runs::default();
            runs.push(next_seq, lines);
            let (batch, columns) = (&append.batch, &append.columns);
            let place =
                segment::insert(&transaction, append.source, &runs, position, batch, columns)?;
            places.push(place);
            positions.insert(append.source, position + lines);
            next_seq += lines;
            transaction
                .prepare_cached(
                    "UPDATE log_sources SET next_position = ?2,
                        checkpoint = coalesce(?3, checkpoint), complete = 0
                     WHERE id = ?1",
                )?
                .execute(params![
                    append.source,
                    int(position + lines),
                    // A checkpoint is numbers and texts, which always have a form.
                    append.checkpoint.as_ref().and_then(|at| serde_json::to_string(at).ok()),
                ])?;
        }
        transaction.execute("UPDATE log_state SET next_seq = ?1", [int(next_seq)])?;
        transaction.commit()?;
        self.next_seq = next_seq;
        Ok(places)
    }

    /// Lets readers see what was committed.
    fn publish(
        &mut self,
        appends: Vec<Append>,
        places: &[Place],
    ) -> Vec<oneshot::Sender<Result<()>>> {
        let mut answers = Vec::with_capacity(appends.len());
        let shared = self.shared.clone();
        let mut sources = sources_mut(&shared);
        for (append, place) in appends.into_iter().zip(places) {
            if let Some(source) = sources.get_mut(&append.source).map(Arc::make_mut) {
                source.add(place);
                source.next_position = place.first_position + place.lines;
                source.checkpoint = append.checkpoint.or(source.checkpoint.take());
                source.complete = false;
            }
            if place.codec == PLAIN {
                let tail = self.tails.entry(append.source).or_default();
                tail.count += 1;
                tail.bytes += place.raw_bytes;
            }
            lock(&shared.recent).push(Committed {
                source: append.source,
                first_seq: place.first_seq,
                first_position: place.first_position,
                batch: append.batch,
            });
            answers.push(append.answer);
        }
        shared.latest.send_replace(self.next_seq - 1);
        answers
    }

    /// Makes sure that a container is known under these names.
    pub(super) fn know(&mut self, about: About) -> rusqlite::Result<Arc<Source>> {
        let text = serde_json::to_string(&about).unwrap_or_default();
        // A row is answered before it is committed, which can still fail.
        let transaction = self.db.transaction()?;
        let id = transaction.query_row(
            "INSERT INTO log_sources (container_id, about, next_position, complete, removed, retired_seq)
             VALUES (?1, ?2, 0, 0, 0, 0)
             ON CONFLICT (container_id) DO UPDATE SET about = ?2, removed = 0
             RETURNING id",
            params![about.container_id, text],
            |row| row.get(0),
        )?;
        transaction.commit()?;
        let mut sources = sources_mut(&self.shared);
        let source = Arc::make_mut(sources.entry(id).or_default());
        source.id = id;
        source.about = about;
        source.removed = false;
        Ok(Arc::new(source.clone()))
    }

    /// Notes how a container's log stands.
    pub(super) fn settle(
        &mut self,
        source: i64,
        complete: bool,
        removed: bool,
    ) -> rusqlite::Result<()> {
        self.db.execute(
            "UPDATE log_sources SET complete = ?2, removed = ?3 WHERE id = ?1",
            params![source, complete, removed],
        )?;
        if let Some(source) = sources_mut(&self.shared).get_mut(&source).map(Arc::make_mut) {
            source.complete = complete;
            source.removed = removed;
        }
        if complete {
            self.seal_or_warn(source);
        }
        Ok(())
    }

    /// Forgets what is plain of a container, after rows were deleted.
    pub(super) fn forget_tail(&mut self, source: i64, place: &Place) {
        if place.codec == PLAIN
            && let Some(tail) = self.tails.get_mut(&source)
        {
            tail.count = tail.count.saturating_sub(1);
            tail.bytes = tail.bytes.saturating_sub(place.raw_bytes);
        }
    }
}

impl Source {
    fn add(&mut self, place: &Place) {
        let first = if self.lines == 0 { place.first_seq } else { self.seqs.0 };
        self.seqs = (first, place.last_seq);
        self.lines += place.lines;
        self.raw_bytes += place.raw_bytes;
        self.stored_bytes += place.stored_bytes;
    }
}

pub(super) fn sources_mut(shared: &Shared) -> RwLockWriteGuard<'_, BTreeMap<i64, Arc<Source>>> {
    shared.sources.write().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Run(_) => "Run",
        })
    }
}
