//! From the engine's errors to those of the domain.

use std::time::Duration;

use bollard::errors::Error as Docker;

use crate::domain::{Error, Kind};

/// Reason of an error about a host port that is taken.
pub const PORT_IN_USE: &str = "PORT_IN_USE";
/// Reason of an error about an engine that is not there.
pub const ENGINE_UNREACHABLE: &str = "ENGINE_UNREACHABLE";

/// Reason of an error for a registry that takes no more requests for now.
pub const REGISTRY_LIMIT: &str = "REGISTRY_LIMIT";
/// Reason of an error for a registry to which the engine has no connection.
pub const REGISTRY_UNREACHABLE: &str = "REGISTRY_UNREACHABLE";

/// The engine's words for a registry that is not there, or of no use at the moment.
const UNREACHABLE: [&str; 8] = [
    "no such host",
    "connection refused",
    "timeout",
    ": eof",
    "unexpected eof",
    "dial tcp",
    "tls:",
    "unexpected http status: 5",
];

/// What the engine said, without a guess at what it was asked.
pub(super) fn convert(address: &str, error: Docker) -> Error {
    match error {
        Docker::DockerResponseServerError { status_code, message } => {
            answered(status_code, &message)
        }
        Docker::DockerStreamError { error } => streamed(&error),
        Docker::JsonDataError { .. } | Docker::JsonSerdeError { .. } => {
            garbled(address).because(error)
        }
        other => unreachable(address).because(other),
    }
}

/// The engine is not there, or left in the middle of an answer.
pub(super) fn unreachable(address: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        ENGINE_UNREACHABLE,
        format!("the Docker engine at {address} cannot be reached; start it, or set DOCKER_HOST"),
    )
    .with("address", address)
}

/// The engine's answer breaks its own rules.
pub(super) fn garbled(address: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        "ENGINE_GARBLED",
        format!("the Docker engine at {address} sent an answer that cannot be read"),
    )
}

/// The engine took too long.
pub(super) fn timeout(address: &str, limit: Duration) -> Error {
    Error::new(
        Kind::Unavailable,
        "ENGINE_TIMEOUT",
        format!(
            "the Docker engine at {address} did not answer within {} s; see whether it hangs",
            limit.as_secs()
        ),
    )
}

/// The engine refused.
pub(super) fn answered(status: u16, message: &str) -> Error {
    if is_port_conflict(message) {
        return Error::precondition(PORT_IN_USE, message);
    }
    let (kind, reason) = match status {
        _ if message.contains("no space left on device") => (Kind::ResourceExhausted, "NO_SPACE"),
        400 => (Kind::InvalidArgument, "ENGINE_REFUSED"),
        403 => (Kind::FailedPrecondition, "ENGINE_FORBADE"),
        404 => (Kind::NotFound, "ENGINE_NOT_FOUND"),
        409 => (Kind::AlreadyExists, "ENGINE_CONFLICT"),
        503 => (Kind::Unavailable, "ENGINE_BUSY"),
        _ => (Kind::FailedPrecondition, "ENGINE_FAILED"),
    };
    Error::new(kind, reason, format!("the Docker engine answered: {}", message.trim()))
}

/// Errors inside a pull: the registry's words, passed on by the engine.
pub(super) fn streamed(message: &str) -> Error {
    let text = said(message);
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (kind, reason, advice) = if has(&["no space left on device"]) {
        (Kind::ResourceExhausted, "NO_SPACE", "make room on the engine's disk")
    } else if has(&["toomanyrequests", "too many requests", "http 429"]) {
        (Kind::ResourceExhausted, REGISTRY_LIMIT, "wait, or log in to the registry")
    } else if has(&UNREACHABLE) {
        (Kind::Unavailable, REGISTRY_UNREACHABLE, "see whether the registry can be reached")
    } else if has(&[
        "not found",
        "forbidden",
        "http 401",
        "http 403",
        "http 404",
        "denied:",
        "manifest unknown",
        "access denied",
        "does not exist",
        "unauthorized",
        "no basic auth",
        "name unknown",
        "authentication required",
    ]) {
        (Kind::NotFound, "IMAGE_NOT_FOUND", "check the name, and the credentials for the registry")
    } else {
        (Kind::FailedPrecondition, "PULL_FAILED", "see the engine's log")
    };
    Error::new(kind, reason, format!("the image cannot be pulled: {}; {advice}", message.trim()))
}

