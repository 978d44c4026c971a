//! Values as JSON, in the forms of grpc-gateway.

use std::fmt::{Display, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, civil};

use super::wire::{self, Broken, Wire};

const EPOCH: civil::DateTime = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// What a Timestamp and a Duration can say, in seconds.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const LONGEST: u64 = 315_576_000_000;

/// A value as it is.
pub(super) fn plain(value: impl Display, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

/// A value as a text; none of these needs an escape.
pub(super) fn quoted(value: impl Display, out: &mut String) {
    let _ = write!(out, "\"{value}\"");
}

/// Bytes.
pub(super) fn base64(bytes: &[u8], out: &mut String) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// A float; the borders of its exponents are those of its own type.
pub(super) fn single(value: f32, out: &mut String) {
    let near = (1e-6..1e21).contains(&value.abs()) || value == 0.0;
    let shown = if near { value.to_string() } else { format!("{value:e}") };
    let shown = even(shown, value.into(), |text| text.parse() == Ok(value));
    float(value.into(), near, &shown, out);
}

/// A double.
pub(super) fn double(value: f64, out: &mut String) {
    let near = (1e-6..1e21).contains(&value.abs()) || value == 0.0;
    let shown = if near { value.to_string() } else { format!("{value:e}") };
    let shown = even(shown, value, |text| text.parse() == Ok(value));
    float(value, near, &shown, out);
}

/// Go switches to an exponent far from one, and has no sign before some.
fn float(value: f64, near: bool, shown: &str, out: &mut String) {
    if value.is_nan() {
        out.push_str("\"NaN\"");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else if near || value.abs() < 1.0 {
        out.push_str(shown);
    } else {
        out.push_str(&shown.replace('e', "e+"));
    }
}

/// Of two texts that are as short and as near, Rust shows the upper and Go the even one.
fn even(shown: String, value: f64, is_same: impl Fn(&str) -> bool) -> String {
    let end = shown.find('e').unwrap_or(shown.len());
    let last = shown[..end].rfind(|digit| ('1'..='9').contains(&digit));
    let odd = last.map(|at| (at, shown.as_bytes()[at])).filter(|(_, digit)| digit % 2 == 1);
    let Some((at, digit)) = odd else { return shown };
    let mut lower = shown.clone();
    lower.replace_range(at..=at, &char::from(digit - 1).to_string());
    let digits = |text: &str| {
        let mantissa = text.split('e').next().unwrap_or_default();
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    // All digits of the value: a half behind the lower text.
    let halfway = digits(&format!("{value:.40e}")) == format!("{}5", digits(&lower));
    if halfway && is_same(&lower) { lower } else { shown }
}

/// A JSON text.
pub(super) fn text(value: &str, out: &mut String) {
    out.push('"');
    // Most texts need no escape; this loop over all their bytes, without a way out in
    // between, is several times as fast as the one below.
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    if !value.bytes().fold(false, |found, byte| found | special(byte)) {
        out.push_str(value);
        out.push('"');
        return;
    }
    let mut from = 0;
    for (at, byte) in value.bytes().enumerate() {
        let escaped = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&value[from..at]);
        if escaped.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escaped);
        }
        from = at + 1;
    }
    out.push_str(&value[from..]);
    out.push('"');
}

/// Escapes what could end a script in a page. Go does so for what stands in a
/// stream, and not for other answers. All of these can stand in texts only.
pub(super) fn without_html(json: String) -> String {
    const ESCAPES: [(char, &str); 5] = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    ESCAPES.into_iter().fold(json, |json, (character, escape)| match json.contains(character) {
        true => json.replace(character, escape),
        false => json,
    })
}

fn seconds_and_nanos(mut bytes: &[u8]) -> Result<(i64, i32), Broken> {
    let (mut seconds, mut nanos) = (0, 0);
    while !bytes.is_empty() {
        match wire::field(&mut bytes)? {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// No fraction, or one of 3, 6 or 9 digits.
fn fraction(nanos: i32, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match nanos.unsigned_abs() {
        0 => Ok(()),
        n if n % 1_000_000 == 0 => write!(out, ".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => write!(out, ".{:06}", n / 1_000),
        n => write!(out, ".{n:09}"),
    };
}

/// A google.protobuf.Timestamp.
pub(super) fn timestamp(bytes: &[u8], out: &mut String) -> Result<(), Broken> {
    const WRONG: Broken = Broken("a timestamp is out of range");
    let (seconds, nanos) = seconds_and_nanos(bytes)?;
    if !TIMES.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(WRONG);
    }
    let since = SignedDuration::from_secs(seconds);
    let whole = EPOCH.checked_add(since).map_err(|_| WRONG)?;
    let _ = write!(out, "\"{whole}");
    fraction(nanos, out);
    out.push_str("Z\"");
    Ok(())
}

/// A google.protobuf.Duration.
pub(super) fn duration(bytes: &[u8], out: &mut String) -> Result<(), Broken> {
    let (seconds, nanos) = seconds_and_nanos(bytes)?;
    let torn = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    if torn || seconds.unsigned_abs() > LONGEST || nanos.unsigned_abs() >= 1_000_000_000 {
        return Err(Broken("a duration is out of range"));
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let _ = write!(out, "\"{sign}{}", seconds.unsigned_abs());
    fraction(nanos, out);
    out.push_str("s\"");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_texts_that_are_as_near_the_even_one_is_shown() {
        for (value, shown) in [
            (870_140_283_155_574.0 + 0.25, "870140283155574.2"),
            (870_140_283_155_574.0 + 0.75, "870140283155574.8"),
            (0.3, "0.3"),
            (-0.0, "-0"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-7"),
        ] {
            let mut out = String::new();
            double(value, &mut out);
            assert_eq!(out, shown);
        }
        let mut out = String::new();
        single(-1_625_396.0 - 0.25, &mut out);
        assert_eq!(out, "-1625396.2");
    }
}
