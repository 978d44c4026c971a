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
    segment::{self, Columns, PACKED, PLACE, PLAIN, Place, Runs, int},
};
use crate::domain::{
    Result,
    logs::{Batch, Checkpoint},
};

/// Bytes of text that are committed together; more waits for the next commit.
const TOGETHER: usize = 4 << 20;
/// A container's plain segments are packed into one when they hold so many bytes…
const SEAL_BYTES: u64 = 1 << 20;
/// … or when there are so many.
const SEAL_COUNT: u64 = 256;

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
        let mut sources = sources(&db)?;
        let tails = count(&db, &mut sources)?;
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

    fn seal_if_due(&mut self, source: i64) {
        let tail = self.tails.get(&source).copied().unwrap_or_default();
        if tail.bytes >= SEAL_BYTES || tail.count >= SEAL_COUNT {
            self.seal_or_warn(source);
        }
    }

    fn seal_or_warn(&mut self, source: i64) {
        if let Err(error) = self.seal(source) {
            // They stay as they are, and are packed with the next ones.
            tracing::warn!(%error, "log segments cannot be packed; trying again later");
        }
    }

    /// Packs a container's plain segments, and a small packed one before them.
    fn seal(&mut self, source: i64) -> rusqlite::Result<()> {
        let mut places: Vec<Place> = self
            .db
            .prepare_cached(&format!(
                "SELECT {PLACE} FROM log_segments WHERE source = ?1 ORDER BY first_seq DESC LIMIT ?2"
            ))?
            .query_map(params![source, int(2 * SEAL_COUNT)], Place::read)?
            .collect::<rusqlite::Result<_>>()?;
        // The newest are plain, up to the first that was packed.
        let plain = places.iter().take_while(|place| place.codec == PLAIN).count();
        let bytes: u64 = places[..plain].iter().map(|place| place.raw_bytes).sum();
        let small = places.get(plain).is_some_and(|place| place.raw_bytes + bytes <= SEAL_BYTES);
        places.truncate(if small { plain + 1 } else { plain });
        places.reverse();
        if plain == 0 {
            return Ok(());
        }
        let (mut runs, mut whole) = (Runs::default(), Batch::default());
        for place in &places {
            let (numbers, batch) = segment::load(&self.db, place)?;
            runs.append(&numbers);
            whole.append(&batch);
        }
        let columns = Columns::packed(&whole)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let transaction = self.db.transaction()?;
        for place in &places {
            transaction
                .prepare_cached("DELETE FROM log_segments WHERE id = ?1")?
                .execute([place.id])?;
        }
        let first = places[0].first_position;
        let packed = segment::insert(&transaction, source, &runs, first, &whole, &columns)?;
        transaction.commit()?;
        self.tails.remove(&source);
        if let Some(source) = sources_mut(&self.shared).get_mut(&source).map(Arc::make_mut) {
            let before: u64 = places.iter().map(|place| place.stored_bytes).sum();
            source.stored_bytes = source.stored_bytes.saturating_sub(before) + packed.stored_bytes;
        }
        Ok(())
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

fn sources(db: &Connection) -> rusqlite::Result<BTreeMap<i64, Source>> {
    let mut statement = db.prepare(
        "SELECT id, container_id, about, next_position, checkpoint, complete, removed, retired_seq
         FROM log_sources",
    )?;
    let rows = statement.query_map([], |row| {
        let id: i64 = row.get(0)?;
        let (about, checkpoint): (String, Option<String>) = (row.get(2)?, row.get(4)?);
        let source = Source {
            id,
            about: serde_json::from_str(&about)
                .unwrap_or(About { container_id: row.get(1)?, ..About::default() }),
            checkpoint: checkpoint.map(|text| read_checkpoint(&text)).transpose()?,
            complete: row.get(5)?,
            removed: row.get(6)?,
            retired_seq: row.get::<_, i64>(7)?.unsigned_abs(),
            next_position: row.get::<_, i64>(3)?.unsigned_abs(),
            ..Source::default()
        };
        Ok((id, source))
    })?;
    rows.collect()
}

/// Without its checkpoint a log would be collected once more from its beginning.
fn read_checkpoint(text: &str) -> rusqlite::Result<Checkpoint> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into())
    })
}

/// Counts what is stored of each container, by the index alone.
fn count(
    db: &Connection,
    sources: &mut BTreeMap<i64, Source>,
) -> rusqlite::Result<HashMap<i64, Tail>> {
    let mut tails: HashMap<i64, Tail> = HashMap::new();
    let mut statement = db.prepare(
        "SELECT source, codec, min(first_seq), max(last_seq), sum(lines), sum(raw_bytes),
            sum(stored_bytes), count(*)
         FROM log_segments GROUP BY source, codec",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number = |at: usize| row.get::<_, i64>(at).map(|value| value.unsigned_abs());
        let (id, codec): (i64, i64) = (row.get(0)?, row.get(1)?);
        if codec != PACKED {
            tails.insert(id, Tail { count: number(7)?, bytes: number(5)? });
        }
        let Some(source) = sources.get_mut(&id) else { continue };
        let (first, last) = (number(2)?, number(3)?);
        source.seqs = match source.lines {
            0 => (first, last),
            _ => (source.seqs.0.min(first), source.seqs.1.max(last)),
        };
        source.lines += number(4)?;
        source.raw_bytes += number(5)?;
        source.stored_bytes += number(6)?;
    }
    Ok(tails)
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Run(_) => "Run",
        })
    }
}
