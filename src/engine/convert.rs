//! From the engine's descriptions to a container of the domain.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, EndpointSettings, HealthStatusEnum, MountPoint,
    PortMap,
};
use jiff::Timestamp;

use crate::domain::{
    Error, Result,
    container::{Container, Network, Resources, State, Volume, labels},
    health::{Health, ProbeResult, Status, clipped},
    ports::{Protocol, PublishedPort},
};

/// From an inspection.
pub(super) fn inspected(answer: ContainerInspectResponse) -> Result<Container> {
    let missing = |what: &str| Error::internal(format!("the engine's inspection has no {what}"));
    let id = answer.id.ok_or_else(|| missing("id"))?;
    let config = answer.config.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let settings = answer.network_settings.unwrap_or_default();
    let life = state.status.map(|status| status.to_string()).unwrap_or_default();
    let life = State::from_word(&life).ok_or_else(|| missing("state"))?;
    let running = matches!(life, State::Running | State::Paused | State::Restarting);

    // While it runs, the engine tells the real ports; before, the asked ones.
    let real = settings.ports.unwrap_or_default();
    let asked = host.port_bindings.unwrap_or_default();
    let ports = if running && !real.is_empty() { ports(&real) } else { ports(&asked) };

    let labels = labels::read(config.labels.unwrap_or_default());
    let image = asked_image(&labels, config.image.unwrap_or_default());
    #[expect(clippy::cast_precision_loss, reason = "a count of processors, far below 2^53")]
    let cpu = host.nano_cpus.unwrap_or(0) as f64 / 1e9;
    let started_at = time(state.started_at.as_deref());
    let log = host.log_config.unwrap_or_default();
    let log_options = log.config.unwrap_or_default();
    // Without a limit of its size the engine never cuts or rotates a log.
    let kept = || log_options.get("max-file").map_or(Some(1), |count| count.parse().ok());
    let log_files = log_options.get("max-size").and_then(|_| kept());
    Ok(Container {
        names: names(answer.name.as_deref().unwrap_or_default(), &labels),
        image,
        image_id: answer.image.unwrap_or_default(),
        ports,
        envs: config
            .env
            .unwrap_or_default()
            .iter()
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        volumes: volumes(answer.mounts),
        state: life,
        resources: Resources {
            cpu,
            memory_mb: u32::try_from(host.memory.unwrap_or(0) >> 20).unwrap_or(u32::MAX),
            pids: u32::try_from(host.pids_limit.unwrap_or(0)).unwrap_or(0),
        },
        network: network(host.network_mode.as_deref(), settings.networks.unwrap_or_default()),
        created_at: time(answer.created.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at,
        finished_at: time(state.finished_at.as_deref()).filter(|_| !running),
        ended_at: time(state.finished_at.as_deref()),
        exit_code: state
            .exit_code
            .and_then(|code| i32::try_from(code).ok())
            .filter(|_| !running && started_at.is_some()),
        oom_killed: state.oom_killed.unwrap_or(false),
        tty: config.tty.unwrap_or(false),
        log_driver: log.typ.unwrap_or_default(),
        log_path: answer.log_path.unwrap_or_default(),
        log_files,
        engine_health: state.health.and_then(|health| checked(health, started_at)),
        labels,
        id,
    })
}

/// What the engine's own check says; `None` where there is none.
fn checked(health: bollard::models::Health, run: Option<Timestamp>) -> Option<Health> {
    let status = match health.status? {
        HealthStatusEnum::STARTING => Status::Starting,
        HealthStatusEnum::HEALTHY => Status::Healthy,
        HealthStatusEnum::UNHEALTHY => Status::Unhealthy,
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => return None,
    };
    let results = health.log.unwrap_or_default().into_iter().filter_map(|result| {
        let at = time(result.start.as_deref())?;
        let end = time(result.end.as_deref()).unwrap_or(at);
        Some(ProbeResult {
            at,
            took: end.duration_since(at).try_into().unwrap_or_default(),
            success: result.exit_code == Some(0),
            output: clipped(&result.output.unwrap_or_default()),
        })
    });
    Some(Health {
        run,
        status,
        streak: health.failing_streak.and_then(|streak| streak.try_into().ok()).unwrap_or(0),
        since: None,
        results: results.collect(),
    })
}

/// From a listing, which knows no environment, times or limits.
pub(super) fn summarised(row: ContainerSummary) -> Option<Container> {
    let labels = labels::read(row.labels.unwrap_or_default());
    let name = row.names.unwrap_or_default().into_iter().find(|n| n.matches('/').count() == 1);
    let mut ports: Vec<PublishedPort> = row
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| {
            let protocol = Protocol::from_word(port.typ?.as_ref())?;
            published(port.private_port, protocol, port.public_port?, port.ip.as_deref())
        })
        .collect();
    tidy(&mut ports);
    let mode = row.host_config.and_then(|host| host.network_mode);
    let networks = row.network_settings.and_then(|settings| settings.networks);
    Some(Container {
        id: row.id?,
        names: names(name.as_deref().unwrap_or_default(), &labels),
        image: asked_image(&labels, row.image.unwrap_or_default()),
        image_id: row.image_id.unwrap_or_default(),
        ports,
        envs: BTreeMap::new(),
        volumes: volumes(row.mounts),
        state: State::from_word(row.state?.as_ref())?,
        resources: Resources::default(),
        network: network(mode.as_deref(), networks.unwrap_or_default()),
        created_at: row
            .created
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: None,
        finished_at: None,
        ended_at: None,
        exit_code: None,
        oom_killed: false,
        tty: false,
        log_driver: String::new(),
        log_path: String::new(),
        log_files: None,
        engine_health: None,
        labels,
    })
}

