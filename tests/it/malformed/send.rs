//! Sends what no client library would: raw bytes over TCP, raw frames over HTTP/2.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt as _, Full};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt as _;

use super::generate::{Case, Sent};

/// None of these requests has anything to wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a request was answered.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The HTTP status; 0 when there was none.
    pub(super) http: u16,
    /// The gRPC status, where there was one.
    pub(super) grpc: Option<i32>,
    /// Whether the answer says that it is JSON.
    pub(super) json: bool,
    /// What else it said.
    text: String,
}

/// Ways to the service.
pub(super) struct Sender {
    address: SocketAddr,
    endpoint: Endpoint,
    channel: Channel,
    bearer: String,
}

impl Sender {
    pub(super) async fn new(address: SocketAddr, token: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        let channel = endpoint.connect().await.expect("it listens");
        Self { address, endpoint, channel, bearer: format!("Bearer {token}") }
    }

    pub(super) async fn send(&self, case: &Case) -> Told {
        let answer = async {
            match &case.sent {
                Sent::Raw(bytes) => self.raw(bytes, case.may_hang_up).await,
                Sent::Grpc { path, headers, body } => {
                    self.grpc(path, headers, body, case.may_hang_up).await
                }
            }
        };
        let late = || Told { http: 599, text: "no answer in time".into(), ..Default::default() };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| late())
    }

    async fn raw(&self, bytes: &[u8], end: bool) -> Told {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let mut answer = Vec::new();
        {
            let (mut from, mut to) = stream.split();
            // A refusal may come, and the connection close, before all is sent.
            let sent = async {
                drop(to.write_all(bytes).await);
                if end {
                    drop(to.shutdown().await);
                }
            };
            let read = async { drop(from.read_to_end(&mut answer).await) };
            tokio::join!(sent, read);
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let head = head.to_lowercase();
        let http = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let grpc = status_in(&head).or_else(|| status_in(body)).or_else(|| {
            let frames = body.split("\r\n").filter_map(|part| STANDARD.decode(part).ok());
            frames.filter_map(|frame| status_in(&String::from_utf8_lossy(&frame))).next()
        });
        let json = head.contains("content-type: application/json");
        Told { http, grpc, json, text }
    }

    async fn grpc(
        &self,
        path: &str,
        headers: &[(String, String)],
        body: &[u8],
        alone: bool,
    ) -> Told {
        let mut request = http::Request::post(path).header("te", "trailers");
        if !headers.iter().any(|(name, _)| name == "authorization") {
            request = request.header("authorization", &self.bearer);
        }
        if !headers.iter().any(|(name, _)| name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers.iter().filter(|(_, value)| value != "none") {
            request = request.header(name, value);
        }
        let request = request.body(Body::new(Full::from(body.to_vec()))).expect("a request");
        // What may end the connection must not end that of others.
        let channel = match alone {
            true => self.endpoint.connect().await.expect("it listens"),
            false => self.channel.clone(),
        };
        match channel.oneshot(request).await {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let mut told = Told { http: head.status.as_u16(), ..Default::default() };
                let trailers = match body.collect().await {
                    Ok(body) => body.trailers().cloned().unwrap_or_default(),
                    Err(error) => return Told { text: error.to_string(), ..told },
                };
                let status = tonic::Status::from_header_map(&head.headers)
                    .or_else(|| tonic::Status::from_header_map(&trailers));
                told.grpc = status.as_ref().map(|status| status.code().into());
                told.text = status.map(|status| status.message().to_owned()).unwrap_or_default();
                told
            }
            Err(error) => Told { text: format!("{error:?}"), ..Default::default() },
        }
    }
}

/// The number behind `grpc-status:`.
fn status_in(text: &str) -> Option<i32> {
    let (_, rest) = text.split_once("grpc-status:")?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
