//! The composition root: opens the adapters, builds the application, binds, drains.

use std::{
    fs,
    future::Future,
    io::{ErrorKind, Write as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::MethodRouter,
    serve::ListenerExt as _,
};
use http::{HeaderName, HeaderValue, Method, Request, header};
use prost_reflect::DescriptorPool;
use tokio::net::{TcpListener, UnixListener};
use tonic_web::GrpcWebLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

mod data_dir;

use crate::{
    app::{
        self, Adapters, App, Settings, assets::AssetCacheSettings, builds::SourceSettings,
        events::EventLimits, gpus::GpuSettings, logs::LogSettings, tasks::Tasks,
    },
    config::{Config, Listen},
    domain::{Error, Result, asset::Policy, metrics, ports::PortRange, source::Rules},
    engine::{Engine, LogFilesLimit},
    fetch::{
        AssetFetcher, AssetLimits, AssetSettings, GitFetcher, GitSettings, Registry,
        RegistrySettings,
    },
    gateway::Gateway,
    gpu::Gpus,
    rpc::{self, Auth, Permissions, pb},
    store::{
        Store,
        logs::{Limits, LogStore},
    },
};

/// Serves until `shutdown` resolves, then drains.
///
/// Fails before any bind when the store cannot be used.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let _held = data_dir::take(&config.data_dir)?;
    let tasks = Tasks::default();
    let app = build(&config, tasks.clone()).await?;
    let router = router(&config, &app).await?;

    let mut listeners = Vec::new();
    for listen in &config.listen {
        listeners.push(bind(listen).await?);
    }
    write_admin_token(&config, &app).await?;
    tasks.vital("tracker", &app, app::follow);
    tasks.vital("assets", &app, app::assets::clean);
    tasks.vital("uploads", &app, app::builds::expire);
    tasks.vital("keeps", &app, app::keeps::mend);
    tasks.vital("restarts", &app, app::restart::supervise);
    tasks.vital("probes", &app, app::health::ask_all);
    tasks.vital("probe results", &app, app::health::keep);
    tasks.background("logs", app::logs::collect(app.clone()));
    tasks.vital("gpus", &app, app::gpus::sample);
    tasks.vital("gpus in containers", &app, app::gpus::check);
    tasks.vital("log retention", &app, app::logs::retain);
    tasks.vital("event retention", &app, app::events::retain);

    for listener in listeners {
        serve(listener, router.clone(), &tasks);
    }
    shutdown.await;
    tracing::info!("stopping: no new calls, what runs is finished");
    tasks.stop();
    if tokio::time::timeout(config.drain_timeout, tasks.ended()).await.is_err() {
        tracing::warn!("some calls did not end in time and are cut off");
    }
    for listen in &config.listen {
        if let Listen::Unix(path) = listen {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

async fn build(config: &Config, tasks: Tasks) -> Result<Arc<App>> {
    let store = Store::open(&config.database())?;
    let logs = LogStore::open(&config.log_database())?;
    let policy = Arc::new(Policy {
        http_hosts: config.asset_allow_http.clone(),
        addresses: config.asset_allow_addresses.clone(),
        file_roots: config.asset_file_roots.clone(),
    });
    let settings = Settings {
        node_id: config.node_id.clone(),
        self_url: config.self_url.clone(),
        data_dir: config.data_dir.clone(),
        host_data_dir: config.host_data_dir.clone(),
        network: config.network.clone(),
        port_range: PortRange { first: config.port_range.0, last: config.port_range.1 },
        port_address: config.port_address,
        build_roots: config.build_roots.clone(),
        source_rules: Rules { policy: policy.clone(), git_protocols: config.git_protocols.clone() },
        pull_stall_timeout: config.pull_stall_timeout,
        sources: SourceSettings {
            max_bytes: config.build_source_max_bytes,
            min_rate: config.asset_min_rate,
            stall: config.asset_stall_timeout,
            max_time: config.build_source_max_time,
            min_free: config.asset_min_free_bytes,
            upload_max_age: config.build_upload_max_age,
        },
        assets: AssetCacheSettings {
            folder: config.asset_folder(),
            policy: policy.clone(),
            max_age: config.asset_max_age,
            max_total_bytes: config.asset_max_total_bytes,
            min_free: config.asset_min_free_bytes,
        },
        logs: LogSettings {
            source: config.logs_source,
            limits: Limits {
                age: config.logs_max_age,
                bytes_each: config.logs_max_bytes_each,
                bytes: config.logs_max_bytes,
            },
        },
        log_files: LogFilesLimit {
            bytes: config.container_log_bytes,
            count: config.container_log_files,
        },
        events: EventLimits { age: config.events_max_age, count: config.events_max_count },
        restart_policy: config.restart_policy,
        gpus: GpuSettings {
            interval: config.gpu_interval,
            check: config.gpu_check,
            on_overrun: config.gpu_overrun,
            drain_time: config.gpu_drain_time,
            mps_directory: config.gpu_mps_directory.clone(),
        },
    };
    let registry = Registry::new(RegistrySettings {
        insecure: config.insecure_registries.clone(),
        docker_config: config.docker_config.clone(),
        timeout: config.engine_timeout,
    })?;
    let limits = AssetLimits {
        bytes: config.asset_max_bytes,
        setting: "asset_max_bytes",
        time: config.asset_max_time,
        min_rate: config.asset_min_rate,
        stall: config.asset_stall_timeout,
        min_free: config.asset_min_free_bytes,
    };
    let fetcher = AssetFetcher::new(AssetSettings {
        policy: policy.clone(),
        file_svc: config.asset_file_svc.clone(),
        limits,
    })?;
    let tarballs = AssetFetcher::new(AssetSettings {
        policy: policy.clone(),
        file_svc: None,
        limits: AssetLimits {
            bytes: config.build_source_max_bytes,
            setting: "build_source_max_bytes",
            time: config.build_source_max_time,
            ..limits
        },
    })?;
    let git = GitFetcher::new(GitSettings {
        policy,
        ca_file: config.git_ca_file.clone(),
        bytes: config.build_source_max_bytes,
        time: config.build_source_max_time,
        stall: config.asset_stall_timeout,
        min_rate: config.asset_min_rate,
    });
    let engine = Engine::new(&config.engine, config.engine_timeout);
    let gpus = Gpus::new(&config.nvml_library, config.gpu_drain_time)?;
    let adapters = Adapters { engine, store, logs, registry, fetcher, tarballs, git, gpus };
    App::new(settings, adapters, tasks).await
}

/// Everything that the one port serves.
async fn router(config: &Config, app: &Arc<App>) -> Result<Router> {
    let broken = |error: String| Error::internal(format!("the descriptors are broken: {error}"));
    let pool =
        DescriptorPool::decode(pb::DESCRIPTORS).map_err(|error| broken(error.to_string()))?;

    let (reporter, health) = tonic_health::server::health_reporter();
    rpc::health::begin(&reporter).await;
    app.tasks.vital("health", app, move |app| rpc::health::watch(app, reporter.clone()));

    let permissions = Permissions::read(&pool)?;
    let auth = Auth::new(app.clone(), permissions, config.public_meta, config.anonymous);
    let routes = rpc::routes(app).add_service(health).into_axum_router();
    let unread = axum::middleware::map_response(rpc::unread::tell);
    let deadline = axum::middleware::from_fn(rpc::deadline::keep);
    let routes = routes.merge(rpc::reflection::routes());
    let grpc = routes.layer(unread).layer(deadline).layer(auth.clone());

    let gateway = Gateway::new(&pool, grpc.clone(), config.max_body_bytes, Some(auth.clone()));
    let (bridge, document, counted) = (gateway.clone(), gateway.clone(), app.clone());
    let auth = (!config.public_meta).then_some(auth);
    let openapi = meta(&gateway, auth.clone(), "application/json", move || document.openapi());
    let metrics = meta(&gateway, auth, "text/plain; version=0.0.4; charset=utf-8", move || {
        metrics::text(&counted.metrics()).into()
    });
    let router = grpc
        .layer(GrpcWebLayer::new())
        .route("/openapi.json", openapi)
        .route("/metrics", metrics)
        .fallback(move |request: Request<Body>| bridge.clone().handle(request));
    Ok(match cors(&config.cors_origins)? {
        Some(cors) => router.layer(cors),
        None => router,
    })
}

/// A page about the service itself. Where a guard is given, it asks for a token,
/// of whatever permissions.
fn meta(
    gateway: &Gateway,
    guard: Option<Auth>,
    kind: &'static str,
    page: impl Fn() -> Bytes + Clone + Send + Sync + 'static,
) -> MethodRouter {
    let (errors, other) = (gateway.clone(), gateway.clone());
    let answer = move |request: Request<Body>| {
        let refused = guard.as_ref().and_then(|auth| auth.authenticate(request.headers()).err());
        std::future::ready(match refused {
            Some(error) => errors.error(&error.into()),
            None => {
                let mut response = http::Response::new(Body::from(page()));
                let kind = HeaderValue::from_static(kind);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
        })
    };
    axum::routing::get(answer).fallback(move |request: Request<Body>| other.clone().handle(request))
}

fn cors(origins: &[String]) -> Result<Option<CorsLayer>> {
    if origins.is_empty() {
        return Ok(None);
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let values: Result<Vec<HeaderValue>, _> =
            origins.iter().map(|origin| HeaderValue::try_from(origin.as_str())).collect();
        AllowOrigin::list(
            values.map_err(|_| Error::field("cors_origins", "is no list of origins"))?,
        )
    };
    let grpc = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
    let asked = ["authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"];
    let names = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().map(|&name| HeaderName::from_static(name)).collect()
    };
    let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE];
    Ok(Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(methods)
            .allow_headers(names(&asked))
            .expose_headers(names(&grpc)),
    ))
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn bind(listen: &Listen) -> Result<Listener> {
    match listen {
        Listen::Tcp(address) => {
            let bound = TcpListener::bind(address).await.and_then(|l| Ok((l.local_addr()?, l)));
            let (real, listener) =
                bound.map_err(|error| cannot_listen(&address.to_string(), error))?;
            tracing::info!("listening on {real}");
            Ok(Listener::Tcp(listener))
        }
        Listen::Unix(path) => {
            let failed = |error| cannot_listen(&path.display().to_string(), error);
            remove_stale(path).await.map_err(failed)?;
            let listener = UnixListener::bind(path).map_err(failed)?;
            // Who may open the socket is decided by its owner, as for Docker's.
            fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
            tracing::info!("listening on unix://{}", path.display());
            Ok(Listener::Unix(listener))
        }
    }
}

/// A socket that nobody answers on is left from a service that was killed.
async fn remove_stale(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            match tokio::net::UnixStream::connect(path).await {
                Ok(_) => Err(ErrorKind::AddrInUse.into()),
                Err(_) => fs::remove_file(path),
            }
        }
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => Ok(()),
    }
}

