//! The real grpc-gateway and our bridge in front of one backend: the same
//! requests get the same bytes, but for what stands in [`Apart`].

use prost::Message as _;
use prost_reflect::Value;

use super::*;
use both::{Both, compare, get, post, raw};

mod both;
mod input;
mod random;

/// Where we differ from grpc-gateway on purpose. Everywhere, an error body has
/// the member `error` in front, which the documented clients read; the rest of
/// the body is compared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Apart {
    /// Not at all.
    No,
    /// In the words of a refusal and its details: ours name the field and what to do.
    Words,
    /// In the frame of an error before the first message of a stream: for us it
    /// is an error as any other, so that clients read one shape.
    Frame,
    /// Altogether, in these statuses and for this reason.
    Status {
        real: u16,
        ours: u16,
        #[expect(dead_code, reason = "told with a failure")]
        why: &'static str,
    },
}
use Apart::{Frame as NoFrame, No, Words};

/// A caller who sends more than one value has made a mistake, and is told.
pub(super) const TRAILING: Apart =
    Apart::Status { real: 200, ours: 400, why: "what follows the JSON is refused, not ignored" };
pub(super) const NO_CODE: Apart =
    Apart::Status { real: 500, ours: 500, why: "there are 17 codes; another is UNKNOWN" };
pub(super) const MINUS_ZERO: Apart =
    Apart::Status { real: 200, ours: 200, why: "prost sends -0.0 as the default that it equals" };
pub(super) const DIGITS: Apart =
    Apart::Status { real: 400, ours: 200, why: "digits below a nanosecond are cut off" };
pub(super) const GO_DURATION: Apart =
    Apart::Status { real: 200, ours: 400, why: "a duration has one form, that of a body" };
pub(super) const JSON_ALWAYS: Apart =
    Apart::Status { real: 400, ours: 400, why: "the refusal is JSON, not text/plain" };
pub(super) const NOT_UTF8: Apart =
    Apart::Status { real: 500, ours: 400, why: "what the caller did wrong is no 500" };
pub(super) const IGNORED_UTF8: Apart =
    Apart::Status { real: 200, ours: 400, why: "no part of a query may be other than UTF-8" };
pub(super) const OTHER_METHOD: Apart =
    Apart::Status { real: 501, ours: 405, why: "what the caller did wrong is no 5xx" };
pub(super) const INTERNAL: Apart =
    Apart::Status { real: 500, ours: 500, why: "an answer that cannot be written is INTERNAL" };
pub(super) const NO_ANSWER: Apart =
    Apart::Status { real: 200, ours: 200, why: "an empty stream is JSON too, as every answer" };

#[tokio::test]
async fn errors_and_streams_are_those_of_the_real_gateway() {
    let both = Both::start().await;
    let mut cases = Vec::new();
    for code in 1..=16 {
        cases.extend(get(&[
            (&format!("/golden/fail/{code}"), No),
            (&format!("/golden/fail/{code}?message=%3Ca%26b%3E%22%5C%0A%E2%80%A8%7F"), No),
            (&format!("/golden/stream?items=2&code={code}"), No),
            (&format!("/golden/stream?items=1&code={code}&message=%3Ca%26b%3E%E2%80%A8"), No),
            (&format!("/golden/stream?code={code}"), NoFrame),
        ]));
    }
    cases.extend(get(&[
        ("/golden/stream?items=3", No),
        ("/golden/fail/17", NO_CODE),
        ("/golden/stream", NO_ANSWER),
    ]));
    compare(&both, cases).await;
}

