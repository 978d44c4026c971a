//! Puts lines together again that the engine cut into pieces.

use serde::{Deserialize, Serialize};

use super::{Batch, Stream};

/// The engine hands a line on in pieces of so many bytes. Source: `defaultBufSize`
/// in moby's `daemon/logger/copier.go`.
pub(super) const PIECE: usize = 16 * 1024;
/// Longest line that is kept whole; a longer one is stored in parts of this size.
const MAX_LINE: usize = 1 << 20;

/// The beginning of a line whose end was not read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    /// Time of its first piece.
    time: i64,
    /// What was read of it.
    #[serde(with = "base64_bytes")]
    text: Vec<u8>,
}

/// Joins the pieces of both streams, which may alternate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout: Option<Pending>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr: Option<Pending>,
}

impl Joiner {
    /// Takes one piece as the engine tells it, with its newline when it ends a line.
    ///
    /// A piece without a newline goes on in the next one when it is full; a short
    /// one is the last of a run that ended without a newline. The engine replaces
    /// bytes that are no UTF-8 by three others, so a full piece may be longer.
    pub fn push(&mut self, stream: Stream, time: i64, piece: &[u8], out: &mut Batch) {
        let (text, ended) = match piece.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (piece, piece.len() < PIECE),
        };
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if slot.is_none() && ended && text.len() <= MAX_LINE {
            out.push(stream, time, false, text);
            return;
        }
        let pending = slot.get_or_insert_with(|| Pending { time, text: Vec::new() });
        pending.text.extend_from_slice(text);
        while pending.text.len() > MAX_LINE {
            let rest = pending.text.split_off(cut(&pending.text));
            out.push(stream, pending.time, true, &pending.text);
            *pending = Pending { time, text: rest };
        }
        if ended {
            out.push(stream, pending.time, false, &pending.text);
            *slot = None;
        }
    }

    /// Ends what is open, when nothing can follow any more.
    pub fn flush(&mut self, out: &mut Batch) {
        for (stream, slot) in
            [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)]
        {
            if let Some(pending) = slot.take() {
                out.push(stream, pending.time, false, &pending.text);
            }
        }
    }

    /// True when a line is open.
    pub fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }
}

/// Where a text that is longer than `MAX_LINE` is cut: not within a character.
fn cut(text: &[u8]) -> usize {
    let begins = |at: &usize| text[*at] & 0b1100_0000 != 0b1000_0000;
    (MAX_LINE - 3..=MAX_LINE).rev().find(begins).unwrap_or(MAX_LINE)
}

mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(batch: &Batch) -> Vec<(usize, bool)> {
        batch.entries().map(|entry| (entry.content.len(), entry.continues)).collect()
    }

    #[test]
    fn pieces_of_two_streams_are_told_apart() {
        let (mut joiner, mut out) = (Joiner::default(), Batch::default());
        joiner.push(Stream::Stdout, 1, &[b'a'; PIECE], &mut out);
        joiner.push(Stream::Stderr, 2, b"whole\n", &mut out);
        joiner.push(Stream::Stdout, 3, b"end\n", &mut out);
        let got: Vec<_> = out.entries().map(|entry| (entry.time, entry.content.len())).collect();
        assert_eq!(got, [(2, 5), (1, PIECE + 3)]);
        assert!(!joiner.is_open());
    }

    #[test]
    fn a_short_piece_without_a_newline_is_the_end_of_a_run() {
        let (mut joiner, mut out) = (Joiner::default(), Batch::default());
        joiner.push(Stream::Stdout, 1, b"no newline", &mut out);
        joiner.push(Stream::Stdout, 2, b"next run\n", &mut out);
        assert_eq!(lines(&out), [(10, false), (8, false)]);
    }

    #[test]
    fn an_endless_line_is_stored_in_parts_and_memory_stays_bounded() {
        let (mut joiner, mut out) = (Joiner::default(), Batch::default());
        for time in 0..200 {
            joiner.push(Stream::Stdout, time, &[b'x'; PIECE], &mut out);
            let open = joiner.stdout.as_ref().map_or(0, |pending| pending.text.len());
            assert!(open <= MAX_LINE);
        }
        joiner.push(Stream::Stdout, 200, b"\n", &mut out);
        let lengths = lines(&out);
        assert_eq!(lengths.iter().map(|(length, _)| length).sum::<usize>(), 200 * PIECE);
        assert_eq!(
            lengths.iter().map(|(_, open)| *open).collect::<Vec<_>>(),
            [true, true, true, false]
        );
    }

    #[test]
    fn an_endless_line_is_cut_between_characters_where_it_has_any() {
        for (text, first) in [("é", MAX_LINE - 1), ("x", MAX_LINE)] {
            let (mut joiner, mut out) = (Joiner::default(), Batch::default());
            let piece = format!("y{}", text.repeat(PIECE));
            for _ in 0..=MAX_LINE / piece.len() {
                joiner.push(Stream::Stdout, 1, piece.as_bytes(), &mut out);
            }
            joiner.flush(&mut out);
            let lengths = lines(&out);
            assert!(lengths[0].0 <= MAX_LINE && lengths[0].0 >= first - 1, "{lengths:?}");
            let whole = out.entries().all(|entry| str::from_utf8(entry.content).is_ok());
            assert!(whole, "{text}");
        }
        let (mut joiner, mut out) = (Joiner::default(), Batch::default());
        for _ in 0..=MAX_LINE / PIECE {
            joiner.push(Stream::Stdout, 1, &[0x80; PIECE], &mut out);
        }
        assert_eq!(lines(&out), [(MAX_LINE, true)]);
    }

    #[test]
    fn a_line_of_exactly_full_pieces_ends_with_its_newline() {
        let (mut joiner, mut out) = (Joiner::default(), Batch::default());
        joiner.push(Stream::Stdout, 1, &[b'x'; PIECE], &mut out);
        joiner.push(Stream::Stdout, 2, b"\n", &mut out);
        joiner.push(Stream::Stdout, 3, b"\n", &mut out);
        assert_eq!(lines(&out), [(PIECE, false), (0, false)]);
    }
}
