//! Answers as of an engine whose clock was put back: what was before that is ahead now.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// By how much; longer than any engine of a test lives.
const BY: Duration = Duration::from_secs(100 * 24 * 3600);

/// True for a question whose answer tells when something was.
pub(super) fn concerns(line: &str) -> bool {
    let told = ["/json", "/networks/", "until="];
    line.starts_with("GET ") && told.iter().any(|part| line.contains(part))
}

/// Passes a question on, and the answer with the times from before `then` put forward.
pub(super) async fn answer(
    client: UnixStream,
    mut engine: UnixStream,
    head: &str,
    then: Timestamp,
) -> std::io::Result<()> {
    // Of this version an answer comes in one piece.
    let head = head.replacen("HTTP/1.1\r\n", "HTTP/1.0\r\n", 1);
    engine.write_all(head.as_bytes()).await?;
    let mut whole = String::new();
    engine.read_to_string(&mut whole).await?;
    let (head, body) = whole.split_once("\r\n\r\n").expect("an answer");
    let status = head.split_once(' ').and_then(|(_, rest)| rest.lines().next());
    let mut told = String::new();
    for value in serde_json::Deserializer::from_str(body).into_iter::<Value>() {
        let mut value = value.expect("JSON");
        put_forward(&mut value, then);
        told.push_str(&value.to_string());
        told.push('\n');
    }
    super::answer(client, status.expect("a status"), &told).await
}

fn put_forward(value: &mut Value, then: Timestamp) {
    match value {
        Value::String(text) => {
            let at = text.parse().ok().filter(|at: &Timestamp| at.as_second() > 0 && *at < then);
            if let Some(at) = at {
                *text = (at + BY).to_string();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| put_forward(value, then)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let nanos = value.as_i64().filter(|_| name == "timeNano").map(i128::from);
                match nanos.and_then(|nanos| Timestamp::from_nanosecond(nanos).ok()) {
                    Some(at) if at < then => {
                        let ahead = i64::try_from((at + BY).as_nanosecond()).expect("a time");
                        *value = ahead.into();
                    }
                    Some(_) => {}
                    None => put_forward(value, then),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
