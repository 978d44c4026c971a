//! Whatever comes in is a message, or the caller's mistake.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, ReflectMessage as _};
use serde_json::Value;

use super::*;
use crate::{gateway::rules::Rules, rpc::pb};

/// Any JSON, with names that the messages know among the others.
fn json() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        "name|names|image|ports|envs|internal|key|value|limit|since|streams|heartbeat|lastLines",
        ".{0,6}",
    ];
    let texts = prop_oneof![".{0,8}", "-?[0-9]{1,12}(\\.[0-9])?s?", "2026-01-01T00:00:00Z"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((names.clone(), inner), 0..5)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

fn is_fair(path: &str, query: &str, body: &[u8]) -> Result<(), TestCaseError> {
    static RULES: LazyLock<Rules> =
        LazyLock::new(|| Rules::read(&DescriptorPool::decode(pb::DESCRIPTORS).unwrap_or_default()));
    prop_assert!(RULES.0.len() > 15);
    for rule in &RULES.0 {
        let known = rule.rpc.input().get_field_by_name("name").is_some();
        let path = known.then(|| ("name".to_owned(), path.to_owned()));
        match message(rule, path.as_slice(), query, body) {
            Ok(message) => prop_assert_eq!(message.descriptor(), rule.rpc.input()),
            Err(status) => prop_assert_eq!(status.code(), Code::InvalidArgument),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..Default::default() })]

    #[test]
    fn any_json_is_a_message_or_an_invalid_argument(body in json(), path in ".{0,6}") {
        is_fair(&path, "", body.to_string().as_bytes())?;
    }

    #[test]
    fn any_bytes_are_a_message_or_an_invalid_argument(
        body in any::<Vec<u8>>(), text in "[\\[\\]{}\":,\\\\ua0-9e+-]{0,40}",
    ) {
        is_fair("", "", &body)?;
        is_fair("", "", text.as_bytes())?;
    }

    #[test]
    fn any_query_is_a_message_or_an_invalid_argument(
        query in "((name|lines|since|cursor|streams|heartbeat|pageSize|.{0,4})(=|%|&|\\[|\\]|\\.|;)?[%a-f0-9+]{0,6}&?){0,5}",
    ) {
        is_fair("", &query, b"")?;
    }

    #[test]
    fn no_bytes_make_gzip_fall_or_grow(body in any::<Vec<u8>>(), good: bool) {
        let head = if good { vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3] } else { vec![] };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        let plain = inflate(&headers, [head, body].concat().into(), 64);
        prop_assert!(plain.map_or(true, |plain| plain.len() <= 64));
    }
}
