//! From the texts of a path and a query to the fields of a message, as
//! grpc-gateway reads them.

use std::collections::BTreeSet;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use tonic::Status;

use super::input::{OPTIONS, invalid};
use crate::domain::Error;

/// Fills in what a query says and the path did not.
pub(super) fn fill(
    message: &mut DynamicMessage,
    query: &str,
    path: &[(String, String)],
) -> Result<(), Status> {
    let mut seen = BTreeSet::new();
    for (key, values) in pairs(query)? {
        let (field, map_key) = match key.strip_suffix(']').and_then(|key| key.rsplit_once('[')) {
            Some((field, map_key)) => (field, Some(map_key)),
            None => (key.as_str(), None),
        };
        let names = proto_names(&message.descriptor(), field);
        let fixed = |(fixed, _): &(String, String)| {
            fixed.split('.').zip(&names).all(|(fixed, name)| fixed == name)
        };
        if path.iter().any(fixed) {
            continue;
        }
        // A field has two names, so two keys can mean one field.
        if !seen.insert((names.join("."), map_key.map(str::to_owned))) {
            return Err(Error::field(field, "is there twice").into());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        set(message, &names, &values, map_key)?;
    }
    Ok(())
}

/// Keys with their values, in the order in which they first come.
fn pairs(query: &str) -> Result<Vec<(String, Vec<String>)>, Status> {
    let mut pairs: Vec<(String, Vec<String>)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err(invalid(format!("\"{pair}\" in the query has a semicolon; write %3B")));
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let read = |text: &str| unescaped(&text.replace('+', " "));
        let (key, value) = (read(key)?, read(value)?);
        match pairs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => pairs.push((key, vec![value])),
        }
    }
    Ok(pairs)
}

/// The text that was escaped with percent signs.
pub(super) fn unescaped(text: &str) -> Result<String, Status> {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        if !digit(bytes.get(at + 1)) || !digit(bytes.get(at + 2)) {
            return Err(invalid(format!("\"{text}\" has a % without two digits; write %25")));
        }
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid(format!("\"{text}\" is not UTF-8")))
}

/// The names in the proto of what a key means; as it is where that is nothing.
fn proto_names(message: &MessageDescriptor, key: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut message = Some(message.clone());
    for name in key.split('.') {
        let Some(found) = message.and_then(|message| named(&message, name)) else {
            return key.split('.').map(str::to_owned).collect();
        };
        names.push(found.name().to_owned());
        message = nested(&found);
    }
    names
}

fn named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// The message of a field that has exactly one.
fn nested(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let one = !field.is_list() && !field.is_map();
    field.kind().as_message().filter(|_| one).cloned()
}

/// Sets the field that the names lead to. What the RPC does not know is
/// discarded, as in a body.
pub(super) fn set(
    message: &mut DynamicMessage,
    names: &[&str],
    values: &[String],
    map_key: Option<&str>,
) -> Result<(), Status> {
    let [name, rest @ ..] = names else { return Ok(()) };
    let wrong = |why: &str| Status::from(Error::field(*name, why));
    let Some(field) = named(&message.descriptor(), name) else { return Ok(()) };
    if let Some(oneof) = field.containing_oneof() {
        let synthetic = field.field_descriptor_proto().proto3_optional();
        let others = |other: &FieldDescriptor| other.number() != field.number();
        if !synthetic && oneof.fields().filter(others).any(|other| message.has_field(&other)) {
            return Err(wrong("excludes another that is set; set one of them"));
        }
    }
    if !rest.is_empty() {
        if nested(&field).is_none() {
            return Err(wrong("has no fields"));
        }
        let Value::Message(inner) = message.get_field_mut(&field) else { return Ok(()) };
        return set(inner, rest, values, map_key);
    }
    match (message.get_field_mut(&field), map_key, values) {
        (Value::Map(map), Some(key), [value]) => {
            let Kind::Message(entry) = field.kind() else { return Ok(()) };
            let key = scalar(&entry.map_entry_key_field(), name, key)?;
            let key = key.into_map_key().ok_or_else(|| wrong("has no such key"))?;
            map.insert(key, scalar(&entry.map_entry_value_field(), name, value)?);
        }
        (Value::Map(_), Some(_), _) => return Err(wrong("has several values for one key")),
        (Value::Map(_), None, _) => return Err(wrong("is a map; write name[key]=value")),
        (_, Some(_), _) => return Err(wrong("is no map and has no keys")),
        (Value::List(list), None, values) => {
            for value in values {
                list.push(scalar(&field, name, value)?);
            }
        }
        (one, None, [value]) => *one = scalar(&field, name, value)?,
        (_, None, _) => return Err(wrong("has several values; give one")),
    }
    Ok(())
}

fn scalar(field: &FieldDescriptor, name: &str, text: &str) -> Result<Value, Status> {
    let wrong = |what: &str| Status::from(Error::field(name, format!("\"{text}\" is not {what}")));
    // Rust reads a plus before numbers without a sign, Go does not.
    let unsigned = Some(text).filter(|text| !text.starts_with('+'));
    let value = match field.kind() {
        Kind::String => Some(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(Value::Bool(true)),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(Value::Bool(false)),
            _ => return Err(wrong("true or false")),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().ok().map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().ok().map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => unsigned.and_then(|t| t.parse().ok()).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => unsigned.and_then(|t| t.parse().ok()).map(Value::U64),
        Kind::Float => {
            text.parse().ok().filter(|x: &f32| is_json(text, x.is_finite())).map(Value::F32)
        }
        Kind::Double => {
            text.parse().ok().filter(|x: &f64| is_json(text, x.is_finite())).map(Value::F64)
        }
        Kind::Enum(values) => {
            let by_name = values.get_value_by_name(text);
            let found =
                by_name.or_else(|| text.parse().ok().and_then(|number| values.get_value(number)));
            return match found {
                Some(value) => Ok(Value::EnumNumber(value.number())),
                None => Err(wrong("one of its values")),
            };
        }
        Kind::Message(descriptor) => {
            // The JSON forms of times and durations are texts.
            let json = serde_json::Value::from(text);
            let message = DynamicMessage::deserialize_with_options(descriptor, json, &OPTIONS);
            return message.map(Value::Message).map_err(|_| wrong("of its type"));
        }
        Kind::Bytes => {
            return match base64(text) {
                Some(bytes) => Ok(Value::Bytes(bytes.into())),
                None => Err(wrong("base64")),
            };
        }
    };
    value.ok_or_else(|| wrong("a number in its range"))
}

/// Of what is not finite, only the spelling of JSON counts; what is too large
/// reads as infinite, and is none of these.
fn is_json(text: &str, finite: bool) -> bool {
    finite || matches!(text, "NaN" | "Infinity" | "-Infinity")
}

/// Either alphabet, with padding or without.
fn base64(text: &str) -> Option<Vec<u8>> {
    const EITHER: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let web = text.contains(['-', '_']);
    let alphabet = if web { alphabet::URL_SAFE } else { alphabet::STANDARD };
    GeneralPurpose::new(&alphabet, EITHER).decode(text).ok()
}
