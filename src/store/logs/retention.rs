//! Takes away what is too old or too much, the oldest first.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{OptionalExtension as _, params};

use super::{
    lock,
    segment::{self, PLACE, Place, Runs, int},
    writer::{Writer, sources_mut},
};

/// Runs of numbers that are remembered after their segments were taken.
const REMEMBERED: usize = 1 << 18;
/// Commits wait no longer than this for what is taken away at once.
const BUDGET: Duration = Duration::from_millis(100);
/// Nanoseconds after which ages are looked at again.
const LOOK: u64 = 60_000_000_000;
/// Pages that are given back to the disk at a time.
const PAGES: u32 = 4096;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For so long.
    pub age: Duration,
    /// Stored bytes of each container.
    pub bytes_each: u64,
    /// Stored bytes of all.
    pub bytes: u64,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    /// Entries.
    pub lines: u64,
    /// Their bytes.
    pub raw_bytes: u64,
}

/// What was taken away, for readers that come too late.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Since the start.
    pub(super) sum: Retired,
    /// The last segments: which one ever, of which container, which entries.
    taken: VecDeque<(u64, i64, Runs)>,
    /// How many runs of numbers these have.
    runs: usize,
    /// Of entries up to this one it is not known any more which were taken.
    forgotten: u64,
}

impl Book {
    pub(super) fn new(forgotten: u64) -> Self {
        Self { forgotten, ..Self::default() }
    }

    fn note(&mut self, mark: u64, source: i64, place: &Place, runs: Runs) {
        self.sum.lines += place.lines;
        self.sum.raw_bytes += place.raw_bytes;
        self.runs += runs.count();
        self.taken.push_back((mark, source, runs));
        while self.runs > REMEMBERED
            && let Some((_, _, old)) = self.taken.pop_front()
        {
            self.runs -= old.count();
            self.forgotten = self.forgotten.max(old.numbers().last().unwrap_or(0));
        }
    }

    pub(super) fn between(
        &self,
        sources: &[i64],
        after: u64,
        through: u64,
        mark: u64,
    ) -> Option<u64> {
        let asked = |taken: &&(u64, i64, Runs)| taken.0 <= mark && sources.contains(&taken.1);
        let taken = self.taken.iter().filter(asked);
        let missed = taken.map(|(_, _, runs)| runs.between(after, through)).sum();
        (after >= self.forgotten).then_some(missed)
    }
}

impl Writer {
    /// Takes away segments until all limits hold; `now` in nanoseconds since 1970.
    pub(super) fn retain(&mut self, limits: &Limits, now: i64) -> rusqlite::Result<()> {
        let age = i64::try_from(limits.age.as_nanos()).unwrap_or(i64::MAX);
        let before = now.saturating_sub(age);
        let (mut total, mut any) = (0, false);
        let deadline = Instant::now() + BUDGET;
        // Ages are looked up; sizes are known.
        let look = now.abs_diff(self.looked_at) >= LOOK;
        if look {
            self.looked_at = now;
        }
        // One that is damaged must not keep the others.
        let mut damaged = BTreeMap::new();
        let ids: Vec<i64> = sources_mut(&self.shared).keys().copied().collect();
        for id in ids {
            if look || self.stored(id) > limits.bytes_each {
                match self.retain_one(id, limits.bytes_each, before, deadline) {
                    Ok(taken) => any |= taken,
                    Err(error) => drop(damaged.insert(id, error)),
                }
            }
            total += self.stored(id);
        }
        while total > limits.bytes && Instant::now() < deadline {
            let first = sources_mut(&self.shared)
                .values()
                .filter(|source| source.lines > 0 && !damaged.contains_key(&source.id))
                .min_by_key(|source| source.seqs.0)
                .map(|source| source.id);
            let Some(id) = first else { break };
            let stored = self.stored(id);
            match self.retire_oldest(id) {
                Ok(false) => break,
                Ok(true) => any = true,
                Err(error) => drop(damaged.insert(id, error)),
            }
            total = total.saturating_sub(stored - self.stored(id));
        }
        self.forget_gone()?;
        self.sound &= damaged.is_empty();
        // In a damaged database pages are better left where they are.
        if any && self.sound {
            // It frees a page for each step.
            let mut vacuum = self.db.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
        }
        if Instant::now() >= deadline {
            // The rest is for the next time.
            self.looked_at = i64::MIN;
        }
        damaged.into_values().next().map_or(Ok(()), Err)
    }

    /// The same for one container; true when something was taken.
    fn retain_one(
        &mut self,
        id: i64,
        bytes: u64,
        before: i64,
        deadline: Instant,
    ) -> rusqlite::Result<bool> {
        let mut any = false;
        while Instant::now() < deadline
            && let Some(oldest) = self.oldest(id)?
        {
            if self.stored(id) <= bytes && oldest.max_time >= before {
                break;
            }
            self.retire(id, &oldest)?;
            any = true;
        }
        Ok(any)
    }

    fn retire_oldest(&mut self, id: i64) -> rusqlite::Result<bool> {
        let Some(oldest) = self.oldest(id)? else { return Ok(false) };
        self.retire(id, &oldest)?;
        Ok(true)
    }

    fn stored(&self, id: i64) -> u64 {
        sources_mut(&self.shared).get(&id).map_or(0, |source| source.stored_bytes)
    }

    fn oldest(&self, id: i64) -> rusqlite::Result<Option<Place>> {
        self.db
            .prepare_cached(&format!(
                "SELECT {PLACE} FROM log_segments WHERE source = ?1 ORDER BY first_seq LIMIT 1"
            ))?
            .query_row([id], Place::read)
            .optional()
    }

    fn retire(&mut self, id: i64, place: &Place) -> rusqlite::Result<()> {
        let runs = segment::runs(&self.db, place)?;
        let transaction = self.db.transaction()?;
        transaction
            .prepare_cached("DELETE FROM log_segments WHERE id = ?1")?
            .execute([place.id])?;
        transaction
            .prepare_cached("UPDATE log_sources SET retired_seq = ?2 WHERE id = ?1")?
            .execute(params![id, int(place.last_seq)])?;
        let mark: i64 = transaction
            .prepare_cached("UPDATE log_state SET retired = retired + 1 RETURNING retired")?
            .query_row([], |row| row.get(0))?;
        transaction.commit()?;
        lock(&self.shared.retired).note(mark.unsigned_abs(), id, place, runs);
        self.forget_tail(id, place);
        let next = self.oldest(id)?.map_or(0, |place| place.first_seq);
        if let Some(source) = sources_mut(&self.shared).get_mut(&id).map(Arc::make_mut) {
            source.seqs = if next == 0 { (0, 0) } else { (next, source.seqs.1) };
            source.retired_seq = place.last_seq;
            source.lines = source.lines.saturating_sub(place.lines);
            source.raw_bytes = source.raw_bytes.saturating_sub(place.raw_bytes);
            source.stored_bytes = source.stored_bytes.saturating_sub(place.stored_bytes);
        }
        Ok(())
    }

    /// Forgets containers that are gone and of which nothing is left.
    fn forget_gone(&mut self) -> rusqlite::Result<()> {
        let gone: Vec<i64> = sources_mut(&self.shared)
            .values()
            .filter(|source| source.removed && source.lines == 0)
            .map(|source| source.id)
            .collect();
        for id in gone {
            self.db.execute("DELETE FROM log_sources WHERE id = ?1", params![id])?;
            sources_mut(&self.shared).remove(&id);
        }
        Ok(())
    }
}
