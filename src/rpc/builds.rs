//! BuildService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::signed,
    pb::{self, build_image_stream_response::Event, build_service_server::BuildService},
};
use crate::domain::build::{BuildEvent, BuildRequest, Builder, Built, Failure, Secret, Step};

#[tonic::async_trait]
impl BuildService for Service {
    async fn build_image(
        &self,
        request: Request<pb::BuildImageRequest>,
    ) -> Result<Response<pb::BuildImageResponse>, Status> {
        let (built, warnings) = self.0.build_to_end(request.into_inner().into()).await?;
        Ok(Response::new(pb::BuildImageResponse { warnings, ..built.into() }))
    }

    type BuildImageStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::BuildImageStreamResponse, Status>> + Send>>;

    async fn build_image_stream(
        &self,
        request: Request<pb::BuildImageStreamRequest>,
    ) -> Result<Response<Self::BuildImageStreamStream>, Status> {
        let events = self.0.build(request.into_inner().into()).await?;
        Ok(Response::new(Box::pin(events.map(|event| Ok(event?.into())))))
    }
}

/// Both requests have the same fields.
macro_rules! build_from {
    ($request:ty) => {
        impl From<$request> for BuildRequest {
            fn from(request: $request) -> Self {
                let builder = match request.builder() {
                    pb::BuilderKind::Unspecified => None,
                    pb::BuilderKind::Classic => Some(Builder::Classic),
                    pb::BuilderKind::Buildkit => Some(Builder::BuildKit),
                };
                let (args, labels) = (request.build_args.into_iter(), request.labels.into_iter());
                let secrets = request.secrets.into_iter();
                Self {
                    name: request.name,
                    context_path: request.context_path,
                    dockerfile_path: request.dockerfile_path,
                    tags: request.tags,
                    args: args.map(|arg| (arg.key, arg.value)).collect(),
                    target: request.target,
                    platform: request.platform,
                    no_cache: request.no_cache,
                    pull: request.pull,
                    labels: labels.map(|label| (label.key, label.value)).collect(),
                    secrets: secrets.map(|secret| (secret.id, Secret(secret.value))).collect(),
                    cache_from: request.cache_from,
                    builder,
                }
            }
        }
    };
}

build_from!(pb::BuildImageRequest);
build_from!(pb::BuildImageStreamRequest);

impl From<BuildEvent> for pb::BuildImageStreamResponse {
    fn from(event: BuildEvent) -> Self {
        let event = match event {
            BuildEvent::Started(builder) => {
                Event::Started(pb::BuildStarted { builder: kind(builder).into() })
            }
            BuildEvent::Step(step) => Event::Step(step.into()),
            BuildEvent::Cached { vertex } => Event::Cached(pb::BuildCached { vertex }),
            BuildEvent::Log { vertex, stderr, data } => {
                let stream = if stderr { pb::LogStream::Stderr } else { pb::LogStream::Stdout };
                Event::Log(pb::BuildLog { vertex, stream: stream.into(), data })
            }
            BuildEvent::Progress { id, status, current, total } => {
                let (current_bytes, total_bytes) = (signed(current), signed(total));
                Event::Progress(pb::BuildProgress { id, status, current_bytes, total_bytes })
            }
            BuildEvent::Warning(message) => Event::Warning(pb::BuildWarning { message }),
            BuildEvent::Failed(Failure { message, step, exit_code }) => {
                let step = step.map(Into::into);
                Event::Failed(pb::BuildFailed { message, step, exit_code })
            }
            BuildEvent::Finished(built) => Event::Finished(built.into()),
        };
        Self { event: Some(event) }
    }
}

impl From<Step> for pb::BuildStep {
    fn from(step: Step) -> Self {
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        Self {
            vertex: step.vertex,
            name: step.name,
            number: count(step.number),
            total: count(step.total),
            line: count(step.line),
        }
    }
}

impl From<Built> for pb::BuildImageResponse {
    fn from(built: Built) -> Self {
        Self {
            image_id: built.image_id,
            digest: built.digest,
            size: signed(built.size),
            duration: built.took.try_into().ok(),
            builder: kind(built.builder).into(),
            warnings: Vec::new(),
        }
    }
}

fn kind(builder: Builder) -> pb::BuilderKind {
    match builder {
        Builder::Classic => pb::BuilderKind::Classic,
        Builder::BuildKit => pb::BuilderKind::Buildkit,
    }
}
