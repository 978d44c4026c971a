//! Containers: make, start, stop, rename, remove, inspect, list.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use super::{Engine, convert};
use crate::domain::{
    Kind, Result,
    container::Container,
    gpu::{Booking, request::environment},
    health::{HealthCheck, HealthChoice, Probe},
    ports::Protocol,
    spec::RunSpec,
};
use bollard::{
    models::{
        ContainerCreateBody, DeviceRequest, EndpointSettings, HealthConfig, HostConfig,
        HostConfigLogConfig, Mount, MountType, NetworkingConfig, PortBinding, PortMap,
        RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, ListContainersOptions,
        RemoveContainerOptions, RenameContainerOptions, StartContainerOptions,
        StopContainerOptions,
    },
};

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

    /// Removes a container, running or not; its volumes stay. One that is gone
    /// is fine.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveContainerOptions { force: true, ..Default::default() };
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

/// What the engine is asked for so that a container has GPUs.
fn device_request(new: &NewContainer<'_>) -> Option<DeviceRequest> {
    let ids = |prefix: &str| {
        let ids = new.gpus.iter().map(|booking| format!("{prefix}{}", booking.device));
        Some(ids.collect())
    };
    (!new.gpus.is_empty()).then(|| match new.gpu_access {
        GpuAccess::Requests => DeviceRequest {
            driver: Some(NVIDIA.to_owned()),
            device_ids: ids(""),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            ..Default::default()
        },
        GpuAccess::Cdi => DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: ids(CDI_GPU),
            ..Default::default()
        },
    })
}

fn body(new: &NewContainer<'_>) -> ContainerCreateBody {
    let spec = new.spec;
    let mut envs = spec.envs.clone();
    let assets = spec.assets.iter();
    envs.extend(assets.map(|asset| (asset.given.env_var_key.clone(), asset.path.clone())));
    if !new.gpus.is_empty() {
        environment(&mut envs, new.gpus, new.mps());
    }
    let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.to_vec());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());

    let mut bindings = PortMap::new();
    for (port, host) in spec.ports.iter().zip(new.host_ports) {
        let binding = PortBinding {
            host_ip: Some(port.address.to_string()),
            host_port: Some(host.to_string()),
        };
        let key = exposed(port.internal, port.protocol);
        bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    let resources = spec.resources;
    // The default bridge knows no aliases; the engine refuses them there.
    let aliases = if new.network == "bridge" { Vec::new() } else { spec.names.clone() };
    let endpoint = EndpointSettings { aliases: list(&aliases), ..Default::default() };

    ContainerCreateBody {
        image: Some(new.image_id.to_owned()),
        env: Some(envs.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        cmd: list(&spec.command),
        entrypoint: list(&spec.entrypoint),
        working_dir: text(&spec.working_dir),
        user: text(&spec.user),
        labels: Some(new.labels.clone()),
        exposed_ports: Some(bindings.keys().cloned().collect()),
        stop_timeout: i64::try_from(spec.stop_timeout.as_secs()).ok(),
        healthcheck: health(&spec.health),
        host_config: Some(HostConfig {
            port_bindings: Some(bindings),
            network_mode: Some(new.network.to_owned()),
            #[expect(clippy::cast_possible_truncation, reason = "at most 4096 processors")]
            nano_cpus: (resources.cpu > 0.0).then_some((resources.cpu * 1e9) as i64),
            memory: (resources.memory_mb > 0).then_some(i64::from(resources.memory_mb) << 20),
            mounts: Some(mounts(new)).filter(|mounts| !mounts.is_empty()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), new.log_files.bytes.to_string()),
                    ("max-file".to_owned(), new.log_files.count.to_string()),
                ])),
            }),
            device_requests: device_request(new).map(|request| vec![request]),
            // Clients of MPS and its server share memory.
            ipc_mode: new.mps().map(|_| "host".to_owned()),
            pids_limit: (resources.pids > 0).then_some(i64::from(resources.pids)),
            // Two that restart would undo each other's backoff, and the user's stop.
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                ..Default::default()
            }),
            ..Default::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(new.network.to_owned(), endpoint)])),
        }),
        ..Default::default()
    }
}

