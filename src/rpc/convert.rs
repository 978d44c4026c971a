//! From the contract's messages to the domain's values, and back.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::{pb, supervision};
use crate::{
    app::{self, list, run},
    domain::{
        asset::{Given, shown},
        container::{Container, State, is_secret_key, labels},
        ports::PublishedPort,
        spec::{PullPolicy, RawPort, RunRequest},
    },
};

/// What is shown in place of a secret.
const REDACTED: &str = "[redacted]";

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn duration(given: Option<prost_types::Duration>) -> Option<Result<Duration, String>> {
    given.map(|given| {
        Duration::try_from(given)
            .map_err(|_| "is no positive duration; use one as \"10s\"".to_owned())
    })
}

/// Until when the caller waits for an answer, as it told by `grpc-timeout`: at most
/// eight digits and a unit. A moment is left for the answer itself.
pub(super) fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    const MOMENT: Duration = Duration::from_millis(200);
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    let wait = unit.checked_mul(number)?.saturating_sub(MOMENT);
    Instant::now().checked_add(wait)
}

impl From<pb::RunContainerRequest> for RunRequest {
    fn from(request: pb::RunContainerRequest) -> Self {
        let resources = request.resources.unwrap_or_default();
        let cuda_off = request.cuda_policy() == pb::CudaPolicy::Off;
        let pull_policy = match request.pull_policy() {
            pb::PullPolicy::Unspecified | pb::PullPolicy::IfNotPresent => PullPolicy::IfNotPresent,
            pb::PullPolicy::Always => PullPolicy::Always,
            pb::PullPolicy::Never => PullPolicy::Never,
        };
        let restart_policy = request.restart_policy();
        let gpu_enabled = request.capabilities.is_some_and(|it| it.gpu_enabled);
        Self {
            image: request.image,
            names: request.names,
            ports: request.ports.into_iter().map(Into::into).collect(),
            hash: request.hash,
            labels: request.labels.into_iter().map(|pair| (pair.key, pair.value)).collect(),
            envs: request.envs.into_iter().map(|pair| (pair.key, pair.value)).collect(),
            keeps: request
                .keeps
                .into_iter()
                .map(|keep| (keep.path, keep.read_only.unwrap_or(false)))
                .collect(),
            assets: request.assets.into_iter().map(Into::into).collect(),
            command: request.command,
            entrypoint: request.entrypoint,
            working_dir: request.working_dir,
            user: request.user,
            cpu: resources.cpu,
            memory_mb: resources.memory_mb.into(),
            disk_mb: resources.disk_mb.into(),
            pids: resources.pids.into(),
            stop_timeout: duration(request.stop_timeout),
            pull_policy,
            login: request.credential.map(Into::into),
            gpu_enabled,
            cuda_off,
            gpus: request.gpus.map(|wish| super::gpus::wish(wish, gpu_enabled)),
            health: request.health_check.map(Into::into),
            restart_policy: supervision::policy(restart_policy),
            restart: request.restart.map(Into::into).unwrap_or_default(),
        }
    }
}

impl From<pb::Asset> for Given {
    fn from(asset: pb::Asset) -> Self {
        Self {
            env_var_key: asset.env_var_key,
            url: asset.url,
            sha256: asset.sha256,
            path: asset.path,
            mode: asset.mode,
            refresh: asset.refresh.unwrap_or(false),
        }
    }
}

fn asset(given: Given) -> pb::Asset {
    pb::Asset {
        env_var_key: given.env_var_key,
        url: shown(&given.url),
        sha256: given.sha256,
        path: given.path,
        mode: given.mode,
        refresh: None,
    }
}

impl From<pb::PortMapping> for RawPort {
    fn from(port: pb::PortMapping) -> Self {
        Self {
            internal: port.internal.into(),
            host: port.host.into(),
            protocol: port.protocol,
            host_address: port.host_address,
        }
    }
}

pub(super) fn port(port: &PublishedPort) -> pb::PortMapping {
    pb::PortMapping {
        internal: port.internal.into(),
        host: port.host.into(),
        protocol: port.protocol_set.then(|| port.protocol.word().to_owned()),
        host_address: port.address.map(|address| address.to_string()),
    }
}

impl From<run::Told> for pb::RunContainerStreamResponse {
    fn from(told: run::Told) -> Self {
        let step = |stage: pb::RunStage| Self { stage: stage.into(), ..Self::default() };
        match told {
            run::Told::Step(run::Step::Pulling(update)) => {
                Self { pull: Some(super::images::render(*update)), ..step(pb::RunStage::Pulling) }
            }
            run::Told::Step(run::Step::Downloading(now)) => Self {
                download: Some(pb::AssetDownload {
                    env_var_key: now.env_var_key,
                    bytes: signed(now.bytes),
                    total_bytes: signed(now.total),
                    bytes_per_second: signed(now.rate),
                    done: now.done,
                }),
                ..step(pb::RunStage::Downloading)
            },
            run::Told::Step(run::Step::Queued(standing)) => {
                Self { queue: Some(standing.into()), ..step(pb::RunStage::Queued) }
            }
            run::Told::Step(run::Step::Creating) => step(pb::RunStage::Creating),
            run::Told::Step(run::Step::Starting) => step(pb::RunStage::Starting),
            run::Told::Ready(outcome) => {
                Self { result: Some(outcome.into()), ..step(pb::RunStage::Ready) }
            }
        }
    }
}

