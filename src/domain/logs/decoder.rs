//! From the engine's records to entries, with what must be known across reads.
//!
//! Any split of the same bytes into reads gives the same entries.

use serde::{Deserialize, Serialize};

use super::{Batch, Gap, GapReason, Joiner, Record, Stream};

/// How every record of a json-file log begins; inside a text the quotes are escaped.
const BEGIN: &[u8] = br#"{"log":""#;

/// Reads records and joins their pieces. What it holds back is part of a
/// checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    /// Lines that are open.
    #[serde(default)]
    joiner: Joiner,
    /// Time of the last record.
    #[serde(default)]
    last_time: Option<i64>,
    /// How many records of exactly that time came last.
    #[serde(default)]
    seen: u64,
    /// Records up to the last one of this time and count are known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<(i64, u64)>,
    /// Lines are missing before the next record.
    #[serde(default)]
    gap: Option<Gap>,
    /// Text of the record at hand; kept for its memory.
    #[serde(skip)]
    text: Vec<u8>,
}

impl Decoder {
    /// For a log of which nothing was read, of a container that began then.
    pub fn beginning(time: Option<i64>) -> Self {
        Self { last_time: time, ..Self::default() }
    }

    /// Goes on with another source of the same log, which begins with records that
    /// are known already.
    #[must_use]
    pub fn over_again(mut self) -> Self {
        self.known = self.last_time.map(|time| (time, self.seen));
        self
    }

    /// Time of the last record.
    pub fn last_time(&self) -> Option<i64> {
        self.last_time
    }

    /// Notes that lines are missing before what comes next. What was open before
    /// them ends there.
    pub fn missing(&mut self, reason: GapReason, out: &mut Batch) {
        self.joiner.flush(out);
        self.gap.get_or_insert_with(|| Gap::after(reason, self.last_time));
    }

    /// True when something is held back that only the next record completes.
    pub fn holds_back(&self) -> bool {
        self.gap.is_some() || self.joiner.is_open()
    }

