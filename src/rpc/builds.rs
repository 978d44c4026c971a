//! BuildService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Service,
    auth::caller_of,
    convert::{signed, timestamp},
    pb::{
        self, build_image_stream_response::Event, build_service_server::BuildService,
        build_source::Source,
    },
    unread::of_upload,
};
use crate::{
    app::builds::Uploaded,
    domain::{
        build::{BuildEvent, BuildRequest, Builder, Built, Entitlement, Failure, Secret, Step},
        source::{Given, Login},
    },
};

#[tonic::async_trait]
impl BuildService for Service {
    async fn build_image(
        &self,
        request: Request<pb::BuildImageRequest>,
    ) -> Result<Response<pb::BuildImageResponse>, Status> {
        let caller = caller_of(&request)?;
        let (built, warnings) = self.0.build_to_end(request.into_inner().into(), caller).await?;
        Ok(Response::new(pb::BuildImageResponse { warnings, ..built.into() }))
    }

    type BuildImageStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::BuildImageStreamResponse, Status>> + Send>>;

    async fn build_image_stream(
        &self,
        request: Request<pb::BuildImageStreamRequest>,
    ) -> Result<Response<Self::BuildImageStreamStream>, Status> {
        let caller = caller_of(&request)?;
        let events = self.0.build(request.into_inner().into(), caller).await?;
        Ok(Response::new(Box::pin(events.map(|event| Ok(event?.into())))))
    }

    async fn upload_build_context(
        &self,
        request: Request<Streaming<pb::UploadBuildContextRequest>>,
    ) -> Result<Response<pb::UploadBuildContextResponse>, Status> {
        let pieces =
            request.into_inner().map(|message| Ok(message.map_err(of_upload)?.data.into()));
        let Uploaded { id, bytes, expires_at } = self.0.upload_context(pieces).await?;
        Ok(Response::new(pb::UploadBuildContextResponse {
            upload_id: id,
            bytes: signed(bytes),
            expires_at: Some(timestamp(expires_at)),
        }))
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
                let entitlements = request.entitlements.into_iter().map(entitlement);
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
                    source: request.source.map(given),
                    logins: request.credentials.into_iter().map(login).collect(),
                    entitlements: entitlements.collect(),
                }
            }
        }
    };
}

build_from!(pb::BuildImageRequest);
build_from!(pb::BuildImageStreamRequest);

fn given(source: pb::BuildSource) -> Given {
    match source.source {
        Some(Source::Git(git)) => Given::Git {
            url: git.url,
            reference: git.r#ref,
            subdirectory: git.subdirectory,
            login: git.credential.map(Into::into),
        },
        Some(Source::Tarball(tarball)) => Given::Tarball {
            url: tarball.url,
            sha256: tarball.sha256,
            subdirectory: tarball.subdirectory,
        },
        Some(Source::UploadId(id)) => Given::Upload(id),
        None => Given::Upload(String::new()),
    }
}

/// `None` for what this version does not know.
fn entitlement(given: i32) -> Option<Entitlement> {
    match pb::BuildEntitlement::try_from(given).ok()? {
        pb::BuildEntitlement::Unspecified => None,
        pb::BuildEntitlement::NetworkHost => Some(Entitlement::NetworkHost),
        pb::BuildEntitlement::SecurityInsecure => Some(Entitlement::SecurityInsecure),
    }
}

fn login(given: pb::BuildCredential) -> (String, Login) {
    let password = Secret(given.password.into_bytes());
    (given.registry, Login { username: given.username, password })
}

impl From<pb::RegistryCredential> for Login {
    fn from(given: pb::RegistryCredential) -> Self {
        Self { username: given.username, password: Secret(given.password.into_bytes()) }
    }
}

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
