//! The gRPC services: parse, one call of the application, render.

use std::sync::Arc;

use tonic::service::Routes;

use crate::app::App;

mod assets;
mod auth;
mod builds;
mod containers;
mod convert;
pub mod deadline;
mod events;
mod gpus;
pub mod health;
mod images;
mod keeps;
mod logs;
mod node;
pub mod pb;
pub mod reflection;
mod status;
mod supervision;
mod tokens;
pub mod unread;

pub use auth::{Auth, Permissions};

/// Largest request that is read.
const MAX_REQUEST: usize = 4 << 20;

/// The implementation of every service over one application.
#[derive(Debug, Clone)]
struct Service(Arc<App>);

/// All services of the contract.
pub fn routes(app: &Arc<App>) -> Routes {
    let service = || Service(app.clone());
    let mut routes = Routes::builder();
    routes
        .add_service(
            pb::asset_service_server::AssetServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::build_service_server::BuildServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::container_service_server::ContainerServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::event_service_server::EventServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::gpu_service_server::GpuServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::image_service_server::ImageServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::keep_service_server::KeepServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::log_service_server::LogServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::node_service_server::NodeServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(
            pb::token_service_server::TokenServiceServer::new(service())
                .max_decoding_message_size(MAX_REQUEST),
        );
    routes.routes()
}

/// Name of the log service, whose health also depends on its own store.
pub const LOGS: &str = pb::log_service_server::SERVICE_NAME;

/// Names of the services, for health.
pub const SERVICES: &[&str] = &[
    pb::asset_service_server::SERVICE_NAME,
    pb::build_service_server::SERVICE_NAME,
    pb::container_service_server::SERVICE_NAME,
    pb::event_service_server::SERVICE_NAME,
    pb::gpu_service_server::SERVICE_NAME,
    pb::image_service_server::SERVICE_NAME,
    pb::keep_service_server::SERVICE_NAME,
    LOGS,
    pb::node_service_server::SERVICE_NAME,
    pb::token_service_server::SERVICE_NAME,
];
