//! From path, query and body of a request to the message of its RPC.

use std::io::Read as _;

use bytes::Bytes;
use http::{HeaderMap, header};
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde::de::DeserializeSeed as _;
use serde_json::de::SliceRead;
use tonic::{Code, Status};

use super::{once::Once, query, rules::Rule};
use crate::domain::Error;

/// Lenient as grpc-gateway: unknown fields are discarded.
pub(super) const OPTIONS: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);

/// Builds the request message.
pub(super) fn message(
    rule: &Rule,
    path: &[(String, String)],
    query: &str,
    body: &[u8],
) -> Result<DynamicMessage, Status> {
    let descriptor = rule.rpc.input();
    let mut message = match rule.body.as_str() {
        "*" if !body.trim_ascii().is_empty() => from_json(&descriptor, body)?,
        _ => DynamicMessage::new(descriptor),
    };
    for (field, value) in path {
        let names: Vec<&str> = field.split('.').collect();
        query::set(&mut message, &names, std::slice::from_ref(value), None)?;
    }
    if rule.body != "*" {
        query::fill(&mut message, query, path)?;
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

/// A refusal that no field is at fault for.
pub(super) fn invalid(message: String) -> Status {
    Status::new(Code::InvalidArgument, message)
}

/// The message names the field that is wrong.
fn from_json(descriptor: &MessageDescriptor, body: &[u8]) -> Result<DynamicMessage, Status> {
    // Also in fields that are not known, which nobody reads.
    if let Err(error) = std::str::from_utf8(body) {
        return Err(invalid(format!("the body is no UTF-8: {error}")));
    }
    tracked(body, |from| {
        DynamicMessage::deserialize_with_options(descriptor.clone(), from, &OPTIONS)
    })
    .and_then(|message| {
        tracked(body, |from| Once::Message(descriptor.clone()).deserialize(from))?;
        Ok(message)
    })
}

/// Reads the whole body; an error says where it came about.
fn tracked<'b, T>(
    body: &'b [u8],
    read: impl FnOnce(
        serde_path_to_error::Deserializer<'_, '_, &mut serde_json::Deserializer<SliceRead<'b>>>,
    ) -> Result<T, serde_json::Error>,
) -> Result<T, Status> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    match read(tracked).and_then(|read| json.end().map(|()| read)) {
        Ok(read) => Ok(read),
        Err(error) => match track.path().to_string().as_str() {
            // Where it is no JSON, there is no path.
            "." | "?" => Err(invalid(format!("the body is not as it should be: {error}"))),
            path => Err(Error::field(path, error.to_string()).into()),
        },
    }
}

#[cfg(test)]
mod tests;
