//! From path, query and body of a request to the message of its RPC.

use std::io::Read as _;

use bytes::Bytes;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use tonic::{Code, Status};

use super::rules::Rule;
use crate::domain::Error;

/// Lenient as grpc-gateway: unknown fields are discarded.
const OPTIONS: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);

/// Builds the request message.
pub(super) fn message(
    rule: &Rule,
    path: Vec<(String, String)>,
    query: &str,
    body: &[u8],
) -> Result<DynamicMessage, Status> {
    let descriptor = rule.rpc.input();
    let mut message = match rule.body.as_str() {
        "*" if !body.is_empty() => from_json(&descriptor, body)?,
        _ => DynamicMessage::new(descriptor),
    };
    if rule.body != "*" {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            set(&mut message, &decoded(key)?, &decoded(value)?)?;
        }
    }
    for (field, value) in path {
        set(&mut message, &field, &value)?;
    }
    Ok(message)
}

/// The body without its compression, never larger than the limit.
pub(super) fn inflate(headers: &HeaderMap, body: Bytes, limit: usize) -> Result<Bytes, Refused> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or("", |v| v.to_str().unwrap_or("?"));
    match encoding {
        "" | "identity" => Ok(body),
        "gzip" => {
            let mut plain = Vec::new();
            let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            match flate2::read::MultiGzDecoder::new(&*body).take(most).read_to_end(&mut plain) {
                Ok(_) if plain.len() > limit => Err(Refused::TooLarge),
                Ok(_) => Ok(plain.into()),
                Err(error) => Err(Refused::Broken(format!("the body is no gzip: {error}"))),
            }
        }
        other => Err(Refused::Encoding(format!(
            "the content encoding \"{other}\" is not supported; use gzip or none"
        ))),
    }
}

/// Why a body is not read.
#[derive(Debug)]
pub(super) enum Refused {
    /// Over the limit.
    TooLarge,
    /// Cannot be decoded.
    Broken(String),
    /// Compressed in a way that is not supported.
    Encoding(String),
}

fn invalid(message: String) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn decoded(text: &str) -> Result<String, Status> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid(format!("the query \"{text}\" is not UTF-8")))
}

/// The message names the field that is wrong.
fn from_json(descriptor: &MessageDescriptor, body: &[u8]) -> Result<DynamicMessage, Status> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), tracked, &OPTIONS);
    match message.and_then(|message| json.end().map(|()| message)) {
        Ok(message) => Ok(message),
        Err(error) => match track.path().to_string().as_str() {
            "." => Err(invalid(format!("the body is not as it should be: {error}"))),
            path => Err(Error::field(path, error.to_string()).into()),
        },
    }
}

fn set(message: &mut DynamicMessage, path: &str, text: &str) -> Result<(), Status> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
    let descriptor = prost_reflect::ReflectMessage::descriptor(message);
    let field =
        descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
    // What the RPC does not know is discarded, as in a body.
    let Some(field) = field else { return Ok(()) };
    if let Some(rest) = rest {
        let Value::Message(inner) = message.get_field_mut(&field) else { return Ok(()) };
        return set(inner, rest, text);
    }
    if field.is_map() {
        return Err(invalid(format!("{name}: a map cannot stand in a query")));
    }
    let value = scalar(&field, text)?;
    if field.is_list() {
        if let Value::List(values) = message.get_field_mut(&field) {
            values.push(value);
        }
    } else {
        message.set_field(&field, value);
    }
    Ok(())
}

fn scalar(field: &FieldDescriptor, text: &str) -> Result<Value, Status> {
    let wrong = |what: &str| {
        let name = field.json_name();
        Status::from(Error::field(name, format!("\"{text}\" is not {what}")))
    };
    let value = match field.kind() {
        Kind::String => Some(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(Value::Bool(true)),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(Value::Bool(false)),
            _ => return Err(wrong("true or false")),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().ok().map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().ok().map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => text.parse().ok().map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => text.parse().ok().map(Value::U64),
        Kind::Float => text.parse().ok().map(Value::F32),
        Kind::Double => text.parse().ok().map(Value::F64),
        Kind::Enum(values) => {
            let by_name = values.get_value_by_name(text).map(|value| value.number());
            match by_name.or_else(|| text.parse().ok()) {
                Some(number) => Some(Value::EnumNumber(number)),
                None => return Err(wrong("one of its values")),
            }
        }
        Kind::Message(descriptor) => {
            // The JSON forms of times and durations are texts.
            let json = serde_json::Value::from(text);
            let message = DynamicMessage::deserialize_with_options(descriptor, json, &OPTIONS);
            Some(Value::Message(message.map_err(|_| wrong("of its type"))?))
        }
        Kind::Bytes => {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            Some(Value::Bytes(bytes.map_err(|_| wrong("base64"))?.into()))
        }
    };
    value.ok_or_else(|| wrong("a number in its range"))
}