/// Keeps by their volumes, assets by one file each.
fn mounts(new: &NewContainer<'_>) -> Vec<Mount> {
    let keeps = new.spec.keeps.iter().zip(&new.keeps).map(|(keep, volume)| Mount {
        target: Some(keep.path.clone()),
        source: Some(volume.clone()),
        typ: Some(MountType::VOLUME),
        read_only: Some(keep.read_only),
        ..Default::default()
    });
    let assets = new.spec.assets.iter().zip(&new.assets).map(|(asset, file)| Mount {
        target: Some(asset.path.clone()),
        source: Some(file.clone()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Default::default()
    });
    let mps = new.mps().map(|directory| Mount {
        target: Some(directory.to_owned()),
        source: Some(directory.to_owned()),
        typ: Some(MountType::BIND),
        ..Default::default()
    });
    keeps.chain(assets).chain(mps).collect()
}

/// The engine runs a command by itself, and ends one that takes too long; what is
/// asked from outside must not be asked by it too.
fn health(choice: &HealthChoice) -> Option<HealthConfig> {
    let (test, timing) = match choice {
        HealthChoice::Image => return None,
        HealthChoice::Check(HealthCheck { probe: Probe::Exec { command }, timing }) => {
            (std::iter::once("CMD".to_owned()).chain(command.iter().cloned()).collect(), timing)
        }
        HealthChoice::Off | HealthChoice::Check(_) => {
            return Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..Default::default()
            });
        }
    };
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).ok();
    Some(HealthConfig {
        test: Some(test),
        interval: nanos(timing.interval),
        timeout: nanos(timing.timeout),
        retries: Some(timing.retries.into()),
        // The engine takes 0 for "as the image says".
        start_period: nanos(timing.start_period.max(Duration::from_millis(1))),
        ..Default::default()
    })
}

fn exposed(port: u16, protocol: Protocol) -> String {
    format!("{port}/{}", protocol.word())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{
        asset::Policy,
        spec::{Defaults, RunRequest},
    };

    fn spec() -> RunSpec {
        let policy = Policy { http_hosts: vec![], addresses: vec![], file_roots: vec![] };
        let defaults =
            Defaults { port_address: [0, 0, 0, 0].into(), asset_policy: Arc::new(policy) };
        let envs = [("LD_PRELOAD", "/x.so"), ("A", "b")];
        let envs = envs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let request =
            RunRequest { image: "app".into(), envs, gpu_enabled: true, ..Default::default() };
        RunSpec::resolve(request, &defaults).expect("it is right")
    }

    fn create(gpus: &[Booking], gpu_access: GpuAccess, mps: Option<&str>) -> ContainerCreateBody {
        body(&NewContainer {
            name: "app",
            spec: &spec(),
            image_id: "sha256:0",
            host_ports: &[],
            labels: HashMap::new(),
            network: "net",
            log_files: LogFilesLimit { bytes: 1, count: 1 },
            keeps: Vec::new(),
            assets: Vec::new(),
            gpus,
            gpu_access,
            mps,
        })
    }

    fn booking(device: &str, enforced: bool) -> Booking {
        Booking { device: device.into(), memory_mb: 1024, enforced, ..Booking::default() }
    }

    #[test]
    fn an_engine_that_knows_gpus_by_their_description_is_asked_by_that_alone() {
        let gpus = [booking("GPU-a", false), booking("MIG-b", false)];
        let host = |access| create(&gpus, access, None).host_config.unwrap_or_default();
        let described = host(GpuAccess::Cdi).device_requests.unwrap_or_default();
        assert_eq!(described.len(), 1);
        assert_eq!(described[0].driver.as_deref(), Some("cdi"));
        let ids = ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=MIG-b"].map(str::to_owned);
        assert_eq!(described[0].device_ids.as_deref(), Some(&ids[..]));
        assert_eq!((described[0].count, &described[0].capabilities), (None, &None));
        let asked = host(GpuAccess::Requests).device_requests.unwrap_or_default();
        assert_eq!(asked[0].driver.as_deref(), Some("nvidia"));
        assert_eq!(
            asked[0].device_ids.as_deref(),
            Some(&["GPU-a", "MIG-b"].map(str::to_owned)[..])
        );
    }

    #[test]
    fn what_callers_would_make_gpu_libraries_load_is_left_out_either_way() {
        for access in [GpuAccess::Cdi, GpuAccess::Requests] {
            let envs = create(&[booking("GPU-a", false)], access, None).env.unwrap_or_default();
            assert_eq!(envs, ["A=b", "NVIDIA_VISIBLE_DEVICES=GPU-a"]);
        }
        let envs = create(&[], GpuAccess::Cdi, None).env.unwrap_or_default();
        assert_eq!(envs, ["A=b", "LD_PRELOAD=/x.so"], "without GPUs it is the caller's affair");
    }

    #[test]
    fn only_who_is_kept_within_a_share_reaches_mps() {
        let shared = create(&[booking("GPU-a", true)], GpuAccess::Cdi, Some("/mps"));
        let host = shared.host_config.unwrap_or_default();
        assert_eq!(host.ipc_mode.as_deref(), Some("host"));
        let mounts = host.mounts.unwrap_or_default();
        assert_eq!(mounts[0].source.as_deref(), Some("/mps"));
        let whole = create(&[booking("GPU-a", false)], GpuAccess::Cdi, Some("/mps"));
        let host = whole.host_config.unwrap_or_default();
        assert_eq!((host.ipc_mode, host.mounts), (None, None));
    }
}
