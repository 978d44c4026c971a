//! One call of an RPC in this process: the same stack as over the network.

use std::time::Duration;

use axum::{Router, body::Body};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, header};
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::{Code, Status};
use tower::ServiceExt as _;

/// Largest answer message that is taken from our own services.
const MOST: usize = 256 << 20;

/// What a stream has next: nothing in time, its end, a message, or its failure.
pub(super) type Next = Option<Option<Result<Bytes, Status>>>;

/// The answer of a call, message by message.
pub(super) struct Answer {
    body: Body,
    buffer: BytesMut,
    /// The status, once it came.
    end: Option<Result<(), Status>>,
}

/// Calls an RPC. An error that came before any message is in `Err`.
pub(super) async fn call(
    grpc: &Router,
    rpc: &MethodDescriptor,
    headers: &HeaderMap,
    extensions: http::Extensions,
    message: &DynamicMessage,
) -> Result<Answer, Status> {
    call_with(grpc, rpc, headers, extensions, Body::from(frame(message)?)).await
}

/// A message as it stands in a body.
pub(super) fn frame(message: &DynamicMessage) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).map_err(|_| Status::resource_exhausted("too large"))?);
    message.encode(&mut frame).map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

/// The same with a body of frames.
pub(super) async fn call_with(
    grpc: &Router,
    rpc: &MethodDescriptor,
    headers: &HeaderMap,
    extensions: http::Extensions,
    frames: Body,
) -> Result<Answer, Status> {
    let mut request = Request::post(path(rpc))
        .version(http::Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(frames)
        .map_err(|error| Status::internal(error.to_string()))?;
    forward(headers, request.headers_mut());
    *request.extensions_mut() = extensions;

    let response = grpc.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        if status.code() != Code::Ok {
            return Err(status);
        }
    } else if head.status != http::StatusCode::OK {
        return Err(Status::new(Code::Unknown, format!("the RPC answered {}", head.status)));
    }
    Ok(Answer { body, buffer: BytesMut::new(), end: None })
}

/// The HTTP path of an RPC.
pub(super) fn path(rpc: &MethodDescriptor) -> String {
    format!("/{}/{}", rpc.parent_service().full_name(), rpc.name())
}

/// What of the HTTP headers an RPC sees.
fn forward(from: &HeaderMap, to: &mut HeaderMap) {
    if let Some(value) = from.get(header::AUTHORIZATION) {
        to.insert(header::AUTHORIZATION, value.clone());
    }
    if let Some(value) = from.get("grpc-timeout") {
        to.insert("grpc-timeout", value.clone());
    }
    for (name, value) in from {
        let Some(name) = name.as_str().strip_prefix("grpc-metadata-") else { continue };
        let Ok(name) = HeaderName::try_from(name) else { continue };
        // A second way to say who one is would be a way around the first.
        if name != header::AUTHORIZATION
            && !name.as_str().starts_with("grpc-")
            && !to.contains_key(&name)
        {
            to.insert(name, value.clone());
        }
    }
}

impl Answer {
    /// The bytes of the next message; `None` at a good end, the status at a bad one.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            match self.take_frame() {
                Ok(Some(bytes)) => return Some(Ok(bytes)),
                Ok(None) => {}
                Err(status) => return Some(Err(status)),
            }
            match &self.end {
                Some(Ok(())) => return None,
                Some(Err(status)) => {
                    let status = status.clone();
                    self.end = Some(Ok(()));
                    return Some(Err(status));
                }
                None => self.read().await,
            }
        }
    }

    /// The same, or `None` in the outer option when nothing came in time.
    pub(super) async fn next_within(&mut self, limit: Duration) -> Next {
        tokio::time::timeout(limit, self.next()).await.ok()
    }

    /// Reading is safe to give up: what was read is in the buffer.
    async fn read(&mut self) {
        match self.body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                // Mostly a message comes whole, and is not copied.
                Ok(data) if self.buffer.is_empty() => self.buffer = data.into(),
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    self.end = Some(match status {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => Ok(()),
                    });
                }
            },
            Some(Err(error)) => self.end = Some(Err(Status::unavailable(error.to_string()))),
            None => self.end = Some(Ok(())),
        }
    }

    fn take_frame(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(head) = self.buffer.get(..5) else { return Ok(None) };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).unwrap_or(MOST + 1);
        if length > MOST {
            return Err(Status::internal("an answer is too large"));
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}
