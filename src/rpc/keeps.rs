//! KeepService.

use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::timestamp,
    pb::{self, keep_service_server::KeepService},
};
use crate::app::keeps::{KeepInfo, KeepQuery};

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
