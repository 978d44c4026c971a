//! One call of `grpc.health.v1` on a connection of its own.

use std::net::SocketAddr;

use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Largest answer that is read.
const LARGEST: usize = 64 * 1024;

/// SERVING is a success.
pub(super) async fn check(address: SocketAddr, service: &str) -> Result<String, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| format!("{address} cannot be asked: {error}"))?;
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("{address} takes no connection: {error}{}", cause.unwrap_or_default())
    })?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(LARGEST);
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(request).await;
    let answer = answer.map_err(|status| {
        format!("{address} answered {:?}: {}", status.code(), status.message())
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok("SERVING".to_owned()),
        other => Err(other.as_str_name().to_owned()),
    }
}
