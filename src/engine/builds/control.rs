//! BuildKit's own interface of the engine, for what its build API cannot grant.
//!
//! `POST /build` gives no build `security.insecure`. `moby.buildkit.v1.Control`, on a
//! connection that `POST /grpc` opens, does, where the engine's settings allow it.

use std::{collections::HashMap, error::Error as _, io, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{Request, header, uri::PathAndQuery};
use tokio::time::{Instant, sleep_until};
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    NewBuild,
    trace::{Status, Trace},
};
use crate::{
    domain::{Result, build::Entitlement, image::ImageRef},
    engine::{body, errors},
};

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
const STATUS: &str = "/moby.buildkit.v1.Control/Status";
/// What the answer calls the image's id.
const IMAGE: &str = "containerimage.digest";
/// Longest message, as with the build API.
const LONGEST: usize = 16 << 20;
/// How long after the build's end its last changes are waited for.
const LAST: Duration = Duration::from_secs(2);

/// A build; dropping it ends it.
pub(super) struct Control {
    address: String,
    solve: BoxFuture<'static, Result<SolveResponse, tonic::Status>>,
    /// How it ended, and until when its last changes are waited for.
    solved: Option<(Result<SolveResponse, tonic::Status>, Instant)>,
    /// `None` at their end.
    changes: Option<BoxStream<'static, Result<Status, tonic::Status>>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SolveRequest {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "3")]
    exporter: String,
    #[prost(map = "string, string", tag = "4")]
    exporter_attrs: HashMap<String, String>,
    #[prost(string, tag = "5")]
    session: String,
    #[prost(string, tag = "6")]
    frontend: String,
    #[prost(map = "string, string", tag = "7")]
    frontend_attrs: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    cache: Option<CacheOptions>,
    #[prost(string, repeated, tag = "9")]
    entitlements: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CacheOptions {
    #[prost(message, repeated, tag = "4")]
    exports: Vec<CacheOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CacheOption {
    #[prost(string, tag = "1")]
    kind: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SolveResponse {
    #[prost(map = "string, string", tag = "1")]
    exporter: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    reference: String,
}

impl Control {
    /// Begins a build of which the session has this id.
    pub(super) async fn begin(
        address: &str,
        version: &str,
        new: &NewBuild<'_>,
        session: String,
    ) -> Result<Self> {
        let question = Request::post(format!("/{version}/grpc"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "h2c");
        let mut upgraded = Some(body::upgrade(address, question).await?);
        // It is connected once: a build does not outlive its connection.
        let connect = service_fn(move |_| {
            let gone = || io::Error::from(io::ErrorKind::NotConnected);
            std::future::ready(upgraded.take().ok_or_else(gone))
        });
        // A name that says nothing, for who looks at it.
        let endpoint = Endpoint::from_static("http://localhost");
        let connected = endpoint.connect_with_connector(connect).await;
        let channel = connected.map_err(|error| errors::unreachable(address).because(error))?;
        let request = request(new, session);
        let reference = request.reference.clone();
        Ok(Self {
            address: address.to_owned(),
            solve: solve(channel.clone(), request).boxed(),
            solved: None,
            changes: Some(stream::once(changes(channel, reference)).try_flatten().boxed()),
        })
    }

    /// Reads what happens next; `false` when there is no more.
    pub(super) async fn next(&mut self, trace: &mut Trace) -> Result<bool> {
        loop {
            let until = self.solved.as_ref().map(|(_, until)| *until);
            tokio::select! {
                // Changes first: a failure comes last of all that is told.
                biased;
                change = next(&mut self.changes), if self.changes.is_some() => match change {
                    Some(Ok(status)) => {
                        trace.status(status);
                        return Ok(true);
                    }
                    // Why it failed is what the build itself says.
                    Some(Err(_)) | None => self.changes = None,
                },
                solved = &mut self.solve, if until.is_none() => {
                    self.solved = Some((solved, Instant::now() + LAST));
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                else => break,
            }
            if self.changes.is_none() && self.solved.is_some() {
                break;
            }
        }
        self.changes = None;
        let Some((solved, _)) = self.solved.take() else { return Ok(false) };
        match solved {
            Ok(answer) => {
                if let Some(id) = answer.exporter.get(IMAGE) {
                    trace.made(id.clone());
                }
                Ok(false)
            }
            Err(status) if is_gone(&status) => {
                Err(errors::unreachable(&self.address).because(status))
            }
            Err(status) => {
                trace.fail(status.message());
                Ok(true)
            }
        }
    }
}

/// The connection broke, which is no answer of the engine.
fn is_gone(status: &tonic::Status) -> bool {
    status.source().is_some()
}

async fn next<T>(stream: &mut Option<BoxStream<'static, T>>) -> Option<T> {
    stream.as_mut()?.next().await
}

async fn grpc(channel: Channel) -> Result<Grpc<Channel>, tonic::Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LONGEST);
    grpc.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
    Ok(grpc)
}

async fn solve(channel: Channel, request: SolveRequest) -> Result<SolveResponse, tonic::Status> {
    let codec = ProstCodec::<SolveRequest, SolveResponse>::default();
    let path = PathAndQuery::from_static(SOLVE);
    let answer = grpc(channel).await?.unary(tonic::Request::new(request), path, codec).await?;
    Ok(answer.into_inner())
}

async fn changes(
    channel: Channel,
    reference: String,
) -> Result<tonic::Streaming<Status>, tonic::Status> {
    let codec = ProstCodec::<StatusRequest, Status>::default();
    let request = tonic::Request::new(StatusRequest { reference });
    let path = PathAndQuery::from_static(STATUS);
    let answer = grpc(channel).await?.server_streaming(request, path, codec).await?;
    Ok(answer.into_inner())
}

/// The same build as the build API makes of the same request.
fn request(new: &NewBuild<'_>, session: String) -> SolveRequest {
    let spec = new.spec;
    let names: Vec<_> = spec.names.iter().map(ImageRef::familiar).collect();
    let mut attrs = HashMap::from([
        ("filename".to_owned(), new.dockerfile_path.to_owned()),
        ("image-resolve-mode".to_owned(), if spec.pull { "pull" } else { "default" }.to_owned()),
    ]);
    attrs.extend(spec.args.iter().map(|(key, value)| (format!("build-arg:{key}"), value.clone())));
    attrs.extend(spec.labels.iter().map(|(key, value)| (format!("label:{key}"), value.clone())));
    let mut set = |key: &str, value: Option<String>| {
        attrs.extend(value.map(|value| (key.to_owned(), value)));
    };
    set("no-cache", spec.no_cache.then(String::new));
    set("target", Some(spec.target.clone()).filter(|target| !target.is_empty()));
    set("platform", Some(spec.platform.clone()).filter(|platform| !platform.is_empty()));
    let network = spec.entitlements.contains(&Entitlement::NetworkHost);
    set("force-network-mode", network.then(|| "host".to_owned()));
    let images: Vec<_> = spec.cache_from.iter().map(ImageRef::familiar).collect();
    set("cache-from", (!images.is_empty()).then(|| images.join(",")));
    let inline = spec.args.get("BUILDKIT_INLINE_CACHE").is_some_and(|value| is_true(value));
    let exports = inline.then(|| CacheOption { kind: "inline".to_owned() });
    SolveRequest {
        // One session makes one build.
        reference: session.clone(),
        exporter: "moby".to_owned(),
        exporter_attrs: HashMap::from([("name".to_owned(), names.join(","))]),
        session,
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attrs,
        cache: Some(CacheOptions { exports: exports.into_iter().collect() }),
        entitlements: spec.entitlements.iter().map(|one| one.buildkit().to_owned()).collect(),
    }
}

/// As the engine reads it.
fn is_true(value: &str) -> bool {
    ["1", "t", "T", "TRUE", "true", "True"].contains(&value)
}