impl From<run::Outcome> for pb::RunContainerResponse {
    fn from(outcome: run::Outcome) -> Self {
        let started = outcome.action != run::Action::Unchanged;
        let (action, differing_fields) = match outcome.action {
            run::Action::Created => (pb::RunAction::Created, Vec::new()),
            run::Action::Replaced(fields) => (pb::RunAction::Replaced, fields),
            run::Action::Started => (pb::RunAction::Started, Vec::new()),
            run::Action::Unchanged => (pb::RunAction::Unchanged, Vec::new()),
        };
        Self {
            started,
            ports: outcome.ports.iter().map(port).collect(),
            id: outcome.id,
            hash: outcome.hash,
            action: action.into(),
            differing_fields,
            name: outcome.name,
            cuda: outcome.cuda.map(|choice| pb::CudaChoice {
                asked_image: choice.asked,
                image: choice.image,
                reason: choice.reason,
            }),
        }
    }
}

impl From<pb::ListContainersRequest> for list::Query {
    fn from(request: pb::ListContainersRequest) -> Self {
        let state = match request.state() {
            pb::ContainerState::Unspecified => None,
            pb::ContainerState::Created => Some(State::Created),
            pb::ContainerState::Running => Some(State::Running),
            pb::ContainerState::Paused => Some(State::Paused),
            pb::ContainerState::Restarting => Some(State::Restarting),
            pb::ContainerState::Removing => Some(State::Removing),
            pb::ContainerState::Exited => Some(State::Exited),
            pb::ContainerState::Dead => Some(State::Dead),
        };
        Self {
            node_id: request.node_id,
            container_id: request.container_id,
            name: request.name,
            hash: request.hash,
            label: request.label,
            state,
            managed_only: request.managed_only,
            limit: request.limit.into(),
            page_size: request.page_size.into(),
            page_token: request.page_token,
        }
    }
}

fn state(state: State) -> pb::ContainerState {
    match state {
        State::Created => pb::ContainerState::Created,
        State::Running => pb::ContainerState::Running,
        State::Paused => pb::ContainerState::Paused,
        State::Restarting => pb::ContainerState::Restarting,
        State::Removing => pb::ContainerState::Removing,
        State::Exited => pb::ContainerState::Exited,
        State::Dead => pb::ContainerState::Dead,
    }
}

pub(super) fn container(container: &Container, app: &app::App) -> pb::Container {
    let network = &container.network;
    let gpus = super::gpus::of(container, app);
    pb::Container {
        id: container.id.clone(),
        node_id: app.settings.node_id.clone(),
        names: container.names.clone(),
        image: container.image.clone(),
        ports: container.ports.iter().map(port).collect(),
        hash: container.hash().to_owned(),
        labels: container
            .labels
            .iter()
            .filter(|(key, _)| !labels::reserved(key))
            .map(|(key, value)| pb::Label { key: key.clone(), value: value.clone() })
            .collect(),
        assets: container.assets().into_iter().map(asset).collect(),
        envs: container
            .envs
            .iter()
            .map(|(key, value)| pb::EnvVar {
                key: key.clone(),
                value: if is_secret_key(key) { REDACTED.to_owned() } else { value.clone() },
            })
            .collect(),
        keeps: app
            .keeps_of(container)
            .map(|volume| pb::Keep {
                path: volume.destination.clone(),
                read_only: volume.read_only.then_some(true),
            })
            .collect(),
        volumes: container
            .volumes
            .iter()
            .map(|volume| pb::Volume {
                source: volume.source.clone(),
                destination: volume.destination.clone(),
                read_only: volume.read_only,
            })
            .collect(),
        status: container.state.word().to_owned(),
        runtime: "docker".to_owned(),
        resources: Some(pb::Resources {
            cpu: container.resources.cpu,
            memory_mb: i32::try_from(container.resources.memory_mb).unwrap_or(i32::MAX),
            disk_mb: 0,
            pids: i32::try_from(container.resources.pids).unwrap_or(i32::MAX),
        }),
        capabilities: Some(pb::Capabilities { gpu_enabled: !gpus.is_empty() }),
        network: Some(pb::Network {
            mode: network.mode.clone(),
            ip_address: network.ip_address.clone(),
            mac_address: network.mac_address.clone(),
        }),
        state: state(container.state).into(),
        managed: app.is_ours(container),
        spec_hash: container.spec_hash().to_owned(),
        image_id: container.image_id.clone(),
        created_at: Some(timestamp(container.created_at)),
        started_at: container.started_at.map(timestamp),
        finished_at: container.finished_at.map(timestamp),
        exit_code: container.exit_code,
        oom_killed: container.oom_killed,
        gpus,
        health: app.health_of(container).map(Into::into),
        restart: app.is_ours(container).then(|| supervision::restart(container, app)),
    }
}
