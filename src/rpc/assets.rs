//! AssetService.

use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::{signed, timestamp},
    pb::{self, asset_service_server::AssetService},
};
use crate::{
    app::assets::{AssetInfo, AssetQuery},
    domain::asset,
};

#[tonic::async_trait]
impl AssetService for Service {
    async fn list_assets(
        &self,
        request: Request<pb::ListAssetsRequest>,
    ) -> Result<Response<pb::ListAssetsResponse>, Status> {
        let pb::ListAssetsRequest { url, page_size, page_token } = request.into_inner();
        let query = AssetQuery { url, page_size: page_size.into(), page_token };
        let page = self.0.list_assets(&query).await?;
        let assets = page.assets.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListAssetsResponse { assets, next_page_token: page.next }))
    }

    async fn remove_asset(
        &self,
        request: Request<pb::RemoveAssetRequest>,
    ) -> Result<Response<pb::RemoveAssetResponse>, Status> {
        let pb::RemoveAssetRequest { id, url } = request.into_inner();
        self.0.remove_asset(&id, &url).await?;
        Ok(Response::new(pb::RemoveAssetResponse {}))
    }
}

impl From<AssetInfo> for pb::AssetInfo {
    fn from(AssetInfo { stored, used_by }: AssetInfo) -> Self {
        Self {
            url: asset::shown(&stored.url),
            id: stored.id,
            sha256: stored.sha256,
            bytes: signed(stored.bytes),
            fetched_at: Some(timestamp(stored.fetched_at)),
            last_used_at: Some(timestamp(stored.last_used_at)),
            used_by,
        }
    }
}
