//! What a reader of an engine's log must bring to light, case by case: pieces,
//! clocks that jump back, a beginning in mid-line, since and until.

use super::{Batch, Decoder, EntryKind, Filter, Stream, join::PIECE};

/// What the engine wrote: stream, time, text.
type Written<'a> = [(Stream, i64, &'a str)];

use Stream::{Stderr, Stdout};

fn record((stream, time, text): &(Stream, i64, &str)) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(*time)).expect("in range");
    let stream = if *stream == Stdout { "stdout" } else { "stderr" };
    let time = format!("{time:.9}");
    serde_json::json!({ "log": text, "stream": stream, "time": time }).to_string() + "\n"
}

fn read(written: &Written<'_>) -> Batch {
    let bytes: String = written.iter().map(record).collect();
    let (mut decoder, mut batch) = (Decoder::default(), Batch::default());
    assert_eq!(decoder.records(bytes.as_bytes(), &mut batch), bytes.len());
    decoder.finish(&mut batch);
    batch
}

/// Stream, time and the last letters of each line that a filter lets through.
fn told(batch: &Batch, filter: &Filter) -> Vec<(Stream, i64, String)> {
    let mut told = Vec::new();
    filter.scan(batch, |_, entry| {
        let EntryKind::Line(stream) = entry.kind else { return };
        let end = &entry.content[entry.content.len().saturating_sub(4)..];
        told.push(line(stream, entry.time, &String::from_utf8_lossy(end)));
    });
    told
}

fn line(stream: Stream, time: i64, end: &str) -> (Stream, i64, String) {
    (stream, time, end.to_owned())
}

#[test]
fn pieces_of_two_streams_become_whole_lines_with_the_time_of_their_first() {
    let full = "p".repeat(PIECE);
    let batch = read(&[
        (Stdout, 10, &full),
        (Stderr, 11, &full),
        (Stdout, 10, &full),
        (Stderr, 12, "err\n"),
        (Stdout, 13, "out\n"),
        (Stdout, 14, "next\n"),
        (Stderr, 15, "\n"),
    ]);
    let lengths: Vec<_> = batch.entries().map(|entry| entry.content.len()).collect();
    assert_eq!(lengths, [PIECE + 3, 2 * PIECE + 3, 4, 0]);
    assert_eq!(
        told(&batch, &Filter::default()),
        [
            line(Stderr, 11, "perr"),
            line(Stdout, 10, "pout"),
            line(Stdout, 14, "next"),
            line(Stderr, 15, ""),
        ]
    );
}

#[test]
fn a_log_that_begins_in_the_middle_of_a_line_begins_with_what_is_left_of_it() {
    let full = "p".repeat(PIECE);
    let batch = read(&[(Stdout, 10, &full), (Stdout, 10, "rest\n"), (Stdout, 20, "next\n")]);
    assert_eq!(
        told(&batch, &Filter::default()),
        [line(Stdout, 10, "rest"), line(Stdout, 20, "next")]
    );
    let batch = read(&[(Stdout, 10, "rest\n"), (Stdout, 20, "next\n")]);
    assert_eq!(
        told(&batch, &Filter::default()),
        [line(Stdout, 10, "rest"), line(Stdout, 20, "next")]
    );
}

#[test]
fn a_log_that_ends_in_the_middle_of_a_line_ends_with_what_there_is_of_it() {
    let full = "p".repeat(PIECE);
    let batch = read(&[(Stdout, 10, "one\n"), (Stderr, 20, &full), (Stdout, 30, "last")]);
    assert_eq!(
        told(&batch, &Filter::default()),
        [line(Stdout, 10, "one"), line(Stdout, 30, "last"), line(Stderr, 20, "pppp")]
    );
}

#[test]
fn since_is_included_and_until_is_not_to_the_nanosecond() {
    let batch = read(&[(Stdout, 10, "a\n"), (Stdout, 11, "b\n"), (Stdout, 12, "c\n")]);
    for (since, until, expected) in [
        (None, None, "abc"),
        (Some(11), None, "bc"),
        (None, Some(12), "ab"),
        (Some(11), Some(12), "b"),
        (Some(12), Some(12), ""),
        (Some(13), None, ""),
        (None, Some(10), ""),
    ] {
        let filter = Filter { since, until, ..Filter::default() };
        let texts: String = told(&batch, &filter).into_iter().map(|line| line.2).collect();
        assert_eq!(texts, expected, "{since:?} {until:?}");
    }
}

#[test]
fn a_clock_that_jumps_back_hides_no_line_from_since_and_until() {
    let batch = read(&[
        (Stdout, 10, "a\n"),
        (Stdout, 20, "b\n"),
        (Stdout, 5, "c\n"),
        (Stderr, 15, "d\n"),
        (Stdout, 25, "e\n"),
    ]);
    for (since, until, expected) in [
        (None, None, "abcde"),
        (Some(15), None, "bde"),
        (None, Some(15), "ac"),
        (Some(10), Some(20), "ad"),
    ] {
        let filter = Filter { since, until, ..Filter::default() };
        let texts: String = told(&batch, &filter).into_iter().map(|line| line.2).collect();
        assert_eq!(texts, expected, "{since:?} {until:?}: the order is the log's");
    }
}
