//! Packs the plain segments of a container into one.

use std::sync::Arc;

use rusqlite::params;

use super::{
    super::segment::{self, Columns, PLACE, PLAIN, Place, Runs, int},
    Writer, sources_mut,
};
use crate::domain::logs::Batch;

/// They are packed when they hold so many bytes…
const SEAL_BYTES: u64 = 1 << 20;
/// … or when there are so many.
const SEAL_COUNT: u64 = 256;

impl Writer {
    pub(super) fn seal_if_due(&mut self, source: i64) {
        let tail = self.tails.get(&source).copied().unwrap_or_default();
        if tail.bytes >= SEAL_BYTES || tail.count >= SEAL_COUNT {
            self.seal_or_warn(source);
        }
    }

    pub(super) fn seal_or_warn(&mut self, source: i64) {
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
}
