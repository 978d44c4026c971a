//! Cuts what an error says, so that its headers never exceed what clients take.
//!
//! A status travels in HTTP/2 headers, its message twice: as text with escapes, and in
//! the details with base64. Several implementations of gRPC take 8 KiB of headers in
//! all, and tell of more with an error of their own that says nothing.

use std::collections::HashMap;

use tonic_types::FieldViolation;

use crate::domain::Error;

/// Most bytes of a message, as they are and as a header escapes them.
const MESSAGE: usize = 2000;
const ESCAPED: usize = 3000;
/// Bytes of headers for the message and the details, and what the latter have in any case.
const HEADERS: usize = 7500;
const ALWAYS: usize = 250;
/// Most bytes of one fact or one description.
const ONE: usize = 400;
/// What an entry takes beside its texts, at most.
const AROUND: usize = 12;
/// What stands where something was left out, and room for the number in it.
const MARK: usize = 40;

/// What is sent of an error.
pub(super) struct Fitted {
    pub(super) message: String,
    pub(super) metadata: HashMap<String, String>,
    pub(super) violations: Vec<FieldViolation>,
}

pub(super) fn fit(error: &Error) -> Fitted {
    let message = cut(error.message(), MESSAGE, ESCAPED);
    // Base64 makes four bytes of three.
    let base64 = HEADERS - weight(&message).min(HEADERS);
    let mut room = (base64 / 4 * 3).saturating_sub(message.len() + ALWAYS);
    let mut takes = |a: &str, b: &str| {
        let left = room.checked_sub(a.len() + b.len() + AROUND);
        room = left.unwrap_or(room);
        left.is_some()
    };
    let short = |text: &str| cut(text, ONE, 3 * ONE);
    let violations = error
        .violations()
        .iter()
        .map(|wrong| FieldViolation::new(short(&wrong.field), short(&wrong.description)));
    let violations = violations.filter(|wrong| takes(&wrong.field, &wrong.description)).collect();
    let metadata = error.metadata().iter().map(|(key, value)| (key.clone(), short(value)));
    let metadata = metadata.filter(|(key, value)| takes(key, value)).collect();
    Fitted { message, metadata, violations }
}

/// Bytes of a text as a header escapes it, at most.
fn weight(text: &str) -> usize {
    text.chars().map(weight_of).sum()
}

fn weight_of(c: char) -> usize {
    if c.is_ascii_alphanumeric() { 1 } else { 3 * c.len_utf8() }
}

/// Leaves out the middle of a text that is too long: its beginning says what it is
/// about, and its end what was told last.
fn cut(text: &str, most: usize, escaped: usize) -> String {
    if text.len() <= most && weight(text) <= escaped {
        return text.to_owned();
    }
    // Half of the room for either end.
    let half = |chars: &mut dyn Iterator<Item = char>| -> usize {
        let (mut bytes, mut heavy) = (0, 0);
        for c in chars {
            (bytes, heavy) = (bytes + c.len_utf8(), heavy + weight_of(c));
            if bytes > (most - MARK) / 2 || heavy > (escaped - 3 * MARK) / 2 {
                return bytes - c.len_utf8();
            }
        }
        bytes
    };
    let (head, tail) = (half(&mut text.chars()), half(&mut text.chars().rev()));
    let tail = text.len() - tail;
    let left_out = tail.saturating_sub(head);
    format!("{} [{left_out} bytes left out] {}", &text[..head], &text[tail.max(head)..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Status;

    use super::*;
    use crate::domain::{Kind, error::FieldViolation as Wrong};

    /// As HTTP/2 counts them.
    fn headers(status: &Status) -> usize {
        let response = status.clone().into_http::<()>();
        let lines = response.headers().iter();
        lines.map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    #[test]
    fn a_long_message_keeps_its_two_ends() {
        let text = format!("the build failed: {}; it wrote last", "x ".repeat(5000));
        let sent = Status::from(Error::precondition("BUILD_FAILED", text));
        assert!(sent.message().starts_with("the build failed: x"), "{sent:?}");
        assert!(sent.message().ends_with("; it wrote last"), "{sent:?}");
        assert!(sent.message().contains("bytes left out]"), "{sent:?}");
    }

    #[test]
    fn a_short_message_is_sent_as_it_is() {
        let text = "the \"name\" is empty: give one, as in web\n\u{e4}";
        assert_eq!(Status::from(Error::precondition("X", text)).message(), text);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_error_has_more_headers_than_clients_take(
            message in "(\\PC|[ a-z\u{0}-\u{1f}]){0,4000}",
            wrong in prop::collection::vec(("[a-z\\[\\].]{0,600}", "\\PC{0,900}"), 0..20),
            facts in prop::collection::vec(("[a-z]{0,40}", "\\PC{0,3000}"), 0..20),
        ) {
            let wrong: Vec<_> = wrong
                .into_iter()
                .map(|(field, description)| Wrong { field, description })
                .collect();
            let mut errors = vec![Error::new(Kind::FailedPrecondition, "A_REASON", message)];
            errors.push(Error::fields(wrong));
            for error in errors {
                let error = facts.iter().fold(error, |error, (key, value)| error.with(key, value));
                let sent = Status::from(error);
                prop_assert!(headers(&sent) < 7900, "{}", headers(&sent));
            }
        }
    }
}
