//! A container as the engine is asked to make it.

use std::{collections::HashMap, time::Duration};

use super::{CDI_GPU, GpuAccess, NVIDIA, NewContainer};
use crate::domain::{
    gpu::request::environment,
    health::{HealthCheck, HealthChoice, Probe},
    ports::Protocol,
};
use bollard::models::{
    ContainerCreateBody, DeviceRequest, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountType, NetworkingConfig, PortBinding, PortMap, RestartPolicy,
    RestartPolicyNameEnum,
};

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

pub(super) fn body(new: &NewContainer<'_>) -> ContainerCreateBody {
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
mod tests;
