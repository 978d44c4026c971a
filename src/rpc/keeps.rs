//! KeepService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Service,
    convert::timestamp,
    pb::{self, keep_service_server::KeepService},
    unread::of_upload,
};
use crate::app::keeps::{Import, KeepInfo, KeepQuery};

#[tonic::async_trait]
impl KeepService for Service {
    async fn list_keeps(
        &self,
        request: Request<pb::ListKeepsRequest>,
    ) -> Result<Response<pb::ListKeepsResponse>, Status> {
        let pb::ListKeepsRequest { name, sizes } = request.into_inner();
        let keeps = self.0.list_keeps(&KeepQuery { owner: name, sizes }).await?;
        let keeps = keeps.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListKeepsResponse { keeps }))
    }

    async fn remove_keep(
        &self,
        request: Request<pb::RemoveKeepRequest>,
    ) -> Result<Response<pb::RemoveKeepResponse>, Status> {
        let pb::RemoveKeepRequest { name, path } = request.into_inner();
        self.0.remove_keep(&name, &path).await?;
        Ok(Response::new(pb::RemoveKeepResponse {}))
    }

    type ExportKeepStream =
        Pin<Box<dyn Stream<Item = Result<pb::ExportKeepResponse, Status>> + Send>>;

    async fn export_keep(
        &self,
        request: Request<pb::ExportKeepRequest>,
    ) -> Result<Response<Self::ExportKeepStream>, Status> {
        let pb::ExportKeepRequest { name, path, live } = request.into_inner();
        let pieces = self.0.export_keep(&name, &path, live).await?;
        let pieces = pieces.map(|piece| Ok(pb::ExportKeepResponse { data: piece?.into() }));
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn import_keep(
        &self,
        request: Request<Streaming<pb::ImportKeepRequest>>,
    ) -> Result<Response<pb::ImportKeepResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await.map_err(of_upload)?;
        let pb::ImportKeepRequest { name: owner, path, replace, data } = first.unwrap_or_default();
        let rest = messages.map(|message| Ok(message.map_err(of_upload)?.data.into()));
        let archive = stream::once(std::future::ready(Ok(data.into()))).chain(rest);
        let bytes = self.0.import_keep(Import { owner, path, replace }, archive).await?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(pb::ImportKeepResponse { bytes }))
    }
}

impl From<KeepInfo> for pb::KeepInfo {
    fn from(keep: KeepInfo) -> Self {
        Self {
            name: keep.owner,
            path: keep.path,
            volume: keep.volume,
            created_at: keep.created_at.map(timestamp),
            last_used_at: keep.last_used_at.map(timestamp),
            used_by: keep.used_by,
            bytes: keep.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        }
    }
}
