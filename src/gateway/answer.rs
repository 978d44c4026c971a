//! HTTP answers: one message, an error, or a stream of lines or events.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{Code, Status};

use super::{call::Answer, json};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// How long an event stream stays silent before it says that it lives.
const SILENCE: Duration = Duration::from_secs(15);

/// grpc-gateway's HTTP status of a gRPC code.
pub(super) fn http_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// JSON under a status.
pub(super) fn body(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// One message.
pub(super) fn one(message: &DynamicMessage) -> Response<Body> {
    let mut out = String::with_capacity(1024);
    json::message(message, &mut out);
    body(StatusCode::OK, out)
}

/// An error, under the status of its code.
pub(super) fn error(status: &Status, pool: &DescriptorPool) -> Response<Body> {
    error_under(http_status(status.code()), status, pool)
}

/// An error under another status than that of its code.
pub(super) fn error_under(
    http: StatusCode,
    status: &Status,
    pool: &DescriptorPool,
) -> Response<Body> {
    let mut out = String::from("{\"error\":");
    json::text(status.message(), &mut out);
    out.push(',');
    out.push_str(&fields(status, pool)[1..]);
    let mut response = body(http, out);
    if status.code() == Code::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// `{"code":…,"message":…,"details":[…]}`.
fn fields(status: &Status, pool: &DescriptorPool) -> String {
    let mut out = format!("{{\"code\":{},\"message\":", i32::from(status.code()));
    json::text(status.message(), &mut out);
    out.push_str(",\"details\":[");
    let details = pool
        .get_message_by_name("google.rpc.Status")
        .and_then(|descriptor| DynamicMessage::decode(descriptor, status.details()).ok())
        .and_then(|status| status.get_field_by_name("details").map(std::borrow::Cow::into_owned));
    let details = details.as_ref().and_then(|value| value.as_list()).unwrap_or_default();
    for (at, detail) in details.iter().filter_map(|detail| detail.as_message()).enumerate() {
        if at > 0 {
            out.push(',');
        }
        json::message(detail, &mut out);
    }
    out.push_str("]}");
    out
}

/// A stream: a line a message, or an event a message.
pub(super) fn many(answer: Answer, events: bool, pool: DescriptorPool) -> Response<Body> {
    let pieces = stream::unfold(Some((answer, pool)), move |state| async move {
        let (mut answer, pool) = state?;
        let Some(next) = answer.next_within(SILENCE).await else {
            // Only an event stream has a way to say nothing.
            let silence = if events { ": still here\n\n" } else { "" };
            return Some((Ok::<_, std::io::Error>(Bytes::from(silence)), Some((answer, pool))));
        };
        match next? {
            Ok(message) => {
                let mut out = String::from(if events { "data: " } else { "" });
                out.push_str("{\"result\":");
                json::message(&message, &mut out);
                out.push_str(if events { "}\n\n" } else { "}\n" });
                Some((Ok(out.into()), Some((answer, pool))))
            }
            Err(status) => {
                let error = format!("{{\"error\":{}}}", fields(&status, &pool));
                let out = match events {
                    true => format!("event: error\ndata: {error}\n\n"),
                    false => format!("{error}\n"),
                };
                Some((Ok(out.into()), None))
            }
        }
    });
    let mut response = body(StatusCode::OK, Body::from_stream(pieces));
    if events {
        response.headers_mut().insert(header::CONTENT_TYPE, EVENTS);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
