//! Messages as JSON, as grpc-gateway writes them by default: every field that
//! is not optional is there, an unset message is null, 64-bit numbers are texts.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, Kind, MapKey, ReflectMessage as _, Value,
};

/// Writes a message.
pub(crate) fn message(message: &DynamicMessage, out: &mut String) {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => return timestamp(message, out),
        "google.protobuf.Duration" => return duration(message, out),
        "google.protobuf.Any" => return any(message, out),
        _ => {}
    }
    out.push('{');
    let mut first = true;
    for field in descriptor.fields() {
        let unset = field.supports_presence() && !message.has_field(&field);
        // Optional fields and members of a oneof are left out; a plain message is null.
        if unset
            && (field.containing_oneof().is_some() || !matches!(field.kind(), Kind::Message(_)))
        {
            continue;
        }
        if !first {
            out.push(',');
        }
        first = false;
        text(field.json_name(), out);
        out.push(':');
        if unset {
            out.push_str("null");
        } else {
            value(&message.get_field(&field), &field.kind(), out);
        }
    }
    out.push('}');
}

fn value(value: &Value, kind: &Kind, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Bool(value) => write!(out, "{value}"),
        Value::I32(value) => write!(out, "{value}"),
        Value::U32(value) => write!(out, "{value}"),
        Value::I64(value) => write!(out, "\"{value}\""),
        Value::U64(value) => write!(out, "\"{value}\""),
        Value::F32(value) => return float(f64::from(*value), &value.to_string(), out),
        Value::F64(value) => return float(*value, &value.to_string(), out),
        Value::String(value) => return text(value, out),
        Value::Bytes(value) => write!(out, "\"{}\"", STANDARD.encode(value)),
        Value::EnumNumber(number) => return enumeration(*number, kind, out),
        Value::Message(value) => return message(value, out),
        Value::List(values) => {
            list('[', ']', values.iter(), out, |item, out| self::value(item, kind, out));
            return;
        }
        Value::Map(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            let of = match kind {
                Kind::Message(entry) => entry.map_entry_value_field().kind(),
                other => other.clone(),
            };
            list('{', '}', entries.into_iter(), out, |(key, item), out| {
                match key {
                    MapKey::String(key) => text(key, out),
                    MapKey::Bool(key) => text(&key.to_string(), out),
                    MapKey::I32(key) => text(&key.to_string(), out),
                    MapKey::I64(key) => text(&key.to_string(), out),
                    MapKey::U32(key) => text(&key.to_string(), out),
                    MapKey::U64(key) => text(&key.to_string(), out),
                }
                out.push(':');
                self::value(item, &of, out);
            });
            return;
        }
    };
}

fn list<T>(
    open: char,
    close: char,
    items: impl Iterator<Item = T>,
    out: &mut String,
    mut write: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(close);
}

fn enumeration(number: i32, kind: &Kind, out: &mut String) {
    let name = match kind {
        Kind::Enum(descriptor) => EnumDescriptor::get_value(descriptor, number),
        _ => None,
    };
    match name {
        Some(name) => text(name.name(), out),
        None => {
            let _ = write!(out, "{number}");
        }
    }
}

/// Go switches to an exponent below 1e-6 and from 1e21 on.
fn float(value: f64, plain: &str, out: &mut String) {
    let size = value.abs();
    if value.is_nan() {
        out.push_str("\"NaN\"");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else if value != 0.0 && !(1e-6..1e21).contains(&size) {
        let exponent = format!("{value:e}");
        let signed = if size >= 1e21 { exponent.replace('e', "e+") } else { exponent };
        out.push_str(&signed);
    } else {
        out.push_str(plain);
    }
}

/// A JSON text.
pub(super) fn text(value: &str, out: &mut String) {
    out.push('"');
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

fn seconds_and_nanos(message: &DynamicMessage) -> (i64, i32) {
    let seconds = message.get_field_by_name("seconds").and_then(|value| value.as_i64());
    let nanos = message.get_field_by_name("nanos").and_then(|value| value.as_i32());
    (seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// No fraction, or one of 3, 6 or 9 digits.
fn fraction(nanos: i32) -> String {
    match nanos.unsigned_abs() {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

fn timestamp(message: &DynamicMessage, out: &mut String) {
    let (seconds, nanos) = seconds_and_nanos(message);
    let whole = Timestamp::from_second(seconds).unwrap_or_default().to_string();
    let whole = whole.trim_end_matches('Z');
    let _ = write!(out, "\"{whole}{}Z\"", fraction(nanos));
}

fn duration(message: &DynamicMessage, out: &mut String) {
    let (seconds, nanos) = seconds_and_nanos(message);
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let _ = write!(out, "\"{sign}{}{}s\"", seconds.unsigned_abs(), fraction(nanos));
}

/// With `@type` beside the fields of a type that we know, else its bytes.
fn any(message: &DynamicMessage, out: &mut String) {
    let url = message.get_field_by_name("type_url");
    let url = url.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
    let bytes = message.get_field_by_name("value");
    let bytes = bytes.as_ref().and_then(|value| value.as_bytes()).cloned().unwrap_or_default();
    let descriptor = message.descriptor();
    let pool: &DescriptorPool = descriptor.parent_pool();
    let known = pool
        .get_message_by_name(url.rsplit('/').next().unwrap_or_default())
        .and_then(|descriptor| DynamicMessage::decode(descriptor, bytes.clone()).ok());
    out.push_str("{\"@type\":");
    text(url, out);
    let mut fields = String::new();
    match known {
        Some(inner) => self::message(&inner, &mut fields),
        None => {
            let _ = write!(fields, "{{\"value\":\"{}\"}}", STANDARD.encode(&bytes));
        }
    }
    if fields.len() > 2 {
        out.push(',');
    }
    out.push_str(&fields[1..]);
}
