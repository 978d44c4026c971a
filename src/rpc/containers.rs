//! ContainerService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::{container, deadline, timestamp},
    pb::{self, container_service_server::ContainerService},
};
use crate::app::{
    list::Selector,
    view::ChangeKind,
    watch::{WatchQuery, Watched},
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ContainerService for Service {
    async fn run_container(
        &self,
        request: Request<pb::RunContainerRequest>,
    ) -> Answer<pb::RunContainerResponse> {
        let deadline = deadline(request.metadata());
        let outcome = self.0.run(request.into_inner().into(), deadline).await?;
        Ok(Response::new(outcome.into()))
    }

    type RunContainerStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::RunContainerStreamResponse, Status>> + Send>>;

    async fn run_container_stream(
        &self,
        request: Request<pb::RunContainerStreamRequest>,
    ) -> Answer<Self::RunContainerStreamStream> {
        let deadline = deadline(request.metadata());
        let run = request.into_inner().run.unwrap_or_default();
        let told = self.0.run_stream(run.into(), deadline);
        Ok(Response::new(Box::pin(told.map(|told| Ok(told?.into())))))
    }

    async fn stop_container(
        &self,
        request: Request<pb::StopContainerRequest>,
    ) -> Answer<pb::StopContainerResponse> {
        let pb::StopContainerRequest { id, name } = request.into_inner();
        self.0.stop(Selector { id, name, ..Selector::default() }).await?;
        Ok(Response::new(pb::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<pb::RemoveContainerRequest>,
    ) -> Answer<pb::RemoveContainerResponse> {
        let pb::RemoveContainerRequest { id, name, force } = request.into_inner();
        self.0.remove(Selector { id, name, ..Selector::default() }, force).await?;
        Ok(Response::new(pb::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Answer<pb::ListContainersResponse> {
        let page = self.0.list(&request.into_inner().into())?;
        Ok(Response::new(pb::ListContainersResponse {
            containers: page.containers.iter().map(|row| container(row, &self.0)).collect(),
            next_page_token: page.next,
        }))
    }

    async fn get_container(
        &self,
        request: Request<pb::GetContainerRequest>,
    ) -> Answer<pb::GetContainerResponse> {
        let pb::GetContainerRequest { id, name, hash } = request.into_inner();
        let found = self.0.get(&Selector { id, name, hash }).await?;
        let history = found.history.into_iter().map(|event| pb::ContainerEvent {
            at: Some(timestamp(event.at)),
            action: event.what.kind().word().to_owned(),
            detail: event.what.detail(),
        });
        Ok(Response::new(pb::GetContainerResponse {
            container: Some(container(&found.container, &self.0)),
            history: history.collect(),
            log: super::logs::status(&found.container.id, &self.0),
            probes: found.probes.into_iter().map(Into::into).collect(),
        }))
    }

    async fn is_container_running(
        &self,
        request: Request<pb::IsContainerRunningRequest>,
    ) -> Answer<pb::IsContainerRunningResponse> {
        let pb::IsContainerRunningRequest { hash, name } = request.into_inner();
        let is_running = self.0.is_running(&hash, &name)?;
        Ok(Response::new(pb::IsContainerRunningResponse { is_running }))
    }

    async fn get_container_summary(
        &self,
        request: Request<pb::GetContainerSummaryRequest>,
    ) -> Answer<pb::GetContainerSummaryResponse> {
        let pb::GetContainerSummaryRequest { hash, name, lines } = request.into_inner();
        let selector = Selector { hash, name, ..Selector::default() };
        let told = self.0.summary(&selector, lines).await?;
        Ok(Response::new(pb::GetContainerSummaryResponse {
            status: told.status,
            logs: told.logs,
            summary: told.summary,
        }))
    }

    type WatchContainersStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchContainersResponse, Status>> + Send>>;

    async fn watch_containers(
        &self,
        request: Request<pb::WatchContainersRequest>,
    ) -> Answer<Self::WatchContainersStream> {
        let pb::WatchContainersRequest { cursor, name, label, managed_only } = request.into_inner();
        let app = self.0.clone();
        let watch = self.0.watch(WatchQuery { cursor, name, label, managed_only })?;
        let watch = watch.map(move |item| {
            let (watched, cursor) = item?;
            let (kind, row) = match watched {
                Watched::Change(ChangeKind::Added, row) => (pb::WatchEventType::Added, Some(row)),
                Watched::Change(ChangeKind::Changed, row) => {
                    (pb::WatchEventType::Changed, Some(row))
                }
                Watched::Change(ChangeKind::Removed, row) => {
                    (pb::WatchEventType::Removed, Some(row))
                }
                Watched::Synced => (pb::WatchEventType::Synced, None),
                Watched::Reset => (pb::WatchEventType::Reset, None),
            };
            let container = row.map(|row| container(&row, &app));
            Ok(pb::WatchContainersResponse { r#type: kind.into(), container, cursor })
        });
        Ok(Response::new(Box::pin(watch)))
    }
}
