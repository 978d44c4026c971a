//! Asks containers whether they are well, over HTTP, TCP and gRPC, from this host.

use std::{net::SocketAddr, time::Duration};

use tokio::net::{TcpStream, lookup_host};

use crate::domain::health::{Probe, clipped};

mod grpc;
mod http;

/// Asks once. `Ok` holds what came back, `Err` what went wrong, in words for a person;
/// both come within the limit.
pub async fn ask(probe: &Probe, place: &(String, u16), limit: Duration) -> Result<String, String> {
    let (host, port) = place;
    let asked = async {
        let found = lookup_host((host.as_str(), *port)).await;
        let found = found.map_err(|error| format!("{host} is not known: {error}"))?.next();
        let address = found.ok_or_else(|| format!("{host} has no address"))?;
        match probe {
            Probe::Http { path, .. } => http::get(connect(address).await?, address, path).await,
            Probe::Grpc { service, .. } => grpc::check(address, service).await,
            Probe::Tcp { .. } | Probe::Exec { .. } => {
                connect(address).await.map(|_| "connected".to_owned())
            }
        }
    };
    let answer = match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{host}:{port} did not answer within {limit:?}")),
    };
    answer.map(|text| clipped(&text)).map_err(|text| clipped(&text))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| format!("{address} takes no connection: {error}"))
}

#[cfg(test)]
mod tests;
