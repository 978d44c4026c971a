//! Takes away what is too old or too much, the oldest first.

use std::{sync::Arc, time::Duration};

use rusqlite::{OptionalExtension as _, params};

use super::{
    lock,
    segment::{PLACE, Place},
    writer::{Writer, sources_mut},
};

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

impl Writer {
    /// Takes away segments until all limits hold; `now` in nanoseconds since 1970.
    pub(super) fn retain(&mut self, limits: &Limits, now: i64) -> rusqlite::Result<()> {
        let age = i64::try_from(limits.age.as_nanos()).unwrap_or(i64::MAX);
        let before = now.saturating_sub(age);
        let mut total = 0;
        let mut any = false;
        let ids: Vec<i64> = sources_mut(&self.shared).keys().copied().collect();
        for id in ids {
            while let Some(oldest) = self.oldest(id)? {
                let stored = self.stored(id);
                if stored <= limits.bytes_each && oldest.max_time >= before {
                    break;
                }
                self.retire(id, &oldest)?;
                any = true;
            }
            total += self.stored(id);
        }
        while total > limits.bytes {
            let first = sources_mut(&self.shared)
                .values()
                .filter(|source| source.lines > 0)
                .min_by_key(|source| source.seqs.0)
                .map(|source| source.id);
            let Some(id) = first else { break };
            let Some(oldest) = self.oldest(id)? else { break };
            self.retire(id, &oldest)?;
            total = total.saturating_sub(oldest.stored_bytes);
            any = true;
        }
        self.forget_gone()?;
        if any {
            self.db.execute_batch(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        }
        Ok(())
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
        self.db.prepare_cached("DELETE FROM log_segments WHERE id = ?1")?.execute([place.id])?;
        self.forget_tail(id, place);
        let next = self.oldest(id)?.map_or(0, |place| place.first_seq);
        if let Some(source) = sources_mut(&self.shared).get_mut(&id).map(Arc::make_mut) {
            source.seqs = if next == 0 { (0, 0) } else { (next, source.seqs.1) };
            source.lines = source.lines.saturating_sub(place.lines);
            source.raw_bytes = source.raw_bytes.saturating_sub(place.raw_bytes);
            source.stored_bytes = source.stored_bytes.saturating_sub(place.stored_bytes);
        }
        let mut retired = lock(&self.shared.retired);
        retired.lines += place.lines;
        retired.raw_bytes += place.raw_bytes;
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
