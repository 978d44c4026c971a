//! The use cases, free of transport.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    domain::{
        Error, Kind, Result,
        container::Container,
        event::{Event, Subject, What},
        gpu::loss::Losses,
        ports::PortRange,
        restart::Policy,
        source::Rules,
        spec::Defaults,
    },
    engine::{Engine, LogFilesLimit},
    fetch::{AssetFetcher, GitFetcher, Registry},
    gpu::Gpus,
    store::{Record, Store, logs::LogStore},
};

pub mod access;
pub mod assets;
pub mod builds;
pub mod events;
pub mod gpus;
pub mod health;
pub mod images;
pub mod keeps;
pub mod list;
mod locks;
pub mod logs;
mod metrics;
pub mod node;
pub mod place;
mod ports;
mod recover;
mod replace;
pub mod restart;
pub mod run;
pub mod stop;
pub mod summary;
pub mod tasks;
mod tracker;
mod turns;
pub mod view;
pub mod watch;

pub use tracker::follow;

/// What the configuration decides for the use cases.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Id of this node.
    pub node_id: String,
    /// URL at which others reach us.
    pub self_url: Option<String>,
    /// Directory of all our files.
    pub data_dir: PathBuf,
    /// What the engine's host calls it, where that was configured.
    pub host_data_dir: Option<PathBuf>,
    /// Network that our containers join.
    pub network: String,
    /// Host ports to choose from.
    pub port_range: PortRange,
    /// Host address of published ports.
    pub port_address: IpAddr,
    /// Folders that builds may read.
    pub build_roots: Vec<PathBuf>,
    /// Where else builds may get their folders from.
    pub source_rules: Rules,
    /// What these may take.
    pub sources: builds::SourceSettings,
    /// How long nothing may come of a pull before it is tried again.
    pub pull_stall_timeout: Duration,
    /// Where assets come from and how long they are kept.
    pub assets: assets::AssetCacheSettings,
    /// How logs are collected and kept.
    pub logs: logs::LogSettings,
    /// How large the engine lets a log of our containers grow.
    pub log_files: LogFilesLimit,
    /// How many events are kept.
    pub events: events::EventLimits,
    /// Restart policy of named containers where the request says nothing.
    pub restart_policy: Policy,
    /// How containers with GPUs are watched.
    pub gpus: gpus::GpuSettings,
}

/// The application: adapters, the view of the node, and what guards them.
#[derive(Debug)]
pub struct App {
    /// Settings.
    pub settings: Settings,
    /// The Docker engine.
    pub engine: Engine,
    /// What outlives the process.
    pub store: Store,
    /// Logs of all containers.
    pub logs: logs::Logs,
    /// Registries.
    pub registry: Registry,
    /// GPUs of the node.
    pub gpus: Gpus,
    /// What is known of the node.
    pub view: view::View,
    /// Who works on which name.
    locks: locks::Locks,
    /// Which request came first.
    turns: Arc<turns::Turns>,
    /// Host ports that are being given out.
    ports: ports::Reserved,
    /// GPUs that are being given out.
    gpus_reserved: gpus::Reserved,
    /// Containers that lost their GPUs.
    gpu_losses: Mutex<Losses>,
    /// Tags of CUDA images.
    tags: gpus::Tags,
    /// Images and downloads.
    pub images: images::Images,
    /// Builds that go on.
    builds: builds::Builds,
    /// Folders of builds that come from elsewhere.
    sources: builds::Sources,
    /// Repositories.
    git: GitFetcher,
    /// Tarballs of web servers.
    tarballs: AssetFetcher,
    /// Files that are fetched for containers.
    assets: assets::Assets,
    /// Facts about the node.
    pub node: node::Facts,
    /// Containers that hold volumes for a moment.
    helpers: keeps::Helpers,
    /// Where the service runs.
    pub place: place::Place,
    /// How containers do by our own probes.
    pub health: health::Healths,
    /// What is remembered for restarts.
    pub restarts: restart::Restarts,
    /// Who may call.
    pub access: access::Tokens,
    /// Every task.
    pub tasks: tasks::Tasks,
}

