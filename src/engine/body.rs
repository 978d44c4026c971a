//! One question to the engine on a connection of its own, read chunk by chunk.
//!
//! Not bollard's: it believes whatever length a frame of a log says.

use std::{
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    domain::{Error, Result},
    engine::errors,
};

/// Most bytes that are read ahead.
const READ_AHEAD: usize = 256 * 1024;
/// Longest error that is read.
const LONGEST_ERROR: usize = 64 * 1024;

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// What is sent along with a question.
pub(super) type Sent = UnsyncBoxBody<Bytes, std::io::Error>;

type Connection = http1::Connection<TokioIo<Box<dyn Socket>>, Sent>;

/// A body. It is read only when it is polled, so a slow reader slows the engine
/// and fills no memory. Dropping it closes the connection.
pub(super) struct Body {
    address: String,
    incoming: Incoming,
    /// Moves the bytes; `None` when it has ended.
    connection: Option<Connection>,
}

impl Body {
    /// Asks; the answer's headers must come within the limit, and an error as a
    /// whole.
    pub(super) async fn get(address: String, path: String, limit: Duration) -> Result<Self> {
        let late = || errors::timeout(&address, limit);
        let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let question = Request::get(path).body(nothing).map_err(broken)?;
        tokio::time::timeout(limit, ask(&address, question)).await.map_err(|_| late())?
    }

    /// Sends something and waits for the head of the answer, however long that takes.
    pub(super) async fn post(
        address: String,
        question: http::request::Builder,
        sent: Sent,
    ) -> Result<Self> {
        ask(&address, question.method(Method::POST).body(sent).map_err(broken)?).await
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next bytes; `None` at the end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if let Poll::Ready(chunk) = self.poll_incoming(cx) {
            return Poll::Ready(chunk);
        }
        // Nobody else moves the connection. Its errors reach the body.
        let moved = self.connection.as_mut().map(|connection| Pin::new(connection).poll(cx));
        if moved.is_some_and(|moved| moved.is_ready()) {
            self.connection = None;
        }
        self.poll_incoming(cx)
    }

    /// The rest as one piece, at most so many bytes of it; what follows is left.
    pub(super) async fn whole(mut self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = poll_fn(|cx| self.poll_chunk(cx)).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                break;
            }
        }
        Ok(bytes)
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            let chunk = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Ok(Some(data)),
                    // Trailers tell nothing.
                    Ok(_) | Err(_) => continue,
                },
                Some(Err(error)) => Err(errors::unreachable(&self.address).because(error)),
                None => Ok(None),
            };
            return Poll::Ready(chunk);
        }
    }
}

/// Opens a connection on which the engine asks and we answer.
pub(super) async fn upgrade(
    address: &str,
    question: http::request::Builder,
) -> Result<hyper::upgrade::Upgraded> {
    let unreachable = || errors::unreachable(address);
    let (socket, host) = connect(address).await.map_err(|error| unreachable().because(error))?;
    let (mut sender, connection) = http1::Builder::new()
        .handshake::<_, Sent>(TokioIo::new(socket))
        .await
        .map_err(|error| unreachable().because(error))?;
    let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let question = question.header(header::HOST, host).body(nothing).map_err(broken)?;
    let asked = async move {
        let answer = sender.send_request(question).await?;
        let status = answer.status();
        Ok::<_, hyper::Error>((status, hyper::upgrade::on(answer).await))
    };
    let (mut asked, mut connection) = (pin!(asked), pin!(connection.with_upgrades()));
    let answer = tokio::select! {
        answer = &mut asked => answer,
        _ = &mut connection => asked.await,
    };
    match answer {
        Ok((StatusCode::SWITCHING_PROTOCOLS, Ok(upgraded))) => Ok(upgraded),
        Ok((status, _)) => Err(errors::answered(status.as_u16(), "it opens no session")),
        Err(error) => Err(unreachable().because(error)),
    }
}

/// How a question without a body is answered, within the limit; nothing more is read.
pub(super) async fn head(
    address: &str,
    question: http::request::Builder,
    limit: Duration,
) -> Result<(StatusCode, HeaderMap)> {
    let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let asked = exchange(address, question.body(nothing).map_err(broken)?);
    let late = |_| errors::timeout(address, limit);
    let (status, headers, _) = tokio::time::timeout(limit, asked).await.map_err(late)??;
    Ok((status, headers))
}

fn broken(error: http::Error) -> Error {
    Error::internal("a question to the engine is broken").because(error)
}

async fn ask(address: &str, question: Request<Sent>) -> Result<Body> {
    let (status, _, body) = exchange(address, question).await?;
    if status.is_success() {
        return Ok(body);
    }
    let text = body.whole(LONGEST_ERROR).await?;
    let told: Option<Told> = serde_json::from_slice(&text).ok();
    let message = told.map_or_else(
        || format!("{status}: {}", String::from_utf8_lossy(&text[..text.len().min(1000)])),
        |told| told.message,
    );
    Err(errors::answered(status.as_u16(), &message))
}

/// The head of an answer, and what follows.
async fn exchange(
    address: &str,
    mut question: Request<Sent>,
) -> Result<(StatusCode, HeaderMap, Body)> {
    let unreachable = || errors::unreachable(address);
    let (socket, host) = connect(address).await.map_err(|error| unreachable().because(error))?;
    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(READ_AHEAD)
        .handshake::<_, Sent>(TokioIo::new(socket))
        .await
        .map_err(|error| unreachable().because(error))?;
    let host = HeaderValue::try_from(host).map_err(|error| broken(error.into()))?;
    question.headers_mut().insert(header::HOST, host);
    question.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));

    let mut answer = pin!(sender.send_request(question));
    let mut open = true;
    let answer = poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        // Why the connection ended is told to the one who waits for the answer.
        open = open && Pin::new(&mut connection).poll(cx).is_pending();
        answer.as_mut().poll(cx)
    })
    .await
    .map_err(|error| unreachable().because(error))?;

    let connection = open.then_some(connection);
    let (head, incoming) = answer.into_parts();
    let body = Body { address: address.to_owned(), incoming, connection };
    Ok((head.status, head.headers, body))
}

/// How the engine tells an error.
#[derive(Deserialize)]
struct Told {
    message: String,
}

/// A connection, and the host to name in the request.
async fn connect(address: &str) -> std::io::Result<(Box<dyn Socket>, String)> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok((Box::new(UnixStream::connect(path).await?), "localhost".to_owned()));
    }
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port { host.to_owned() } else { format!("{host}:80") };
    Ok((Box::new(TcpStream::connect(&host).await?), host))
}
