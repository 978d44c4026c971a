//! The engine without the service in front of it.

use std::{collections::HashMap, path::Path, process::Command};

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType},
    query_parameters::{
        CreateContainerOptions, RemoveContainerOptions, StartContainerOptions, WaitContainerOptions,
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};

use crate::Failure;

/// Label of what is made here, and name of its image; `scripts/demo-image` makes that.
const LABEL: &str = "container-svc-bench";
/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";
/// Containers made at once.
const AT_ONCE: usize = 4;

/// The raw engine; what was made by it is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Raw {
    /// The image that is run.
    pub(crate) image: String,
    docker: Docker,
    http: reqwest::Client,
    label: String,
}

/// Volumes and files that are mounted into a container; the volumes are removed when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct Extras(Vec<Mount>);

impl Extras {
    /// So many volumes, which are made with the first container, and files.
    pub(crate) fn make(folder: &Path, each: usize) -> Result<Self, Failure> {
        let mut mounts = Vec::new();
        for at in 0..each {
            let file = folder.join(format!("{at}.bin"));
            std::fs::write(&file, vec![b'x'; 1 << 10])?;
            mounts.push(Mount {
                target: Some(format!("/keep/{at}")),
                source: Some(format!("{LABEL}-{}-{at}", std::process::id())),
                typ: Some(MountType::VOLUME),
                ..Default::default()
            });
            mounts.push(Mount {
                target: Some(format!("/assets/ASSET_{at}/{at}.bin")),
                source: Some(file.to_string_lossy().into_owned()),
                typ: Some(MountType::BIND),
                read_only: Some(true),
                ..Default::default()
            });
        }
        Ok(Self(mounts))
    }
}

impl Drop for Extras {
    fn drop(&mut self) {
        let volumes = self.0.iter().filter(|mount| mount.typ == Some(MountType::VOLUME));
        for volume in volumes.filter_map(|mount| mount.source.as_deref()) {
            docker(&["volume", "rm", "-f", volume]);
        }
    }
}

impl Raw {
    /// Connects and makes the image.
    pub(crate) async fn connect() -> Result<Self, Failure> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let docker = Docker::connect_with_unix(SOCKET, 120, bollard::API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await?;
        let http = reqwest::Client::builder().unix_socket(SOCKET).build()?;
        let label = std::process::id().to_string();
        let raw = Self { image: format!("{LABEL}:{label}"), docker, http, label };

        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo-image");
        let made = Command::new(script).arg(&raw.image).output()?;
        if !made.status.success() {
            return Err(format!("no image: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        Ok(raw)
    }

    /// The engine's version.
    pub(crate) async fn version(&self) -> Result<String, Failure> {
        Ok(self.docker.version().await?.version.unwrap_or_default())
    }

    /// Makes a container; answers with its id.
    pub(crate) async fn create(&self, name: &str, network: &str) -> Result<String, Failure> {
        self.create_with(name, network, &["sleep", "1000"]).await
    }

    /// Runs a script in a container that keeps its log in a file; answers with its id.
    pub(crate) async fn script(&self, name: &str, script: &str) -> Result<String, Failure> {
        let id = self.create_with(&self.name(name), "none", &["sh", "-c", script]).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// The name of a container that runs a script.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("csb-{}-{name}", self.label)
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&self, id: &str) -> Result<(), Failure> {
        let options = None::<WaitContainerOptions>;
        Ok(self.docker.wait_container(id, options).try_for_each(|_| future::ok(())).await?)
    }

    /// Makes a container with mounts; answers with its id.
    pub(crate) async fn create_kept(
        &self,
        name: &str,
        network: &str,
        extras: &Extras,
    ) -> Result<String, Failure> {
        let mounts = Some(extras.0.clone());
        self.create_mounted(name, network, &["sleep", "1000"], mounts).await
    }

    async fn create_with(
        &self,
        name: &str,
        network: &str,
        command: &[&str],
    ) -> Result<String, Failure> {
        self.create_mounted(name, network, command, None).await
    }

    async fn create_mounted(
        &self,
        name: &str,
        network: &str,
        command: &[&str],
        mounts: Option<Vec<Mount>>,
    ) -> Result<String, Failure> {
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
            labels: Some(HashMap::from([(LABEL.to_owned(), self.label.clone())])),
            host_config: Some(HostConfig {
                network_mode: Some(network.to_owned()),
                mounts,
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }

    /// Starts a container.
    pub(crate) async fn start(&self, id: &str) -> Result<(), Failure> {
        Ok(self.docker.start_container(id, None::<StartContainerOptions>).await?)
    }

    /// Removes a container, running or not.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptions { force: true, ..Default::default() };
        Ok(self.docker.remove_container(id, Some(options)).await?)
    }

    /// Makes containers that do not start.
    pub(crate) async fn make_many(&self, count: usize) -> Result<(), Failure> {
        self.many(count, false).await
    }

    /// Makes containers that run.
    pub(crate) async fn run_many(&self, count: usize) -> Result<(), Failure> {
        self.many(count, true).await
    }

    /// Removes all that was made here.
    pub(crate) fn remove_made(&self) {
        remove(&self.made());
    }

    async fn many(&self, count: usize, run: bool) -> Result<(), Failure> {
        let first = self.made().len();
        stream::iter(first..first + count)
            .map(|number| async move {
                let name = format!("csb-{}-{number}", self.label);
                let id = self.create(&name, "none").await?;
                if run { self.start(&id).await } else { Ok(()) }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// One GET of the engine's API, read to its end.
    pub(crate) async fn get(&self, path: &str) -> Result<usize, Failure> {
        let answer = self.http.get(format!("http://docker{path}")).send().await?;
        Ok(answer.error_for_status()?.bytes().await?.len())
    }

    /// The same, of which nothing is kept.
    pub(crate) async fn read_past(&self, path: &str) -> Result<usize, Failure> {
        let answer = self.http.get(format!("http://docker{path}")).send().await?;
        let mut answer = answer.error_for_status()?;
        let mut bytes = 0;
        while let Some(chunk) = answer.chunk().await? {
            bytes += chunk.len();
        }
        Ok(bytes)
    }

    /// The engine's process; it must run on this machine.
    pub(crate) async fn process(&self) -> Result<i32, Failure> {
        let peer = tokio::net::UnixStream::connect(SOCKET).await?.peer_cred()?;
        peer.pid().ok_or_else(|| "the engine does not run on this machine".into())
    }

    fn made(&self) -> Vec<String> {
        labelled(&format!("{LABEL}={}", self.label))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.remove_made();
        docker(&["rmi", &self.image]);
    }
}

/// Ids of the containers with a label.
pub(crate) fn labelled(label: &str) -> Vec<String> {
    let ids = docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("label={label}")]);
    ids.lines().map(str::to_owned).collect()
}

/// Removes containers, running or not.
pub(crate) fn remove(ids: &[String]) {
    if !ids.is_empty() {
        let all = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str));
        docker(&all.collect::<Vec<_>>());
    }
}

/// Runs the docker command on the same engine.
pub(crate) fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").arg("-H").arg(format!("unix://{SOCKET}")).args(args).output();
    out.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