/// Errors inside a push.
pub(super) fn pushed(message: &str) -> Error {
    let text = said(message);
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (kind, reason, advice) = if has(&["toomanyrequests", "too many requests"]) {
        (Kind::ResourceExhausted, REGISTRY_LIMIT, "wait, or log in to the registry")
    } else if has(&UNREACHABLE) {
        (Kind::Unavailable, REGISTRY_UNREACHABLE, "see whether the registry can be reached")
    } else if has(&["does not exist locally", "no such image"]) {
        (Kind::NotFound, "IMAGE_NOT_FOUND", "list the images to see which are there")
    } else if has(&["denied", "unauthorized", "no basic auth", "authentication required"]) {
        (
            Kind::FailedPrecondition,
            "REGISTRY_REFUSED",
            "give a credential of the registry that may push",
        )
    } else {
        (Kind::FailedPrecondition, "PUSH_FAILED", "see the engine's log")
    };
    Error::new(kind, reason, format!("the image cannot be pushed: {}; {advice}", message.trim()))
}

/// What a message says in lower case, without addresses and names of images: a name may have
/// any of the words by which errors are told apart.
fn said(message: &str) -> String {
    let name = |word: &&str| word.contains('/') || word.contains("@sha256:");
    let words = message.split_whitespace().map(|word| match name(&word) {
        true if word.ends_with(':') => ":",
        true => "…",
        false => word,
    });
    words.collect::<Vec<_>>().join(" ").replace(" :", ":").to_ascii_lowercase()
}

fn is_port_conflict(message: &str) -> bool {
    message.contains("port is already allocated")
        || (message.contains("address already in use") && message.contains("bind"))
}

/// The host port that an error about a conflict names: the digits that follow
/// the first address, in the words of any release of the engine.
pub fn conflicting_port(message: &str) -> Option<u16> {
    const MARKS: [&str; 7] = [
        "failed to bind host port for ",
        "failed to bind host port ",
        "Bind for ",
        "listen tcp4 ",
        "listen tcp6 ",
        "listen tcp ",
        "listen udp ",
    ];
    let at = MARKS.iter().find_map(|mark| message.find(mark).map(|at| at + mark.len()))?;
    let address = &message[at..];
    // An IPv6 address stands in brackets, or is the short form of "any".
    let port = match (address.strip_prefix('['), address.strip_prefix(":::")) {
        (Some(inside), _) => inside.split_once("]:")?.1,
        (None, Some(port)) => port,
        (None, None) => address.split_once(':')?.1,
    };
    let end = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
    port[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_conflict_is_read_from_the_engines_words() {
        for (message, port) in [
            ("Bind for 0.0.0.0:8080 failed: port is already allocated", Some(8080)),
            ("Error: listen tcp4 0.0.0.0:81: bind: address already in use", Some(81)),
            ("listen tcp [::]:82: bind: address already in use", Some(82)),
            ("Bind for :::83 failed: port is already allocated", Some(83)),
            (
                "failed to bind host port for 0.0.0.0:84:172.17.0.2:80/tcp: address already in use",
                Some(84),
            ),
            ("failed to bind host port [::]:85/tcp: address already in use", Some(85)),
            ("no port", None),
        ] {
            assert_eq!(conflicting_port(message), port, "{message}");
        }
    }

    #[test]
    fn a_name_in_what_a_registry_says_of_a_push_is_no_reason() {
        for (message, kind) in [
            ("denied: r:5000/team/geofence:1", Kind::FailedPrecondition),
            ("received unexpected HTTP status: 503 Service Unavailable", Kind::Unavailable),
            ("An image does not exist locally with the tag: r:5000/team/timeout", Kind::NotFound),
            ("Put \"http://r:5000/v2/denied/blobs\": EOF", Kind::Unavailable),
        ] {
            assert_eq!(pushed(message).kind(), kind, "{message}");
        }
    }

    #[test]
    fn a_registrys_words_become_a_kind() {
        for (message, kind) in [
            ("manifest for x:y not found: manifest unknown", Kind::NotFound),
            ("dial tcp 127.0.0.1:1: connect: connection refused", Kind::Unavailable),
            ("toomanyrequests: slow down", Kind::ResourceExhausted),
            (
                "error parsing HTTP 429 response body: unexpected end of JSON",
                Kind::ResourceExhausted,
            ),
            ("error parsing HTTP 403 response body: unexpected end of JSON", Kind::NotFound),
            ("received unexpected HTTP status: 503 Service Unavailable", Kind::Unavailable),
            ("Get http://r/v2/: EOF", Kind::Unavailable),
            ("net/http: TLS handshake timeout", Kind::Unavailable),
            ("dial tcp 127.0.0.1:1: i/o timeout", Kind::Unavailable),
            ("manifest for r:5000/x/timeout-svc:1 not found: manifest unknown", Kind::NotFound),
            (
                "Get \"http://r/v2/x/forbidden/manifests/1\": dial tcp: no such host",
                Kind::Unavailable,
            ),
            ("something else", Kind::FailedPrecondition),
        ] {
            assert_eq!(streamed(message).kind(), kind, "{message}");
        }
    }
}
