//! A run of entries as it lies in the database: columns, compressed when large.

use rusqlite::{Connection, Row, params};

use crate::domain::logs::{Batch, put_varint, take_varint};

/// Stored as it is: small, and soon part of a larger one.
pub(super) const PLAIN: i64 = 0;
/// Compressed.
pub(super) const PACKED: i64 = 1;
/// How hard zstd tries. Higher levels save little on logs and cost much.
const LEVEL: i32 = 3;
/// Most bytes that a column may unpack to; a damaged row cannot take more.
const LARGEST: usize = 64 << 20;

/// Where a segment's entries stand, without the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) id: i64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) first_position: u64,
    pub(super) lines: u64,
    pub(super) min_time: i64,
    pub(super) max_time: i64,
    pub(super) raw_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) codec: i64,
}

/// The columns of [`Place`], for a query.
pub(super) const PLACE: &str = "id, first_seq, last_seq, first_position, lines, min_time, \
     max_time, raw_bytes, stored_bytes, codec";

impl Place {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number = |at: usize| row.get::<_, i64>(at).map(|value| value.unsigned_abs());
        Ok(Self {
            id: row.get(0)?,
            first_seq: number(1)?,
            last_seq: number(2)?,
            first_position: number(3)?,
            lines: number(4)?,
            min_time: row.get(5)?,
            max_time: row.get(6)?,
            raw_bytes: number(7)?,
            stored_bytes: number(8)?,
            codec: row.get(9)?,
        })
    }
}

impl Place {
    fn runs(&self, bytes: Option<&[u8]>) -> rusqlite::Result<Runs> {
        match bytes {
            Some(bytes) => Runs::decode(bytes).ok_or_else(|| self.damaged()),
            None => Ok(Runs(vec![(self.first_seq, self.lines)])),
        }
    }

    fn damaged(&self) -> rusqlite::Error {
        let why = format!("segment {} of the logs is damaged", self.id);
        rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(why),
        )
    }
}

/// The two columns of a batch, ready to be written.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) codec: i64,
    pub(super) meta: Vec<u8>,
    pub(super) text: Vec<u8>,
}

impl Columns {
    /// As they are, with a checksum.
    pub(super) fn plain(batch: &Batch) -> Self {
        let (mut meta, text) = (batch.encode_meta(), batch.text().to_vec());
        meta.extend(checksum(&meta, &text));
        Self { codec: PLAIN, meta, text }
    }

    /// Compressed. zstd adds a checksum.
    pub(super) fn packed(batch: &Batch) -> std::io::Result<Self> {
        let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
        packer.include_checksum(true)?;
        let meta = packer.compress(&batch.encode_meta())?;
        Ok(Self { codec: PACKED, meta, text: packer.compress(batch.text())? })
    }

    fn stored(&self) -> u64 {
        (self.meta.len() + self.text.len()) as u64
    }
}

/// Numbers of a segment's entries: how many follow each first one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<(u64, u64)>);

impl Runs {
    pub(super) fn push(&mut self, first: u64, count: u64) {
        match self.0.last_mut() {
            Some((begin, have)) if *begin + *have == first => *have += count,
            _ => self.0.push((first, count)),
        }
    }

    pub(super) fn append(&mut self, other: &Self) {
        for (first, count) in &other.0 {
            self.push(*first, *count);
        }
    }

    /// How many runs there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many entries have a number after one place and up to another.
    pub(super) fn between(&self, after: u64, through: u64) -> u64 {
        let each = self.0.iter().map(|(first, count)| {
            let (begin, end) = ((*first).max(after.saturating_add(1)), first + count);
            end.min(through.saturating_add(1)).saturating_sub(begin)
        });
        each.sum()
    }

    /// The number of each entry, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(first, count)| *first..first + count)
    }

    fn encode(&self) -> Option<Vec<u8>> {
        if self.0.len() < 2 {
            return None;
        }
        let mut out = Vec::new();
        let mut before = 0;
        for (first, count) in &self.0 {
            put_varint(&mut out, first - before);
            put_varint(&mut out, *count);
            before = *first;
        }
        Some(out)
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let (mut runs, mut before) = (Vec::new(), 0u64);
        while !bytes.is_empty() {
            before = before.checked_add(take_varint(&mut bytes)?)?;
            runs.push((before, take_varint(&mut bytes)?));
        }
        Some(Self(runs))
    }
}

