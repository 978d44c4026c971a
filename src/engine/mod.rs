//! The only place with bollard: the Docker engine in the words of the domain.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{ClientVersion, Docker};

use crate::domain::{Error, Result};

mod archive;
mod body;
pub mod builds;
mod containers;
pub mod context;
mod convert;
mod endings;
mod errors;
mod events;
mod exec;
mod images;
mod lines;
pub mod logs;
mod networks;
mod own;
mod volumes;

pub use containers::{GpuAccess, LogFilesLimit, NewContainer};
pub use endings::Ending;
pub use errors::{
    ENGINE_UNREACHABLE, PORT_IN_USE, REGISTRY_LIMIT, REGISTRY_UNREACHABLE, conflicting_port,
};
pub use events::{Death, Event};
pub use exec::Ran;
pub use images::{
    Credential, ListedImage, LocalImage, PullStep, Pushed, Pushing, Removed, is_local,
};
pub use logs::{LogFiles, Progress, Wake, Wakes};
pub use own::Own;
pub use volumes::Volume;

/// The oldest API that is spoken; raised by negotiation.
const API: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };
/// bollard's own limit for response headers; ours are shorter or deliberate.
const TRANSPORT_TIMEOUT_S: u64 = 2 * 3600;

/// What the engine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// Version, as in `20.10.24`.
    pub version: String,
    /// API version in use, as in `1.41`.
    pub api: String,
    /// Operating system and architecture.
    pub platform: String,
}

/// A Docker engine at an address. Cheap to share; connects when first needed.
#[derive(Debug)]
pub struct Engine {
    address: String,
    /// How long the engine may take to answer a plain question.
    timeout: Duration,
    docker: Mutex<Option<Docker>>,
    /// Held while a network is made.
    networks: tokio::sync::Mutex<()>,
    /// Held while the engine measures its disk, which older ones do once at a time.
    measures: tokio::sync::Mutex<()>,
    /// Whether containers that ask for no runtime get NVIDIA's; asked once a connection.
    gives_gpus: Mutex<Option<bool>>,
    /// Whether it has BuildKit; asked once a connection.
    has_buildkit: Mutex<Option<bool>>,
}

impl Engine {
    /// An engine at `unix://…`, `tcp://…` or `http://…`; nothing is opened yet.
    pub fn new(address: &str, timeout: Duration) -> Self {
        Self {
            address: address.to_owned(),
            timeout,
            docker: Mutex::default(),
            networks: Default::default(),
            measures: Default::default(),
            gives_gpus: Default::default(),
            has_buildkit: Default::default(),
        }
    }

    /// The address it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host in the address, when the engine is on another machine.
    pub fn remote_host(&self) -> Option<&str> {
        let rest = self.address.split_once("://").filter(|(scheme, _)| *scheme != "unix")?.1;
        let host = rest.split('/').next().unwrap_or_default();
        Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
    }

    /// Connects anew and agrees on the API version.
    pub async fn connect(&self) -> Result<Version> {
        let docker = match self.address.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, TRANSPORT_TIMEOUT_S, &API),
            None => Docker::connect_with_http(&self.address, TRANSPORT_TIMEOUT_S, &API),
        }
        .map_err(|error| self.error(error))?;
        let docker = self.within(self.timeout, docker.negotiate_version()).await?;
        let version = self.within(self.timeout, docker.version()).await?;
        let api = docker.client_version();
        self.set(Some(docker));
        for known in [&self.gives_gpus, &self.has_buildkit] {
            *known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(Version {
            version: version.version.unwrap_or_default(),
            api: format!("{}.{}", api.major_version, api.minor_version),
            platform: format!(
                "{}/{}",
                version.os.unwrap_or_default(),
                version.arch.unwrap_or_default()
            ),
        })
    }

    /// Asks the engine whether it answers, within two seconds.
    pub async fn ping(&self) -> Result<()> {
        let docker = self.docker().await?;
        self.within(self.timeout.min(Duration::from_secs(2)), docker.ping()).await.map(drop)
    }

    async fn docker(&self) -> Result<Docker> {
        let have = self.docker.lock().ok().and_then(|docker| docker.clone());
        if let Some(docker) = have {
            return Ok(docker);
        }
        self.connect().await?;
        self.docker
            .lock()
            .ok()
            .and_then(|docker| docker.clone())
            .ok_or_else(|| Error::internal("the connection to the engine was lost"))
    }

    fn set(&self, docker: Option<Docker>) {
        if let Ok(mut slot) = self.docker.lock() {
            *slot = docker;
        }
    }

    /// Runs one question under a deadline that covers the whole answer.
    async fn within<T>(
        &self,
        limit: Duration,
        question: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, question).await {
            Ok(answer) => answer.map_err(|error| self.error(error)),
            Err(_) => Err(errors::timeout(&self.address, limit)),
        }
    }

    fn error(&self, error: bollard::errors::Error) -> Error {
        errors::convert(&self.address, error)
    }
}
