//! Paths whose bodies are bytes and not JSON: an archive comes and goes as it is.
//!
//! A client stream can have no google.api.http rule, and bytes in JSON are a third
//! larger. The RPCs are the same, and so are their errors.

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Response, header};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage as _, Value};
use tonic::Status;

use super::{FIRST, Inner, answer, call, query};

/// Most bytes of one message; a gRPC message of a request is at most 4 MiB.
const PIECE: usize = 256 << 10;
/// The field of the bytes in the messages of these RPCs.
const FIELD: &str = "data";
const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

/// One path.
#[derive(Debug)]
pub(super) struct Raw {
    method: Method,
    path: &'static str,
    pub(super) rpc: MethodDescriptor,
}

/// All of them. The query fills the other fields of the request, in an upload those
/// of its first message.
#[derive(Debug)]
pub(super) struct Raws(Vec<Raw>);

impl Raws {
    pub(super) fn read(pool: &DescriptorPool) -> Self {
        let one = |method, path, service: &str, rpc: &str| {
            let service = pool.get_service_by_name(service)?;
            let rpc = service.methods().find(|method| method.name() == rpc)?;
            Some(Raw { method, path, rpc })
        };
        let keeps = "containersvc.v1.KeepService";
        let builds = "containersvc.v1.BuildService";
        let archive = "/container-svc/keep/archive";
        let all = [
            one(Method::GET, archive, keeps, "ExportKeep"),
            one(Method::PUT, archive, keeps, "ImportKeep"),
            one(Method::POST, "/container-svc/image/context", builds, "UploadBuildContext"),
        ];
        Self(all.into_iter().flatten().collect())
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Option<&Raw> {
        self.0.iter().find(|raw| raw.method == *method && raw.path == path)
    }
}

impl Inner {
    /// Answers a request for one of them; its caller may call the RPC.
    pub(super) async fn raw(
        &self,
        raw: &Raw,
        headers: &HeaderMap,
        extensions: http::Extensions,
        asked: &str,
        body: Body,
    ) -> Response<Body> {
        let answered = async {
            let mut first = DynamicMessage::new(raw.rpc.input());
            query::fill(&mut first, asked, &[])?;
            if raw.rpc.is_client_streaming() {
                if headers.contains_key(header::CONTENT_ENCODING) {
                    let why = "the body has a content encoding; send it as it is";
                    return Err(Status::invalid_argument(why));
                }
                let frames = frames(&first, body)?;
                let body = Body::from_stream(frames);
                return call::call_with(&self.grpc, &raw.rpc, headers, extensions, body).await;
            }
            call::call(&self.grpc, &raw.rpc, headers, extensions, &first).await
        };
        match answered.await {
            Ok(answered) if raw.rpc.is_server_streaming() => self.bytes(answered, &raw.rpc).await,
            Ok(mut answered) => match answered.next().await {
                Some(Ok(message)) => answer::one(&message, &raw.rpc, &self.plans),
                Some(Err(status)) => answer::error(&status, &self.plans),
                None => answer::error(&Status::internal("the RPC answered nothing"), &self.plans),
            },
            Err(status) => answer::error(&status, &self.plans),
        }
    }

    /// The bytes of a stream. One that fails late is cut off, so that nobody takes
    /// what came for the whole.
    async fn bytes(&self, mut answered: call::Answer, rpc: &MethodDescriptor) -> Response<Body> {
        let first = match answered.next_within(FIRST).await {
            Some(Some(Err(status))) => return answer::error(&status, &self.plans),
            first => first,
        };
        let output = rpc.output();
        let first = stream::iter(first.map(Ok::<_, Status>));
        let rest = stream::unfold(answered, |mut answered| async move {
            let next = answered.next().await;
            next.map(|next| (Ok(Some(next)), answered))
        });
        let ends = first.chain(rest).map_ok(|message| message.transpose());
        let pieces = ends.map(move |message| {
            let Some(message) = message.and_then(|message| message)? else {
                return Ok::<_, Status>(Bytes::new());
            };
            let message = DynamicMessage::decode(output.clone(), message)
                .map_err(|error| Status::internal(error.to_string()))?;
            let data = message.get_field_by_name(FIELD);
            Ok(data.and_then(|data| data.as_bytes().cloned()).unwrap_or_default())
        });
        let pieces = pieces.map_err(std::io::Error::other);
        let mut response = Response::new(Body::from_stream(pieces));
        response.headers_mut().insert(header::CONTENT_TYPE, TAR);
        response
    }
}

/// The frames of an upload: the first message, then a message for each piece.
fn frames(
    first: &DynamicMessage,
    body: Body,
) -> Result<impl Stream<Item = Result<Bytes, axum::Error>> + Send + use<>, Status> {
    let descriptor = first.descriptor();
    let head = call::frame(first)?;
    let pieces = body.into_data_stream().flat_map(move |data| {
        let descriptor = descriptor.clone();
        let pieces = match data {
            Ok(mut data) => {
                let mut pieces = Vec::new();
                while !data.is_empty() {
                    let mut message = DynamicMessage::new(descriptor.clone());
                    let piece = data.split_to(data.len().min(PIECE));
                    message.set_field_by_name(FIELD, Value::Bytes(piece));
                    pieces.push(call::frame(&message).map_err(axum::Error::new));
                }
                pieces
            }
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    });
    Ok(stream::once(std::future::ready(Ok(head))).chain(pieces))
}
