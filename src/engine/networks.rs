//! The network that our containers share.

use std::collections::HashMap;

use bollard::{
    models::{NetworkConnectRequest, NetworkCreateRequest},
    query_parameters::InspectNetworkOptions,
};

use super::Engine;
use crate::domain::{Kind, Result, container::labels};

impl Engine {
    /// Makes sure that the network is there.
    pub async fn ensure_network(&self, name: &str, node_id: &str) -> Result<()> {
        if self.gateway(name).await?.is_some() {
            return Ok(());
        }
        // The engine makes two networks of one name when asked twice at once.
        let _alone = self.networks.lock().await;
        if self.gateway(name).await?.is_some() {
            return Ok(());
        }
        let docker = self.docker().await?;
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            labels: Some(HashMap::from([(labels::NODE.to_owned(), node_id.to_owned())])),
            ..Default::default()
        };
        match self.within(self.timeout, docker.create_network(request)).await {
            // Another made it in between.
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }

    /// Makes sure that a container is in the network, when there is such a network.
    pub async fn join_network(&self, name: &str, container: &str) -> Result<()> {
        let docker = self.docker().await?;
        let question = docker.inspect_network(name, None::<InspectNetworkOptions>);
        let members = match self.within(self.timeout, question).await {
            Ok(found) => found.containers.unwrap_or_default(),
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if members.contains_key(container) {
            return Ok(());
        }
        let request =
            NetworkConnectRequest { container: container.to_owned(), ..Default::default() };
        self.within(self.timeout, docker.connect_network(name, request)).await
    }

    /// The address of the host in a network; empty when the engine does not
    /// tell it, `None` when there is no such network.
    pub async fn gateway(&self, network: &str) -> Result<Option<String>> {
        let docker = self.docker().await?;
        let question = docker.inspect_network(network, None::<InspectNetworkOptions>);
        match self.within(self.timeout, question).await {
            Ok(found) => {
                let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
                let gateway = configs
                    .into_iter()
                    .find_map(|config| config.gateway.or_else(|| first_address(&config.subnet?)));
                Ok(Some(gateway.unwrap_or_default()))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The engine's default bridge takes the first address of its subnet where
/// none was configured, and does not always tell it.
fn first_address(subnet: &str) -> Option<String> {
    let network: std::net::Ipv4Addr = subnet.split('/').next()?.parse().ok()?;
    Some(std::net::Ipv4Addr::from(u32::from(network).checked_add(1)?).to_string())
}