    /// Reads the json-file records in `bytes` and answers how many bytes they
    /// took; what follows the last newline is left for the next call.
    pub fn records(&mut self, bytes: &[u8], out: &mut Batch) -> usize {
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &bytes[taken..]) {
            self.record(&bytes[taken..taken + end], out);
            taken += end + 1;
        }
        taken
    }

    fn record(&mut self, line: &[u8], out: &mut Batch) {
        let mut text = std::mem::take(&mut self.text);
        let mut record = Record::read(line, &mut text);
        if record.is_none() && !line.is_empty() {
            self.missing(GapReason::Damaged, out);
            // An engine that was killed left half a record, and wrote on after it.
            let whole = memchr::memmem::rfind(line, BEGIN).filter(|at| *at > 0);
            record = whole.and_then(|at| Record::read(&line[at..], &mut text));
        }
        if let Some(record) = record {
            self.piece(record.stream, record.time, &text, out);
        }
        self.text = text;
    }

    /// Takes one piece, with its newline when it ends a line.
    pub fn piece(&mut self, stream: Stream, time: i64, piece: &[u8], out: &mut Batch) {
        if self.is_known(time, out) {
            return;
        }
        if let Some(gap) = self.gap.take() {
            out.push_gap(&Gap { to: Some(time), ..gap });
        }
        self.seen = if self.last_time == Some(time) { self.seen + 1 } else { 1 };
        self.last_time = Some(time);
        self.joiner.push(stream, time, piece, out);
    }

    fn is_known(&mut self, time: i64, out: &mut Batch) -> bool {
        let Some((last, left)) = self.known else { return false };
        if time > last {
            // The last known record is gone, and what followed it perhaps too.
            self.known = None;
            self.missing(GapReason::Rotated, out);
            return false;
        }
        if time == last {
            self.known = (left > 1).then_some((last, left - 1));
        }
        true
    }

    /// Ends what is open, when nothing can follow any more.
    pub fn finish(&mut self, out: &mut Batch) {
        self.joiner.flush(out);
        if let Some(gap) = self.gap.take() {
            out.push_gap(&gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::logs::EntryKind;

    fn line(text: &str, stream: &str, nanos: u32) -> String {
        let time = format!("2026-01-01T00:00:00.{nanos:09}Z");
        serde_json::json!({"log": text, "stream": stream, "time": time}).to_string() + "\n"
    }

    fn contents(batch: &Batch) -> Vec<String> {
        batch.entries().map(|entry| String::from_utf8_lossy(entry.content).into_owned()).collect()
    }

    #[test]
    fn half_a_record_is_a_gap_and_what_follows_is_read() {
        let mut bytes = line("one\n", "stdout", 1);
        bytes.push_str(r#"{"log":"torn"#);
        bytes.push_str(&line("two\n", "stderr", 2));
        let (mut decoder, mut out) = (Decoder::default(), Batch::default());
        assert_eq!(decoder.records(bytes.as_bytes(), &mut out), bytes.len());
        let kinds: Vec<_> = out.entries().map(|entry| entry.kind).collect();
        assert_eq!(
            kinds,
            [EntryKind::Line(Stream::Stdout), EntryKind::Gap, EntryKind::Line(Stream::Stderr)]
        );
        let gap = out.entries().nth(1).and_then(|entry| Gap::from_content(entry.content));
        let gap = gap.expect("a gap");
        assert_eq!(gap.reason, GapReason::Damaged);
        assert_eq!(gap.to.zip(gap.from).map(|(to, from)| to - from), Some(1));
    }

    #[test]
    fn a_clock_that_jumps_back_changes_no_order() {
        let bytes = [("a\n", 9), ("b\n", 3), ("c\n", 5)].map(|(t, at)| line(t, "stdout", at));
        let (mut decoder, mut out) = (Decoder::default(), Batch::default());
        decoder.records(bytes.concat().as_bytes(), &mut out);
        assert_eq!(contents(&out), ["a", "b", "c"]);
    }

    #[test]
    fn another_source_of_the_same_log_repeats_nothing() {
        let bytes = [("a\n", 1), ("b\n", 2), ("c\n", 2), ("d\n", 2), ("e\n", 3)]
            .map(|(text, at)| line(text, "stdout", at));
        let (mut decoder, mut out) = (Decoder::default(), Batch::default());
        decoder.records(bytes[..3].concat().as_bytes(), &mut out);
        let mut decoder = decoder.over_again();
        decoder.records(bytes.concat().as_bytes(), &mut out);
        assert_eq!(contents(&out), ["a", "b", "c", "d", "e"]);

        let (mut decoder, mut out) = (decoder.over_again(), Batch::default());
        decoder.records(line("later\n", "stdout", 9).as_bytes(), &mut out);
        assert_eq!(
            out.entries().map(|entry| entry.kind).collect::<Vec<_>>(),
            [EntryKind::Gap, EntryKind::Line(Stream::Stdout)]
        );
    }

    proptest! {
        #[test]
        fn any_split_into_reads_and_restarts_gives_the_same_lines(
            texts in proptest::collection::vec(("[a-c\"\\\\é]{0,8}", any::<bool>(), 0u8..4), 1..40),
            cuts in proptest::collection::vec((1usize..400, any::<bool>()), 1..60),
        ) {
            let mut bytes = String::new();
            for (at, (text, out, kind)) in (0u32..).zip(&texts) {
                // Whole lines, full pieces, and last words without a newline.
                let text = match kind {
                    0 => "p".repeat(super::super::join::PIECE),
                    1 => text.clone(),
                    _ => format!("{text}\n"),
                };
                bytes += &line(&text, if *out { "stdout" } else { "stderr" }, at);
            }
            let bytes = bytes.as_bytes();
            let (mut whole, mut expected) = (Decoder::default(), Batch::default());
            prop_assert_eq!(whole.records(bytes, &mut expected), bytes.len());

            // The reader of files reads again from the last record's beginning, and
            // after a restart it has only what the checkpoint kept.
            let (mut decoder, mut got) = (Decoder::default(), Batch::default());
            let (mut offset, mut end) = (0, 0);
            let mut cuts = cuts.iter().cycle();
            while offset < bytes.len() {
                let (length, restart) = cuts.next().expect("endless");
                end = (end + length * 37).min(bytes.len());
                offset += decoder.records(&bytes[offset..end], &mut got);
                if *restart {
                    let json = serde_json::to_string(&decoder).expect("json");
                    decoder = serde_json::from_str(&json).expect("json");
                }
            }
            whole.finish(&mut expected);
            decoder.finish(&mut got);
            prop_assert_eq!(got, expected);
            prop_assert!(!decoder.holds_back());
        }
    }
}