/// From the event of its start, which knows only what it is called.
pub(super) fn started(
    id: String,
    attributes: HashMap<String, String>,
    at: Option<Timestamp>,
) -> Container {
    let mut labels = labels::read(attributes);
    let name = labels.remove("name").unwrap_or_default();
    let image = asked_image(&labels, labels.get("image").cloned().unwrap_or_default());
    labels.remove("image");
    let at = at.unwrap_or(Timestamp::UNIX_EPOCH);
    Container {
        id,
        names: names(&name, &labels),
        image,
        image_id: String::new(),
        ports: Vec::new(),
        envs: BTreeMap::new(),
        volumes: Vec::new(),
        state: State::Exited,
        resources: Resources::default(),
        network: Network::default(),
        created_at: at,
        started_at: Some(at),
        finished_at: None,
        ended_at: None,
        exit_code: None,
        oom_killed: false,
        tty: false,
        log_driver: String::new(),
        log_path: String::new(),
        log_files: None,
        engine_health: None,
        labels,
    }
}

/// Ours are created by image id; the label keeps the name that was asked for.
fn asked_image(labels: &BTreeMap<String, String>, engine: String) -> String {
    labels.get(labels::IMAGE).cloned().unwrap_or(engine)
}

fn names(name: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
    let aliases = labels.get(labels::ALIASES).map_or("", String::as_str);
    std::iter::once(name.trim_start_matches('/'))
        .chain(aliases.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn ports(map: &PortMap) -> Vec<PublishedPort> {
    let mut ports: Vec<PublishedPort> = map
        .iter()
        .filter_map(|(key, bindings)| {
            let (port, word) = key.split_once('/').unwrap_or((key, "tcp"));
            Some((port.parse().ok()?, Protocol::from_word(word)?, bindings.as_ref()?))
        })
        .flat_map(|(internal, protocol, bindings)| {
            bindings.iter().filter_map(move |binding| {
                let host = binding.host_port.as_deref()?.parse().ok()?;
                published(internal, protocol, host, binding.host_ip.as_deref())
            })
        })
        .collect();
    tidy(&mut ports);
    ports
}

fn published(
    internal: u16,
    protocol: Protocol,
    host: u16,
    address: Option<&str>,
) -> Option<PublishedPort> {
    let address = address.and_then(|address| address.parse().ok());
    // An unspecified address is what a caller who names none gets.
    let address = address.filter(|address: &std::net::IpAddr| !address.is_unspecified());
    let protocol_set = protocol != Protocol::Tcp;
    (host != 0).then_some(PublishedPort { internal, host, protocol, address, protocol_set })
}

/// The engine lists a port once for IPv4 and once for IPv6.
fn tidy(ports: &mut Vec<PublishedPort>) {
    ports.sort();
    ports.dedup();
}

/// By destination; the engine lists mounts in any order.
fn volumes(mounts: Option<Vec<MountPoint>>) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = mounts.unwrap_or_default().into_iter().map(volume).collect();
    volumes.sort_by(|a, b| a.destination.cmp(&b.destination));
    volumes
}

fn volume(mount: MountPoint) -> Volume {
    let name = mount.name.filter(|name| !name.is_empty());
    Volume {
        source: name.or(mount.source).unwrap_or_default(),
        destination: mount.destination.unwrap_or_default(),
        read_only: !mount.rw.unwrap_or(true),
    }
}

fn network(mode: Option<&str>, mut all: HashMap<String, EndpointSettings>) -> Network {
    let mode = match mode {
        None | Some("default" | "") => "bridge".to_owned(),
        Some(mode) => mode.to_owned(),
    };
    let endpoint = all.remove(&mode).unwrap_or_default();
    Network {
        mode,
        ip_address: endpoint.ip_address.unwrap_or_default(),
        mac_address: endpoint.mac_address.unwrap_or_default(),
    }
}

/// The engine writes the year 1 for "never".
fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok().filter(|at: &Timestamp| at.as_second() > 0)
}
