//! One record of the engine's json-file log.
//!
//! The engine writes `{"log":"text\n","stream":"stdout","time":"…Z"}` and a
//! newline. That form is read by hand, several times faster than by a JSON
//! parser; any other goes to serde_json.

use jiff::Timestamp;
use serde::Deserialize;

use super::Stream;

/// A record; its text is in the buffer that `read` was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Stream.
    pub stream: Stream,
    /// Nanoseconds since 1970.
    pub time: i64,
}

impl Record {
    /// Reads one record without its newline. Its text replaces what is in `text`.
    pub fn read(line: &[u8], text: &mut Vec<u8>) -> Option<Self> {
        text.clear();
        quick(line, text).or_else(|| {
            text.clear();
            thorough(line, text)
        })
    }
}

fn quick(line: &[u8], text: &mut Vec<u8>) -> Option<Record> {
    let mut rest = line.strip_prefix(br#"{"log":""#)?;
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest)?;
        text.extend_from_slice(&rest[..at]);
        if rest[at] == b'"' {
            rest = &rest[at + 1..];
            break;
        }
        let escape = *rest.get(at + 1)?;
        rest = &rest[at + 2..];
        match escape {
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'b' => text.push(8),
            b'f' => text.push(12),
            b'"' | b'\\' | b'/' => text.push(escape),
            b'u' => {
                let digits = std::str::from_utf8(rest.get(..4)?).ok()?;
                // A half of a surrogate pair is left to the thorough way.
                let char = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[4..];
            }
            _ => return None,
        }
    }
    let rest = rest.strip_prefix(br#","stream":"std"#)?;
    let (stream, rest) = match (rest.strip_prefix(br#"out""#), rest.strip_prefix(br#"err""#)) {
        (Some(rest), _) => (Stream::Stdout, rest),
        (None, Some(rest)) => (Stream::Stderr, rest),
        (None, None) => return None,
    };
    let time = rest.strip_prefix(br#","time":""#)?.strip_suffix(br#""}"#)?;
    Some(Record { stream, time: parse_time(time)? })
}

fn thorough(line: &[u8], text: &mut Vec<u8>) -> Option<Record> {
    #[derive(Deserialize)]
    struct Written {
        log: String,
        stream: Stream,
        time: String,
    }
    let written: Written = serde_json::from_slice(line).ok()?;
    text.extend_from_slice(written.log.as_bytes());
    Some(Record { stream: written.stream, time: parse_time(written.time.as_bytes())? })
}

/// RFC 3339 to nanoseconds since 1970. The engine writes UTC with `Z` and up to
/// nine digits of a second.
pub fn parse_time(text: &[u8]) -> Option<i64> {
    quick_time(text).or_else(|| {
        let at: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
        i64::try_from(at.as_nanosecond()).ok()
    })
}

fn quick_time(text: &[u8]) -> Option<i64> {
    let text = text.strip_suffix(b"Z")?;
    let number = |from: usize, to: usize| {
        text.get(from..to)?.iter().try_fold(0i64, |sum, byte| {
            byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0'))
        })
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| text.get(*at) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Leap days, leap seconds and what is no date are left to the thorough way.
    let length = *LENGTHS.get(usize::try_from(month - 1).ok()?)?;
    if !(1970..2262).contains(&year)
        || !(1..=length).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let nanos = match text.get(19) {
        None => 0,
        Some(b'.') if (21..=29).contains(&text.len()) => {
            let digits = u32::try_from(text.len() - 20).ok()?;
            number(20, text.len())? * 10i64.pow(9 - digits)
        }
        Some(_) => return None,
    };
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Days of the months, without leap days.
const LENGTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Days since 1970 in the Gregorian calendar, by counting years from March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    year * 365 + leaps + (month * 153 + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Option<(Stream, i64, String)> {
        let mut text = Vec::new();
        let record = Record::read(line.as_bytes(), &mut text)?;
        Some((record.stream, record.time, String::from_utf8(text).expect("text")))
    }

    #[test]
    fn the_engines_form_is_read() {
        let line = r#"{"log":"a \"b\" \u003c\u0001\\\n","stream":"stderr","time":"2026-11-24T20:28:19.123456789Z"}"#;
        let (stream, time, text) = read(line).expect("a record");
        assert_eq!((stream, text.as_str()), (Stream::Stderr, "a \"b\" <\u{1}\\\n"));
        assert_eq!(time, 1_795_552_099_123_456_789);
    }

    #[test]
    fn attributes_and_another_order_are_read_too() {
        let line =
            r#"{"log":"x\n","stream":"stdout","attrs":{"tag":"t"},"time":"2026-01-01T00:00:00Z"}"#;
        assert_eq!(read(line).expect("a record").2, "x\n");
        let line = r#"{"time":"2026-01-01T01:00:00+01:00","stream":"stdout","log":"\ud83d\ude00"}"#;
        assert_eq!(read(line), Some((Stream::Stdout, 1_767_225_600_000_000_000, "😀".to_owned())));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in ["", "{", r#"{"log":"x"#, r#"{"log":"x\q","stream":"stdout","time":"now"}"#] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn quick_and_thorough_agree(
            text in any::<String>(), out in any::<bool>(), time in 0i64..9_000_000_000_000_000_000,
        ) {
            let at = Timestamp::from_nanosecond(i128::from(time)).expect("in range");
            let line = serde_json::json!({"log": text, "stream": if out { "stdout" } else { "stderr" }, "time": at.to_string()});
            // serde_json sorts the keys as the engine does: log, stream, time.
            let line = line.to_string();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let thorough = thorough(line.as_bytes(), &mut b).expect("a record");
            prop_assert_eq!(quick(line.as_bytes(), &mut a), Some(thorough));
            prop_assert_eq!(&a, &b);
            prop_assert_eq!(thorough.time, time);
        }

        #[test]
        fn no_bytes_make_it_fall(line in any::<Vec<u8>>()) {
            let mut text = Vec::new();
            let _ = Record::read(&line, &mut text);
        }
    }
}
