//! Entries of one container in columns: texts, times and flags.
//!
//! The texts stand one after the other, each with a newline, so that a search
//! runs over all of them at once and no length has to be stored.

use super::{EntryKind, Gap, Stream};

const KIND: u8 = 0b11;
const STDOUT: u8 = 0;
const STDERR: u8 = 1;
const GAP: u8 = 2;
const CONTINUES: u8 = 0b100;

/// Entries in order. No text holds a newline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    text: Vec<u8>,
    times: Vec<i64>,
    flags: Vec<u8>,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Line or gap.
    pub kind: EntryKind,
    /// Nanoseconds since 1970, as the engine says.
    pub time: i64,
    /// The line was too long and goes on in the next of its stream.
    pub continues: bool,
    /// Without newline.
    pub content: &'a [u8],
}

impl Batch {
    /// Adds a line. A newline inside it ends a line of its own.
    pub fn push(&mut self, stream: Stream, time: i64, continues: bool, content: &[u8]) {
        let kind = match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        };
        self.text.extend_from_slice(content);
        self.text.push(b'\n');
        // The engine ends a line at each newline; another writer may not.
        let more = memchr::memchr_iter(b'\n', content).count();
        for _ in 0..more {
            self.times.push(time);
            self.flags.push(kind);
        }
        self.times.push(time);
        self.flags.push(if continues { kind | CONTINUES } else { kind });
    }

    /// Adds a gap; its time is where it ends, else where it begins.
    pub fn push_gap(&mut self, gap: &Gap) {
        self.text.extend_from_slice(&gap.to_content());
        self.text.push(b'\n');
        self.times.push(gap.to.or(gap.from).unwrap_or(0));
        self.flags.push(GAP);
    }

    /// Gives a time to gaps of which none is known; else they would be the oldest
    /// entries of all.
    pub fn date_gaps(&mut self, now: i64) {
        for (time, flags) in self.times.iter_mut().zip(&self.flags) {
            if *time == 0 && flags & KIND == GAP {
                *time = now;
            }
        }
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// Bytes of all texts with their newlines.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Earliest and latest time; (0, 0) when empty.
    pub fn times(&self) -> (i64, i64) {
        let min = self.times.iter().min().copied().unwrap_or(0);
        (min, self.times.iter().max().copied().unwrap_or(min))
    }

    /// All entries in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = self.text.as_slice();
        (0..self.len()).map(move |at| {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let content = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            Entry {
                kind: self.kind(at),
                time: self.times[at],
                continues: self.flags[at] & CONTINUES != 0,
                content,
            }
        })
    }

    /// Kind of the entry at an index, which must be there.
    pub fn kind(&self, at: usize) -> EntryKind {
        match self.flags[at] & KIND {
            STDOUT => EntryKind::Line(Stream::Stdout),
            STDERR => EntryKind::Line(Stream::Stderr),
            _ => EntryKind::Gap,
        }
    }

    /// Time of the entry at an index, which must be there.
    pub fn time(&self, at: usize) -> i64 {
        self.times[at]
    }

    /// True when the entry at an index, which must be there, goes on in the next.
    pub fn continues(&self, at: usize) -> bool {
        self.flags[at] & CONTINUES != 0
    }

    /// Adds all entries of another batch.
    pub fn append(&mut self, other: &Self) {
        self.text.extend_from_slice(&other.text);
        self.times.extend_from_slice(&other.times);
        self.flags.extend_from_slice(&other.flags);
    }

    /// Times and flags as bytes: the flags, then each time as the difference to
    /// the one before.
    pub fn encode_meta(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 4 + 16);
        put_varint(&mut out, self.len() as u64);
        out.extend_from_slice(&self.flags);
        let mut before = 0i64;
        for time in &self.times {
            let difference = time.wrapping_sub(before);
            // Zigzag: small numbers of either sign take few bytes.
            #[expect(clippy::cast_sign_loss, reason = "the bits are meant")]
            put_varint(&mut out, ((difference << 1) ^ (difference >> 63)) as u64);
            before = *time;
        }
        out
    }

    /// From the texts and what `encode_meta` wrote; `None` when they do not fit.
    pub fn decode(text: Vec<u8>, mut meta: &[u8]) -> Option<Self> {
        let count = usize::try_from(take_varint(&mut meta)?).ok()?;
        let flags = meta.split_off(..count)?.to_vec();
        let mut times = Vec::with_capacity(count);
        let mut before = 0i64;
        for _ in 0..count {
            let zigzag = take_varint(&mut meta)?;
            #[expect(clippy::cast_possible_wrap, reason = "the bits are meant")]
            let difference = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            before = before.wrapping_add(difference);
            times.push(before);
        }
        let whole = meta.is_empty() && memchr::memchr_iter(b'\n', &text).count() == count;
        whole.then_some(Self { text, times, flags })
    }
}

/// Writes a number in 7-bit groups, the lowest first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits are meant")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
    out.push(value as u8);
}

/// Reads what `put_varint` wrote.
pub fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *from.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::logs::GapReason;

    proptest! {
        #[test]
        fn a_batch_survives_its_columns(
            lines in proptest::collection::vec(
                (any::<bool>(), any::<i64>(), any::<bool>(), "[a-z ]{0,20}"), 0..50),
        ) {
            let mut batch = Batch::default();
            for (out, time, continues, text) in &lines {
                let stream = if *out { Stream::Stdout } else { Stream::Stderr };
                batch.push(stream, *time, *continues, text.as_bytes());
            }
            batch.push_gap(&Gap::after(GapReason::Rotated, Some(7)));
            let again = Batch::decode(batch.text().to_vec(), &batch.encode_meta());
            prop_assert_eq!(again.as_ref(), Some(&batch));
            prop_assert_eq!(batch.entries().count(), lines.len() + 1);
        }

        #[test]
        fn broken_columns_are_refused(text in any::<Vec<u8>>(), meta in any::<Vec<u8>>()) {
            if let Some(batch) = Batch::decode(text, &meta) {
                prop_assert_eq!(batch.entries().count(), batch.len());
            }
        }
    }

    #[test]
    fn a_gap_without_a_time_is_dated_when_it_is_found() {
        let mut batch = Batch::default();
        batch.push_gap(&Gap::after(GapReason::Removed, None));
        batch.push_gap(&Gap::after(GapReason::Removed, Some(3)));
        batch.push(Stream::Stdout, 0, false, b"");
        batch.date_gaps(7);
        assert_eq!(batch.times, [7, 3, 0]);
    }

    #[test]
    fn a_newline_inside_a_line_ends_it() {
        let mut batch = Batch::default();
        batch.push(Stream::Stdout, 1, false, b"a\nb");
        let texts: Vec<_> = batch.entries().map(|entry| entry.content.to_vec()).collect();
        assert_eq!(texts, [b"a".to_vec(), b"b".to_vec()]);
    }
}