/// Writes a segment and answers with its place.
pub(super) fn insert(
    db: &Connection,
    source: i64,
    runs: &Runs,
    first_position: u64,
    batch: &Batch,
    columns: &Columns,
) -> rusqlite::Result<Place> {
    let (min_time, max_time) = batch.times();
    let first_seq = runs.0.first().map_or(0, |(first, _)| *first);
    let last_seq = runs.0.last().map_or(0, |(first, count)| first + count - 1);
    let mut place = Place {
        id: 0,
        first_seq,
        last_seq,
        first_position,
        lines: batch.len() as u64,
        min_time,
        max_time,
        raw_bytes: batch.text().len() as u64,
        stored_bytes: columns.stored(),
        codec: columns.codec,
    };
    db.prepare_cached(
        "INSERT INTO log_segments (source, first_seq, last_seq, first_position, lines, min_time,
            max_time, raw_bytes, stored_bytes, codec, runs, meta, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        source,
        int(place.first_seq),
        int(place.last_seq),
        int(place.first_position),
        int(place.lines),
        place.min_time,
        place.max_time,
        int(place.raw_bytes),
        int(place.stored_bytes),
        place.codec,
        runs.encode(),
        columns.meta,
        columns.text,
    ])?;
    place.id = db.last_insert_rowid();
    Ok(place)
}

/// Reads only the numbers of a segment's entries.
pub(super) fn runs(db: &Connection, place: &Place) -> rusqlite::Result<Runs> {
    let bytes: Option<Vec<u8>> = db
        .prepare_cached("SELECT runs FROM log_segments WHERE id = ?1")?
        .query_row([place.id], |row| row.get(0))?;
    place.runs(bytes.as_deref())
}

/// Reads the entries of a segment.
pub(super) fn load(db: &Connection, place: &Place) -> rusqlite::Result<(Runs, Batch)> {
    let damaged = || place.damaged();
    let mut statement =
        db.prepare_cached("SELECT runs, meta, text FROM log_segments WHERE id = ?1")?;
    let mut rows = statement.query([place.id])?;
    let row = rows.next()?.ok_or_else(damaged)?;
    let runs = place.runs(row.get_ref(0)?.as_blob_or_null()?)?;
    let (meta, text) = (row.get_ref(1)?.as_blob()?, row.get_ref(2)?.as_blob()?);
    let whole = |bytes: &[u8]| zstd::bulk::decompress(bytes, capacity(bytes)).ok();
    let batch = match place.codec {
        PLAIN => meta
            .split_last_chunk()
            .filter(|(meta, sum)| **sum == checksum(meta, text))
            .and_then(|(meta, _)| Batch::decode(text.to_vec(), meta)),
        _ => whole(meta).zip(whole(text)).and_then(|(meta, text)| Batch::decode(text, &meta)),
    };
    let batch = batch.filter(|batch| batch.len() as u64 == place.lines).ok_or_else(damaged)?;
    Ok((runs, batch))
}

/// Tells a damaged page from what was written.
fn checksum(meta: &[u8], text: &[u8]) -> [u8; 4] {
    let mut sum = flate2::Crc::new();
    sum.update(meta);
    sum.update(text);
    sum.sum().to_le_bytes()
}

/// What zstd says the bytes unpack to, within reason.
fn capacity(bytes: &[u8]) -> usize {
    let said = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten();
    said.and_then(|size| usize::try_from(size).ok()).unwrap_or(LARGEST).min(LARGEST)
}

/// SQLite's numbers have a sign; ours never reach it.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive_their_bytes(
            steps in proptest::collection::vec((0u64..1000, 1u64..1000), 1..20),
        ) {
            let (mut runs, mut next) = (Runs::default(), 1);
            for (skip, count) in steps {
                runs.push(next + skip, count);
                next += skip + count;
            }
            if let Some(bytes) = runs.encode() {
                prop_assert_eq!(Runs::decode(&bytes), Some(runs));
            }
        }
    }
}
