//! Shows why stored logs are as large as they are: what each column takes, and what
//! zstd makes of the texts for how much work.

use std::{fmt::Write as _, time::Instant};

use container_svc::domain::logs::Batch;

use crate::{
    Failure,
    stored::{BACKLOG, batch},
    texts::{Kind, Texts},
};

/// Levels of zstd; the store uses 3.
const LEVELS: [i32; 5] = [1, 3, 9, 15, 19];
/// Segments of a mebibyte that are packed of each kind.
const SEGMENTS: usize = 8;

/// A table in Markdown.
pub(crate) fn table() -> Result<String, Failure> {
    let kinds =
        [("JSON lines", Kind::Json), ("access log", Kind::Access), ("stack traces", Kind::Traces)];
    let mut text = String::from("| Stored size by part and level | Times and flags |");
    for level in LEVELS {
        let _ = write!(text, " Texts, level {level} |");
    }
    text.push_str("\n|---|---:|---:|---:|---:|---:|---:|\n");
    for (name, kind) in kinds {
        let mut texts = Texts::new(kind);
        let batches: Vec<Batch> =
            (0..SEGMENTS).map(|_| batch(&mut texts, BACKLOG, usize::MAX)).collect();
        let raw = batches.iter().map(|batch| batch.text().len()).sum();
        let (meta, _) = packed(3, batches.iter().map(Batch::encode_meta))?;
        let _ = write!(text, "| {name} | {:.3} |", part(meta, raw)?);
        for level in LEVELS {
            let (bytes, seconds) =
                packed(level, batches.iter().map(|batch| batch.text().to_vec()))?;
            let rate = f64::from(u32::try_from(raw)?) / 1e6 / seconds;
            let _ = write!(text, " {:.3} at {rate:.0} MB/s |", part(bytes, raw)?);
        }
        text.push('\n');
    }
    Ok(text)
}

/// Bytes when each column is packed by itself, and seconds that it took.
fn packed(level: i32, columns: impl Iterator<Item = Vec<u8>>) -> Result<(usize, f64), Failure> {
    let columns: Vec<Vec<u8>> = columns.collect();
    let mut packer = zstd::bulk::Compressor::new(level)?;
    let (begin, mut bytes) = (Instant::now(), 0);
    for column in &columns {
        bytes += packer.compress(column)?.len();
    }
    Ok((bytes, begin.elapsed().as_secs_f64()))
}

fn part(bytes: usize, raw: usize) -> Result<f64, Failure> {
    Ok(f64::from(u32::try_from(bytes)?) / f64::from(u32::try_from(raw)?))
}