/// What the application reaches the outside by.
#[derive(Debug)]
pub struct Adapters {
    /// The Docker engine.
    pub engine: Engine,
    /// What outlives the process.
    pub store: Store,
    /// Stored logs.
    pub logs: LogStore,
    /// Registries.
    pub registry: Registry,
    /// Sources of assets.
    pub fetcher: AssetFetcher,
    /// Tarballs for builds.
    pub tarballs: AssetFetcher,
    /// Repositories for builds.
    pub git: GitFetcher,
    /// The node's GPUs.
    pub gpus: Gpus,
}

impl App {
    /// Builds the application over its adapters.
    pub async fn new(
        settings: Settings,
        adapters: Adapters,
        tasks: tasks::Tasks,
    ) -> Result<Arc<Self>> {
        let Adapters { engine, store, logs, registry, fetcher, tarballs, git, gpus } = adapters;
        let access = access::Tokens::load(&store).await?;
        let health = health::Healths::load(&store).await?;
        let restarts = restart::Restarts::load(&store).await?;
        Ok(Arc::new(Self {
            assets: assets::Assets::new(fetcher, &settings.assets)?,
            sources: builds::Sources::open(&settings.data_dir)?,
            logs: logs::Logs::new(logs, settings.logs),
            settings,
            engine,
            store,
            registry,
            gpus,
            view: view::View::default(),
            locks: locks::Locks::default(),
            turns: Arc::default(),
            ports: ports::Reserved::default(),
            gpus_reserved: gpus::Reserved::default(),
            gpu_losses: Mutex::default(),
            tags: gpus::Tags::default(),
            images: images::Images::default(),
            builds: builds::Builds::default(),
            git,
            tarballs,
            node: node::Facts::default(),
            helpers: keeps::Helpers::default(),
            place: place::Place::default(),
            health,
            restarts,
            access,
            tasks,
        }))
    }

    /// What a request is resolved with.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            port_address: self.settings.port_address,
            asset_policy: self.settings.assets.policy.clone(),
        }
    }

    /// True for a container that this service made.
    pub fn is_ours(&self, container: &Container) -> bool {
        container.managed_by(&self.settings.node_id)
    }

    /// Asks the engine about a container and takes the answer over.
    async fn refresh(&self, id: &str) -> Result<Option<Container>> {
        let ticket = self.view.ticket();
        let found = self.engine.inspect(id).await?;
        match &found {
            Some(container) => self.view.put(container.clone(), ticket),
            None => self.view.remove(id),
        }
        Ok(found)
    }

    /// Writes a record and what happened. Somebody decided what shall become of it, so
    /// what was remembered for restarts is forgotten.
    async fn put_record(&self, record: Record, event: Event) -> Result<()> {
        let key = record.key.clone();
        self.store.put_record(record, self.restarts.with_untold(&key, event)).await?;
        self.restarts.forget(&key);
        Ok(())
    }

    /// Forgets records whose container is gone and which nobody works on.
    async fn forget_lost_records(&self) -> Result<()> {
        for record in self.store.records().await? {
            let there = !self.view.keyed(&self.settings.node_id, &record.key).is_empty();
            if !there && !self.locks.is_held(&record.key) {
                let subject = Subject {
                    name: record.name.clone(),
                    container_id: record.container_id.clone(),
                    spec_hash: record.spec_hash.clone(),
                    ..Subject::default()
                };
                let gone = events::now(subject, What::Removed { by_service: false });
                // A run may have come to its end since the records were read.
                let told = self.restarts.with_untold(&record.key, gone);
                if self.store.delete_unchanged(&record, told).await? {
                    self.restarts.forget(&record.key);
                }
            }
        }
        Ok(())
    }
}

/// The error for a look-up that found nothing.
pub fn unknown(what: &str, value: &str) -> Error {
    Error::new(
        Kind::NotFound,
        "CONTAINER_NOT_FOUND",
        format!(
            "no container on this node has the {what} \"{value}\"; list them to see which are there"
        ),
    )
    .with(what, value)
}
