//! One GET request on a connection of its own.

use std::{net::SocketAddr, pin::pin};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::domain::health::LONGEST_OUTPUT;

/// Most bytes of headers that are read.
const LONGEST_HEAD: usize = 64 * 1024;

/// A status from 200 to 399 is a success; the beginning of what comes with another is
/// told.
pub(super) async fn get(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
) -> Result<String, String> {
    let broken = |error: hyper::Error| format!("{address} sent no HTTP answer: {error}");
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "container-svc")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the path {path} cannot be asked for: {error}"))?;
    let handshake =
        http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        match status.as_u16() {
            200..=399 => Ok(format!("HTTP {status}")),
            _ => Err(format!("HTTP {status}\n{}", beginning(answer.into_body()).await)),
        }
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    // Nobody else moves the connection; what it ends of reaches the exchange.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST_OUTPUT
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    bytes.truncate(LONGEST_OUTPUT);
    String::from_utf8_lossy(&bytes).into_owned()
}