fn cannot_listen(address: &str, error: std::io::Error) -> Error {
    Error::precondition(
        "CANNOT_LISTEN",
        format!("cannot listen on {address}: {error}; stop what is there, or set another address"),
    )
    .because(error)
}

fn serve(listener: Listener, router: Router, tasks: &Tasks) {
    let stop = tasks.clone();
    let stopped = async move { stop.stopped().await };
    let work = async move {
        let served = match listener {
            Listener::Tcp(listener) => {
                // An answer of several frames would wait for the peer's acknowledgement
                // of the first, which Linux puts off by 40 ms.
                let listener = listener.tap_io(|stream| {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection may be slow");
                    }
                });
                axum::serve(listener, router).with_graceful_shutdown(stopped).await
            }
            Listener::Unix(listener) => {
                axum::serve(listener, router).with_graceful_shutdown(stopped).await
            }
        };
        if let Err(error) = served {
            tracing::error!(%error, "a listener ended");
        }
    };
    tasks.draining(work);
}

/// The first start writes an admin token, readable by its owner only. Removing
/// the file and starting again makes a new one in place of the old.
async fn write_admin_token(config: &Config, app: &Arc<App>) -> Result<()> {
    let path = &config.token_file;
    if path.exists() {
        return Ok(());
    }
    let failed = |error| unusable("token file", path, error);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = match app.renew_admin_token().await {
        Ok(text) => writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(failed),
        Err(error) => Err(error),
    };
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    tracing::info!("the admin token is in {}", path.display());
    written
}

fn unusable(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::precondition(
        "PATH_UNUSABLE",
        format!("the {what} {} cannot be used: {error}; set another", path.display()),
    )
    .because(error)
}
