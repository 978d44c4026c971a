//! Reflection, v1 and v1alpha, built when it is first asked for: each holds all
//! descriptors with their comments, and most processes are never asked.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use axum::{Router, body::Body};
use http::{Request, Response};
use tonic::service::Routes;
use tonic_reflection::{
    pb::{v1, v1alpha},
    server::{Builder, Error},
};
use tower::{ServiceExt as _, service_fn};

use super::pb;

/// Both versions, at their paths.
pub fn routes() -> Router {
    let built: Arc<OnceLock<Router>> = Arc::default();
    let service = service_fn(move |request: Request<Body>| {
        let router = built.get_or_init(build).clone();
        async move { answer(router, request).await }
    });
    Router::new()
        .route_service("/grpc.reflection.v1.ServerReflection/{method}", service.clone())
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", service)
}

async fn answer(router: Router, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    router.oneshot(request).await
}

fn build() -> Router {
    match services() {
        Ok(routes) => routes.into_axum_router(),
        Err(error) => {
            tracing::error!(%error, "reflection is not served: the descriptors are broken");
            Routes::default().into_axum_router()
        }
    }
}

fn services() -> Result<Routes, Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET)
            // Each version names both, as both are served.
            .include_reflection_service(false)
    };
    Ok(Routes::new(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
