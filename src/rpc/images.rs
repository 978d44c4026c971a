//! ImageService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::{duration, signed},
    pb::{self, image_service_server::ImageService},
};
use crate::{
    app::images::{
        Credential, ImageInfo, Layer, ListedImage, Progress, Prune, PullUpdate, PushUpdate,
    },
    domain::{Error, image::ImageRef},
};

#[tonic::async_trait]
impl ImageService for Service {
    async fn is_image_pullable(
        &self,
        request: Request<pb::IsImagePullableRequest>,
    ) -> Result<Response<pb::IsImagePullableResponse>, Status> {
        let pullable = self.0.is_pullable(&request.into_inner().image_name).await;
        let pullable = pullable.map_err(|error| error.in_field("imageName"))?;
        Ok(Response::new(pb::IsImagePullableResponse { pullable }))
    }

    type PullImageStream =
        Pin<Box<dyn Stream<Item = Result<pb::PullImageResponse, Status>> + Send>>;

    async fn pull_image(
        &self,
        request: Request<pb::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let pb::PullImageRequest { name, credential } = request.into_inner();
        let image = ImageRef::parse(&name).map_err(|error| error.in_field("name"))?;
        let updates = self.0.pull(image, credential.map(Into::into)).await?;
        Ok(Response::new(Box::pin(updates.map(|update| Ok(render(update?))))))
    }

    type PushImageStream =
        Pin<Box<dyn Stream<Item = Result<pb::PushImageResponse, Status>> + Send>>;

    async fn push_image(
        &self,
        request: Request<pb::PushImageRequest>,
    ) -> Result<Response<Self::PushImageStream>, Status> {
        let pb::PushImageRequest { name, credential } = request.into_inner();
        let image = ImageRef::parse(&name).map_err(|error| error.in_field("name"))?;
        let updates = self.0.push(image, credential.map(Into::into)).await?;
        Ok(Response::new(Box::pin(updates.map(|update| Ok(update?.into())))))
    }

    async fn list_images(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesResponse>, Status> {
        let pb::ListImagesRequest { name, unused } = request.into_inner();
        let images = self.0.list_images(&name, unused).await?;
        let images = images
            .into_iter()
            .map(|ImageInfo { image, used_by }| pb::Image { used_by, ..image.into() });
        Ok(Response::new(pb::ListImagesResponse { images: images.collect() }))
    }

    async fn remove_image(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Result<Response<pb::RemoveImageResponse>, Status> {
        let pb::RemoveImageRequest { name, id } = request.into_inner();
        let removed = self.0.delete_image(&name, &id).await?;
        Ok(Response::new(pb::RemoveImageResponse { names: removed.names, ids: removed.ids }))
    }

    async fn prune_images(
        &self,
        request: Request<pb::PruneImagesRequest>,
    ) -> Result<Response<pb::PruneImagesResponse>, Status> {
        let pruned = self.0.prune_images(&request.into_inner().try_into()?).await?;
        Ok(Response::new(pb::PruneImagesResponse {
            images: pruned.images.into_iter().map(Into::into).collect(),
            reclaimed_bytes: signed(pruned.bytes),
        }))
    }
}

impl From<pb::RegistryCredential> for Credential {
    fn from(given: pb::RegistryCredential) -> Self {
        Self { username: given.username, password: given.password, identity_token: None }
    }
}

impl TryFrom<pb::PruneImagesRequest> for Prune {
    type Error = Error;

    fn try_from(request: pb::PruneImagesRequest) -> Result<Self, Error> {
        let older_than = duration(request.older_than).transpose();
        let keep_bytes = request.keep_bytes.map(|bytes| {
            let why = format!("{bytes} is negative; give a number of bytes");
            u64::try_from(bytes).map_err(|_| Error::field("keepBytes", why))
        });
        Ok(Self {
            named: request.all,
            older_than: older_than
                .map_err(|why| Error::field("olderThan", why))?
                .unwrap_or_default(),
            keep_bytes: keep_bytes.transpose()?,
            dry_run: request.dry_run,
        })
    }
}

impl From<ListedImage> for pb::Image {
    fn from(image: ListedImage) -> Self {
        Self {
            id: image.id,
            names: image.names.iter().map(ImageRef::familiar).collect(),
            digests: image.digests,
            size: signed(image.size),
            created_at: Some(prost_types::Timestamp { seconds: image.created, nanos: 0 }),
            used_by: Vec::new(),
        }
    }
}

impl From<PushUpdate> for pb::PushImageResponse {
    fn from(PushUpdate { layers, layer, digest }: PushUpdate) -> Self {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let progress = pb::PushProgress {
            current_bytes: signed(layers.values().map(|layer| layer.fetched).sum()),
            total_bytes: signed(layers.values().map(|layer| layer.size).sum()),
            layers_done: count(layers.values().filter(|layer| layer.done).count()),
            layers_total: count(layers.len()),
        };
        Self {
            progress: Some(progress),
            layer: layer.and_then(|id| Some(of_layer(layers.get(&id)?, id))),
            done: digest.is_some(),
            digest: digest.unwrap_or_default(),
        }
    }
}

fn of_layer(layer: &Layer, id: String) -> pb::LayerProgress {
    pb::LayerProgress {
        status: layer.status.clone(),
        current_bytes: signed(layer.current),
        total_bytes: signed(layer.total),
        id,
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
    let layer = layer.and_then(|id| Some(of_layer(layers.get(&id)?, id)));
    let pulled = end.and_then(Result::ok);
    pb::PullImageResponse {
        progress: Some(whole),
        layer,
        done: pulled.is_some(),
        image_id: pulled.as_ref().map(|pulled| pulled.image_id.clone()).unwrap_or_default(),
        digest: pulled.map(|pulled| pulled.digest).unwrap_or_default(),
    }
}
