//! What the database holds when it is opened; no text is read.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use super::{
    super::{About, Source, segment::PACKED},
    Tail,
};
use crate::domain::logs::Checkpoint;

pub(super) fn sources(db: &Connection) -> rusqlite::Result<BTreeMap<i64, Source>> {
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
pub(super) fn count(
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
