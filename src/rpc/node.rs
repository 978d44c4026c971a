//! NodeService.

use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::timestamp,
    pb::{self, node_service_server::NodeService},
};

#[tonic::async_trait]
impl NodeService for Service {
    async fn get_daemon_info(
        &self,
        _: Request<pb::GetDaemonInfoRequest>,
    ) -> Result<Response<pb::GetDaemonInfoResponse>, Status> {
        let error = self.0.engine.ping().await.err();
        Ok(Response::new(pb::GetDaemonInfoResponse {
            available: error.is_none(),
            address: Some(self.0.engine.address().to_owned()),
            error: error.map(|error| error.message().to_owned()),
        }))
    }

    async fn get_host(
        &self,
        _: Request<pb::GetHostRequest>,
    ) -> Result<Response<pb::GetHostResponse>, Status> {
        let host = self.0.host().await?;
        Ok(Response::new(pb::GetHostResponse { host }))
    }

    async fn get_node(
        &self,
        _: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::GetNodeResponse>, Status> {
        let app = &self.0;
        let (version, fresh, all) = (app.node.version(), app.view.freshness(), app.view.all());
        let gpus = app.gpus.look().await;
        let range = app.settings.port_range;
        let (own_container_id, host_data_dir) = app.whereabouts().await;
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let node = pb::Node {
            id: app.settings.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            self_url: app.settings.self_url.clone(),
            engine: Some(pb::Engine {
                address: app.engine.address().to_owned(),
                synced: fresh.synced,
                synced_at: fresh.synced_at.map(timestamp),
                version: version.version,
                api_version: version.api,
                platform: version.platform,
                error: fresh.error.map(|error| error.message().to_owned()),
            }),
            port_range: Some(pb::PortRange { first: range.first.into(), last: range.last.into() }),
            containers_running: count(all.iter().filter(|row| row.is_running()).count()),
            containers_total: count(all.len()),
            logs: Some(super::logs::node_logs(app)),
            gpus: Some(super::gpus::node(&gpus, app)),
            own_container_id,
            host_data_dir: host_data_dir.map(|path| path.display().to_string()),
        };
        Ok(Response::new(pb::GetNodeResponse { node: Some(node) }))
    }
}
