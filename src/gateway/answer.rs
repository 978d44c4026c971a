//! HTTP answers: one message, an error, or a stream of lines or events.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode, header};
use prost_reflect::MethodDescriptor;
use tonic::{Code, Status};

use super::{
    call::{Answer, Next},
    json,
    plan::Plans,
    wire::{self, Broken, Wire},
};

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
pub(super) fn one(message: &[u8], rpc: &MethodDescriptor, plans: &Plans) -> Response<Body> {
    // A list of containers has about three times the bytes of its messages.
    let mut out = String::with_capacity(4 * message.len() + 256);
    match write(message, rpc.output().full_name(), plans, &mut out) {
        Ok(()) => body(StatusCode::OK, out),
        Err(status) => error(&status, plans),
    }
}

fn write(message: &[u8], name: &str, plans: &Plans, out: &mut String) -> Result<(), Status> {
    let place = plans.find(name).ok_or(Broken("its type is not known"));
    place
        .and_then(|place| plans.write(place, message, out))
        .map_err(|Broken(why)| Status::internal(format!("an answer is no {name}: {why}")))
}

/// An error, under the status of its code.
pub(super) fn error(status: &Status, plans: &Plans) -> Response<Body> {
    error_under(http_status(status.code()), status, plans)
}

/// An error under another status than that of its code.
pub(super) fn error_under(http: StatusCode, status: &Status, plans: &Plans) -> Response<Body> {
    let mut out = String::from("{\"error\":");
    json::text(status.message(), &mut out);
    out.push(',');
    out.push_str(&fields(status, plans)[1..]);
    let mut response = body(http, out);
    if status.code() == Code::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// A method that the path does not have. The code is grpc-gateway's; its 501
/// would say that the mistake is ours.
pub(super) fn other_method(allowed: &[&Method], plans: &Plans) -> Response<Body> {
    let status = Status::new(Code::Unimplemented, "Method Not Allowed");
    let mut response = error_under(StatusCode::METHOD_NOT_ALLOWED, &status, plans);
    let names: Vec<&str> = allowed.iter().map(|method| method.as_str()).collect();
    if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, names);
    }
    response
}

/// `{"code":…,"message":…,"details":[…]}`.
fn fields(status: &Status, plans: &Plans) -> String {
    let mut out = format!("{{\"code\":{},\"message\":", i32::from(status.code()));
    json::text(status.message(), &mut out);
    out.push_str(",\"details\":");
    let details = out.len();
    if write_details(status.details(), plans, &mut out).is_err() {
        // Details that cannot be read must not hide the error itself.
        out.truncate(details);
        out.push_str("[]");
    }
    out.push('}');
    out
}

/// The details in a google.rpc.Status.
fn write_details(mut status: &[u8], plans: &Plans, out: &mut String) -> Result<(), Broken> {
    let any = plans.find("google.protobuf.Any").ok_or(Broken("no type for details"))?;
    let mut separator = "";
    out.push('[');
    while !status.is_empty() {
        if let (3, Wire::Bytes(detail)) = wire::field(&mut status)? {
            out.push_str(separator);
            separator = ",";
            plans.write(any, detail, out)?;
        }
    }
    out.push(']');
    Ok(())
}

/// A stream: a line a message, or an event a message. What came first was
/// waited for already.
pub(super) fn many(
    first: Next,
    answer: Answer,
    events: bool,
    rpc: &MethodDescriptor,
    plans: &Arc<Plans>,
) -> Response<Body> {
    let (output, plans) = (rpc.output(), plans.clone());
    let pieces = stream::unfold(Some((first, answer)), move |state| {
        let (output, plans) = (output.clone(), plans.clone());
        async move {
            let (next, mut answer) = state?;
            let next = match next {
                None => answer.next_within(SILENCE).await,
                next => next,
            };
            let Some(next) = next else {
                // Only an event stream has a way to say nothing.
                let silence = if events { ": still here\n\n" } else { "" };
                return Some((Ok::<_, std::io::Error>(Bytes::from(silence)), Some((None, answer))));
            };
            let mut out = String::from("{\"result\":");
            let written =
                next?.and_then(|message| write(&message, output.full_name(), &plans, &mut out));
            let (event, rest) = match written {
                Ok(()) => ("", Some((None, answer))),
                Err(status) => {
                    out = format!("{{\"error\":{}", fields(&status, &plans));
                    ("event: error\n", None)
                }
            };
            out.push('}');
            let out = json::without_html(out);
            let piece = if events { format!("{event}data: {out}\n\n") } else { out + "\n" };
            Some((Ok(piece.into()), rest))
        }
    });
    let mut response = body(StatusCode::OK, Body::from_stream(pieces));
    if events {
        response.headers_mut().insert(header::CONTENT_TYPE, EVENTS);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
