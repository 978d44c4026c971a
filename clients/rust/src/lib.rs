//! A client of container-svc: one connection that bears the token, speaks TLS where
//! the address asks for it, and repeats calls that may be repeated.
//!
//! [`Client::builder`] makes one, [`Client`] has the services, [`Explain`] reads what
//! an error says to programs, [`pb`] has the messages.

mod bearer;
mod connect;
mod deadline;
mod explain;
pub mod pb;
mod retry;

use tonic::{service::interceptor::InterceptedService, transport::Channel};

pub use bearer::Bearer;
pub use connect::{Builder, ConnectError};
pub use deadline::timeout;
pub use explain::{Explain, Violation};
pub use retry::Retry;
pub use tonic;

use pb::{
    asset_service_client::AssetServiceClient, build_service_client::BuildServiceClient,
    container_service_client::ContainerServiceClient, event_service_client::EventServiceClient,
    gpu_service_client::GpuServiceClient, image_service_client::ImageServiceClient,
    keep_service_client::KeepServiceClient, log_service_client::LogServiceClient,
    node_service_client::NodeServiceClient, token_service_client::TokenServiceClient,
};

/// A page of lines ends after 4 MiB of text; its last line may have 1 MiB more, and
/// what is no text comes twice.
const LARGEST_PAGE: usize = 16 << 20;

/// A connection that sends the token with every call.
pub type Wire = InterceptedService<Retry<Channel>, Bearer>;

/// One connection to a service. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Retry<Channel>,
    bearer: Bearer,
}

impl Client {
    /// A client for `http://host:port`, `https://host:port` (TLS) or `unix:///path`.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder::new(address.into())
    }

    /// The client for assets.
    pub fn assets(&self) -> AssetServiceClient<Wire> {
        AssetServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for builds.
    pub fn builds(&self) -> BuildServiceClient<Wire> {
        BuildServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for containers.
    pub fn containers(&self) -> ContainerServiceClient<Wire> {
        ContainerServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for events.
    pub fn events(&self) -> EventServiceClient<Wire> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for GPUs.
    pub fn gpus(&self) -> GpuServiceClient<Wire> {
        GpuServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for images.
    pub fn images(&self) -> ImageServiceClient<Wire> {
        ImageServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for keeps.
    pub fn keeps(&self) -> KeepServiceClient<Wire> {
        KeepServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for logs.
    pub fn logs(&self) -> LogServiceClient<Wire> {
        LogServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(LARGEST_PAGE)
    }

    /// The client for the node.
    pub fn node(&self) -> NodeServiceClient<Wire> {
        NodeServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for tokens.
    pub fn tokens(&self) -> TokenServiceClient<Wire> {
        TokenServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }
}