#[tokio::test]
async fn details_of_errors_are_those_of_the_real_gateway() {
    const UNKNOWN: Apart = Apart::Status {
        real: 500,
        ours: 400,
        why: "a detail of a type that is not known is shown as its bytes and does not hide the error",
    };
    let both = Both::start().await;
    let url = "type.googleapis.com";
    let known = [
        format!(
            r#"{{"@type":"{url}/google.rpc.BadRequest","fieldViolations":[{{"field":"<a>"}}]}}"#
        ),
        format!(r#"{{"@type":"{url}/google.rpc.ErrorInfo","metadata":{{"b":"1","a":"&"}}}}"#),
        format!(r#"{{"@type":"{url}/google.protobuf.Duration","value":"3s"}}"#),
        format!(r#"{{"@type":"{url}/google.protobuf.Timestamp","value":"2026-01-02T03:04:05Z"}}"#),
        format!(r#"{{"@type":"{url}/golden.v1.RawRequest"}}"#),
        format!(r#"{{"@type":"{url}/golden.v1.Item","number":5}}"#),
    ];
    let details = format!("[{}]", known.join(","));
    let descriptor = pool().get_message_by_name("google.rpc.Status").expect("it");
    let json = format!(r#"{{"code":9,"message":"why ä","details":{details}}}"#);
    let mut from = serde_json::Deserializer::from_str(&json);
    let mut status = DynamicMessage::deserialize(descriptor, &mut from).expect("a status");
    let target = |path: &str, status: &DynamicMessage| {
        let status = STANDARD_NO_PAD.encode(status.encode_to_vec());
        let status = percent_encoding::utf8_percent_encode(&status, NON_ALPHANUMERIC).to_string();
        format!("{path}code=9&status={status}")
    };
    let mut cases = Vec::new();
    for path in ["/golden/fail/9?", "/golden/stream?items=1&"] {
        cases.push(("GET", target(path, &status), vec![], No));
    }
    let any = pool().get_message_by_name("google.protobuf.Any").expect("it");
    let mut any = DynamicMessage::new(any);
    any.set_field_by_name("type_url", Value::String(format!("{url}/golden.v1.Nobody")));
    status.set_field_by_name("details", Value::List(vec![Value::Message(any)]));
    cases.push(("GET", target("/golden/fail/9?", &status), vec![], UNKNOWN));
    compare(&both, cases).await;
}

#[tokio::test]
async fn what_no_message_can_be_is_an_internal_error_for_both() {
    let both = Both::start().await;
    let cases = [
        raw(b"\x0a\x01\xff", Words),      // a text that is not UTF-8
        raw(b"\x0a\x05a", Words),         // a text that ends too early
        raw(b"\x18", Words),              // a number that does
        raw(b"\x82\x01\x02\x10\x01", No), // a time of one nanosecond
        raw(b"\x82\x01\x06\x10\xff\xff\xff\xff\x0f", INTERNAL), // of nanoseconds below nothing
        raw(b"\x8a\x01\x04\x08\x01\x10\x01", No), // a duration
        raw(b"\xf8\x07\x05\xf2\x07\x01x", No), // fields of a newer contract
        raw(b"\x08\x05\x12\x01x", No),    // fields that another kind of value has
    ];
    compare(&both, cases).await;
}

#[tokio::test]
async fn fields_are_written_as_the_real_gateway_writes_them() {
    let both = Both::start().await;
    let bodies = [
        ("", No),
        (" \n", No),
        ("{}", No),
        (r#"{"text":"<a href=\"x\">&amp;\u2028\u2029\u007f\u0000\ud83d\ude00</a>"}"#, No),
        (r#"{"late":"l","early":"e","perhaps":"","maybe":{},"sure":false}"#, No),
        (r#"{"left":""}"#, No),
        (r#"{"ratio":-0.0}"#, MINUS_ZERO),
        (r#"{"ratios":[-0.0],"single":-1e-7}"#, No),
        (r#"{"right":{}}"#, No),
        (r#"{"colour":"COLOUR_RED","colours":[0,1,7,-1]}"#, No),
        (r#"{"large":"-9223372036854775808","unsigned":"18446744073709551615"}"#, No),
        (r#"{"counts":{"b":1,"a":2,"":"3"},"byNumber":{"-2":{},"10":{"number":1},"9":{}}}"#, No),
        (
            r#"{"byFlag":{"true":"t","false":"f"},"byLarge":{"10":"AA==","9":""},"bySigned":{"-1":1,"1":9}}"#,
            No,
        ),
        (r#"{"at":"0001-01-01T00:00:00Z","lasts":"-0.000000001s"}"#, No),
        (r#"{"at":"9999-12-31T23:59:59.999999999Z","lasts":"315576000000s"}"#, No),
        (r#"{"at":"2026-01-02T03:04:05.123456+02:00","lasts":"-315576000000.5s"}"#, No),
        (r#"{"inner":{"inner":{"text":"deep","times":["1970-01-01T00:00:00.000100Z"]}}}"#, No),
        (r#"{"data":"-_8","unpacked":["1",2]}"#, No),
        (r#"{"unknown":{"deep":[1]},"memory_mb":3,"large":5,"text":null,"item":null}"#, No),
    ];
    let mut cases = post("/golden/echo", &bodies);
    cases.extend(post("/golden/repeat", &bodies));
    for number in [
        "0",
        "1",
        "-1.5",
        "1e20",
        "1e21",
        "1.5e21",
        "123456789012345680000",
        "1e-6",
        "1e-7",
        "9.99e-7",
        "0.1",
        "1.7976931348623157e308",
        "5e-324",
        "\"NaN\"",
        "\"Infinity\"",
        "\"-Infinity\"",
        "16777217",
        "3.4e38",
        "1e-45",
    ] {
        cases.extend(post(
            "/golden/echo",
            &[(&format!("{{\"ratio\":{number},\"ratios\":[{number},{number}]}}"), No)],
        ));
        if !number.contains("e308") {
            cases.extend(post("/golden/echo", &[(&format!("{{\"single\":{number}}}"), No)]));
        }
    }
    compare(&both, cases).await;
}
