//! The session of a BuildKit build: the engine asks, over a connection that we
//! open, for the context, credentials and secrets.

use std::{collections::BTreeMap, convert::Infallible, future::Future, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioExecutor;
use prost::Message as _;

use crate::{
    domain::{Result, build::Secret},
    engine::{Credential, body, context::Shared},
};

mod copy;

/// What the engine may ask for.
const METHODS: [&str; 3] = [
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.filesync.v1.FileSync/DiffCopy",
];
/// Longest question.
const LONGEST: usize = 64 << 10;
/// Longest head of one. It repeats all of a `.dockerignore`, each pattern as a header.
const LONGEST_HEAD: u32 = 4 << 20;
/// Most questions at once.
const AT_ONCE: u32 = 32;
/// Bytes that wait to be read, of one question and of all. The engine asks for each file by
/// a few bytes in a frame of its own, and half of the latter bounds what such frames take:
/// they must fit for some questions, or the connection is given up.
const WINDOW: u32 = 64 << 10;
const WINDOW_OF_ALL: u32 = 16 << 20;
/// `grpc-status` of what is not there, of what cannot be asked, and of what failed.
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";
const UNKNOWN: &str = "2";

/// What is answered with.
pub(super) struct Answers {
    pub(super) credentials: BTreeMap<String, Credential>,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) context: Arc<Shared>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CredentialsRequest {
    #[prost(string, tag = "1")]
    host: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CredentialsResponse {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    secret: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetSecretRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetSecretResponse {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

/// Opens a session of this id; it lives as long as what is answered is polled.
pub(super) async fn open(
    address: &str,
    version: &str,
    id: &str,
    answers: Answers,
) -> Result<impl Future<Output = ()> + Send + use<>> {
    let mut question = Request::post(format!("/{version}/session"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c")
        .header("X-Docker-Expose-Session-Uuid", id)
        .header("X-Docker-Expose-Session-Name", "container-svc")
        .header("X-Docker-Expose-Session-Sharedkey", &answers.context.key);
    for method in METHODS {
        question = question.header("X-Docker-Expose-Session-Grpc-Method", method);
    }
    let upgraded = body::upgrade(address, question).await?;
    let answers = Arc::new(answers);
    let service = service_fn(move |question| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answer(&answers, question).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(LONGEST_HEAD)
        .max_concurrent_streams(AT_ONCE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_OF_ALL)
        .serve_connection(upgraded, service);
    Ok(async move {
        // The engine ends it with the build.
        if let Err(error) = served.await {
            tracing::debug!(%error, "a build's session ended");
        }
    })
}

type Answered = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(answers: &Answers, question: Request<Incoming>) -> Answered {
    let path = question.uri().path().to_owned();
    if path == METHODS[2] {
        return copy::diff_copy(answers.context.clone(), question);
    }
    let body = Limited::new(question.into_body(), LONGEST).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    // One message, behind five bytes that say its length.
    let message = body.get(5..).unwrap_or_default();
    match path.as_str() {
        // SERVING.
        "/grpc.health.v1.Health/Check" => done(&[0x08, 0x01]),
        path if path == METHODS[0] => {
            let asked = CredentialsRequest::decode(message).unwrap_or_default();
            done(&credentials(answers, &asked.host).encode_to_vec())
        }
        path if path == METHODS[1] => {
            let asked = GetSecretRequest::decode(message).unwrap_or_default();
            match answers.secrets.get(&asked.id) {
                Some(secret) => done(&GetSecretResponse { data: secret.0.clone() }.encode_to_vec()),
                None => refused(NOT_FOUND),
            }
        }
        _ => refused(UNIMPLEMENTED),
    }
}

fn credentials(answers: &Answers, host: &str) -> CredentialsResponse {
    let host = match host {
        "registry-1.docker.io" | "index.docker.io" => "docker.io",
        host => host,
    };
    let found = answers.credentials.get(host);
    found.map_or_else(CredentialsResponse::default, |credential| {
        match &credential.identity_token {
            // Without a user name, it is a token.
            Some(token) => CredentialsResponse { username: String::new(), secret: token.clone() },
            None => CredentialsResponse {
                username: credential.username.clone(),
                secret: credential.password.clone(),
            },
        }
    })
}

fn done(message: &[u8]) -> Answered {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.extend_from_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
    respond(StreamBody::new(stream::iter(frames)).boxed_unsync(), None)
}

fn refused(status: &'static str) -> Answered {
    let nothing = StreamBody::new(stream::empty::<Result<Frame<Bytes>, Infallible>>());
    respond(nothing.boxed_unsync(), Some(status))
}

fn respond(body: UnsyncBoxBody<Bytes, Infallible>, status: Option<&'static str>) -> Answered {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(status) = status {
        headers.insert("grpc-status", HeaderValue::from_static(status));
    }
    response
}
