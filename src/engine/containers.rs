//! Containers: make, start, stop, rename, remove, inspect, list.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use super::{Engine, convert};
use crate::domain::{Kind, Result, container::Container, gpu::Booking, spec::RunSpec};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, RemoveContainerOptions,
    RenameContainerOptions, StartContainerOptions, StopContainerOptions,
};

mod body;

use body::body;

/// Name of NVIDIA's runtime and of its driver in the engine.
const NVIDIA: &str = "nvidia";
/// How the variable begins that tells NVIDIA's runtime which GPUs to give.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES=";
/// What the names of NVIDIA's GPUs begin with in their description.
const CDI_GPU: &str = "nvidia.com/gpu=";
/// Creating and starting take the engine long on a busy disk: so many times the
/// limit of a plain question.
const WORK_TIMES: u32 = 4;

/// Everything the engine needs to make a container.
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// Name to create it under.
    pub name: &'a str,
    /// What shall run.
    pub spec: &'a RunSpec,
    /// Content id of the image, so that no tag can move in between.
    pub image_id: &'a str,
    /// Host port of each port of the spec, in its order.
    pub host_ports: &'a [u16],
    /// All labels, ours too.
    pub labels: HashMap<String, String>,
    /// Network to join.
    pub network: &'a str,
    /// How large its log may grow.
    pub log_files: LogFilesLimit,
    /// Volume of each keep of the spec, in its order.
    pub keeps: Vec<String>,
    /// File of this host of each asset of the spec, in its order.
    pub assets: Vec<String>,
    /// GPUs that it gets, by UUID.
    pub gpus: &'a [Booking],
    /// How the engine gives them.
    pub gpu_access: GpuAccess,
    /// Directory of the host by which it reaches MPS, if it does.
    pub mps: Option<&'a str>,
}

impl NewContainer<'_> {
    /// The directory of MPS for one that MPS keeps within what it booked.
    fn mps(&self) -> Option<&str> {
        self.mps.filter(|_| self.gpus.iter().any(|booking| booking.enforced))
    }
}

/// How the engine gives GPUs to containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GpuAccess {
    /// By NVIDIA's own driver in the engine, which calls NVIDIA's hook.
    #[default]
    Requests,
    /// By their description (CDI), which needs no hook.
    Cdi,
}

/// How large the engine lets a container's log grow, so that disks do not fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFilesLimit {
    /// Bytes of one file.
    pub bytes: u64,
    /// Files, the current one too.
    pub count: u32,
}

impl Engine {
    /// How the engine gives GPUs to containers; `None` when it cannot.
    pub async fn gpu_access(&self) -> Result<Option<GpuAccess>> {
        let docker = self.docker().await?;
        let info = self.within(self.timeout, docker.info()).await?;
        let described = info.discovered_devices.unwrap_or_default();
        let described =
            described.iter().any(|one| one.id.as_deref().is_some_and(|id| id.starts_with(CDI_GPU)));
        // The toolkit that brings the runtime brings the hook too.
        let runtime = info.runtimes.is_some_and(|all| all.contains_key(NVIDIA));
        Ok(match (described, runtime) {
            (true, _) => Some(GpuAccess::Cdi),
            (false, true) => Some(GpuAccess::Requests),
            (false, false) => None,
        })
    }

    /// True when NVIDIA's runtime is the engine's default one.
    async fn gives_gpus(&self) -> Result<bool> {
        let known = *self.gives_gpus.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known {
            return Ok(known);
        }
        let docker = self.docker().await?;
        let info = self.within(self.timeout, docker.info()).await?;
        let gives = info.default_runtime.as_deref() == Some(NVIDIA);
        *self.gives_gpus.lock().unwrap_or_else(PoisonError::into_inner) = Some(gives);
        Ok(gives)
    }

    pub(super) fn work_limit(&self) -> Duration {
        self.timeout * WORK_TIMES
    }

    /// Makes a container and answers with its id; it does not start.
    pub async fn create(&self, new: NewContainer<'_>) -> Result<String> {
        let docker = self.docker().await?;
        let options =
            CreateContainerOptions { name: Some(new.name.to_owned()), ..Default::default() };
        let mut body = body(&new);
        // There, an image or a caller could name GPUs that nobody booked for it.
        if new.gpus.is_empty() && self.gives_gpus().await? {
            let envs = body.env.get_or_insert_default();
            envs.retain(|env| !env.starts_with(VISIBLE));
            envs.push(format!("{VISIBLE}void"));
        }
        let question = docker.create_container(Some(options), body);
        let created = self.within(self.work_limit(), question).await?;
        Ok(created.id)
    }

    /// Starts a container; one that runs is left as it is.
    pub async fn start(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        self.within(self.work_limit(), docker.start_container(id, None::<StartContainerOptions>))
            .await
    }

    /// Stops a container with its own timeout; one that does not run is left.
    pub async fn stop(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        // A container may ask for up to an hour between the signal and the kill.
        let limit = self.work_limit() + Duration::from_secs(3600);
        self.within(limit, docker.stop_container(id, None::<StopContainerOptions>)).await
    }

    /// Gives a container another name.
    pub async fn rename(&self, id: &str, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RenameContainerOptions { name: name.to_owned() };
        self.within(self.timeout, docker.rename_container(id, options)).await
    }

    /// Removes a container, running or not, with the volumes that have no name; those with
    /// one stay. One that is gone is fine.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        match self.within(self.work_limit(), docker.remove_container(id, Some(options))).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Describes a container by id or name; `None` when there is none.
    pub async fn inspect(&self, id_or_name: &str) -> Result<Option<Container>> {
        let docker = self.docker().await?;
        let question = docker.inspect_container(id_or_name, None::<InspectContainerOptions>);
        match self.within(self.timeout, question).await {
            Ok(answer) => convert::inspected(answer).map(Some),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists all containers, without what only an inspection tells.
    pub async fn list(&self) -> Result<Vec<Container>> {
        let docker = self.docker().await?;
        let options = ListContainersOptions { all: true, ..Default::default() };
        let listed = self.within(self.timeout, docker.list_containers(Some(options))).await?;
        Ok(listed.into_iter().filter_map(convert::summarised).collect())
    }
}
