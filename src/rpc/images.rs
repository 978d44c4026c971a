//! ImageService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::signed,
    pb::{self, image_service_server::ImageService},
};
use crate::{
    app::images::{Credential, Progress, PullUpdate},
    domain::image::ImageRef,
};

#[tonic::async_trait]
impl ImageService for Service {
    async fn is_image_pullable(
        &self,
        request: Request<pb::IsImagePullableRequest>,
    ) -> Result<Response<pb::IsImagePullableResponse>, Status> {
        let pullable = self.0.is_pullable(&request.into_inner().image_name).await?;
        Ok(Response::new(pb::IsImagePullableResponse { pullable }))
    }

    type PullImageStream =
        Pin<Box<dyn Stream<Item = Result<pb::PullImageResponse, Status>> + Send>>;

    async fn pull_image(
        &self,
        request: Request<pb::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let pb::PullImageRequest { name, credential } = request.into_inner();
        let credential = credential.map(|given| Credential {
            username: given.username,
            password: given.password,
            identity_token: None,
        });
        let updates = self.0.pull(ImageRef::parse(&name)?, credential).await?;
        Ok(Response::new(Box::pin(updates.map(|update| Ok(render(update?))))))
    }
}

pub(super) fn render(PullUpdate { progress, layer }: PullUpdate) -> pb::PullImageResponse {
    let Progress { layers, end, .. } = progress;
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let whole = pb::PullProgress {
        current_bytes: signed(layers.values().map(|layer| layer.fetched).sum()),
        total_bytes: signed(layers.values().map(|layer| layer.size).sum()),
        layers_done: count(layers.values().filter(|layer| layer.done).count()),
        layers_total: count(layers.len()),
    };
    let layer = layer.and_then(|id| {
        let layer = layers.get(&id)?;
        Some(pb::LayerProgress {
            status: layer.status.clone(),
            current_bytes: signed(layer.current),
            total_bytes: signed(layer.total),
            id,
        })
    });
    let pulled = end.and_then(Result::ok);
    pb::PullImageResponse {
        progress: Some(whole),
        layer,
        done: pulled.is_some(),
        image_id: pulled.as_ref().map(|pulled| pulled.image_id.clone()).unwrap_or_default(),
        digest: pulled.map(|pulled| pulled.digest).unwrap_or_default(),
    }
}
