//! From a request as it came to a checked spec, with all that is wrong at once.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use crate::domain::{
    asset::{self, Asset, Given, Policy},
    container::{PREDECESSOR, Resources, SUCCESSOR, labels},
    error::{Error, FieldViolation, Result},
    gpu::{RawWish, Wish},
    image::ImageRef,
    keep::{self, Keep},
    ports::{PortSpec, Protocol},
    restart,
    source::Login,
    spec::{
        DEFAULT_STOP_TIMEOUT, PullPolicy, RunSpec,
        supervision::{self, RawDuration, RawHealthCheck, RawRestart},
    },
};

const MAX_NAMES: usize = 16;
const MAX_PORTS: usize = 256;
const MAX_LABELS: usize = 256;
const MAX_ENVS: usize = 1024;
const MAX_STOP: Duration = Duration::from_secs(3600);
/// The engine's own least, of Docker Engine 20.10 and later.
const MIN_MEMORY_MB: i64 = 6;

/// What the configuration decides where a request says nothing.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Host address of published ports.
    pub port_address: IpAddr,
    /// Where assets may come from.
    pub asset_policy: Arc<Policy>,
}

/// A port as it came.
#[derive(Debug, Clone, Default)]
pub struct RawPort {
    /// Port in the container.
    pub internal: i64,
    /// Port on the host, 0 to be chosen.
    pub host: i64,
    /// Protocol, default tcp.
    pub protocol: Option<String>,
    /// Address, default the configured one.
    pub host_address: Option<String>,
}

/// A request as it came, free of transport.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// Image reference.
    pub image: String,
    /// Names.
    pub names: Vec<String>,
    /// Ports.
    pub ports: Vec<RawPort>,
    /// The caller's hash; empty is none.
    pub hash: String,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Environment.
    pub envs: Vec<(String, String)>,
    /// Arguments.
    pub command: Vec<String>,
    /// Program.
    pub entrypoint: Vec<String>,
    /// Directory.
    pub working_dir: String,
    /// User.
    pub user: String,
    /// Processors.
    pub cpu: f64,
    /// Memory in MiB.
    pub memory_mb: i64,
    /// Disk in MiB.
    pub disk_mb: i64,
    /// Processes.
    pub pids: i64,
    /// Stop timeout; `Err` is why it is no duration.
    pub stop_timeout: RawDuration,
    /// Pull policy.
    pub pull_policy: PullPolicy,
    /// What opens the image's registry.
    pub login: Option<Login>,
    /// Keeps: path, and whether it is read-only.
    pub keeps: Vec<(String, bool)>,
    /// Health check.
    pub health: Option<RawHealthCheck>,
    /// Restart policy.
    pub restart_policy: Option<restart::Policy>,
    /// Options of restarts.
    pub restart: RawRestart,
    /// Assets.
    pub assets: Vec<Given>,
    /// The older way to ask for all GPUs.
    pub gpu_enabled: bool,
    /// What it shall have of GPUs.
    pub gpus: Option<RawWish>,
    /// The image is not to be exchanged for one that the driver runs.
    pub cuda_off: bool,
}

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Wrong(Vec<FieldViolation>);

impl Wrong {
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        let (field, description) = (field.into(), description.into());
        self.0.push(FieldViolation { field, description });
    }

    pub(super) fn too_many(&mut self, field: &str, have: usize, most: usize) {
        if have > most {
            self.add(field, format!("{have} entries are too many; at most {most}"));
        }
    }

    pub(super) fn no_nul(&mut self, field: impl Into<String>, text: &str) {
        if text.contains('\0') {
            self.add(field, "contains a NUL byte; remove it");
        }
    }
}

pub(super) fn resolve(request: RunRequest, defaults: &Defaults) -> Result<RunSpec> {
    let mut wrong = Wrong::default();
    let image = match ImageRef::parse(&request.image) {
        Ok(image) => Some(image),
        Err(error) => {
            wrong.0.extend(error.violations().iter().cloned());
            None
        }
    };
    names(&request.names, &mut wrong);
    let ports = ports(&request.ports, defaults, &mut wrong);
    let resources = resources(&request, &mut wrong);
    let labels = pairs("labels", request.labels, MAX_LABELS, &mut wrong);
    for key in labels.keys().filter(|key| labels::reserved(key)) {
        wrong.add("labels", format!("the key \"{key}\" belongs to the service; use another"));
    }
    let envs = pairs("envs", request.envs, MAX_ENVS, &mut wrong);
    for key in envs.keys().filter(|key| key.contains('=')) {
        wrong.add("envs", format!("the key \"{key}\" contains \"=\"; put only the name there"));
    }
    let keeps = keeps(&request.keeps, &request.names, &mut wrong);
    let assets = assets(request.assets, defaults, &envs, &keeps, &mut wrong);
    let hash_length = request.hash.chars().count();
    if hash_length > 256 || request.hash.chars().any(char::is_control) {
        wrong.add("hash", "must be at most 256 characters, none of them a control character");
    }
    for (field, texts) in [("command", &request.command), ("entrypoint", &request.entrypoint)] {
        for (at, text) in texts.iter().enumerate() {
            wrong.no_nul(format!("{field}[{at}]"), text);
        }
    }
    if request.entrypoint.first().is_some_and(String::is_empty) {
        wrong.add("entrypoint[0]", "is empty; name a program or leave the entrypoint out");
    }
    wrong.no_nul("user", &request.user);
    wrong.no_nul("workingDir", &request.working_dir);
    if !request.working_dir.is_empty() && !request.working_dir.starts_with('/') {
        wrong.add(
            "workingDir",
            format!("\"{}\" is not absolute; begin it with \"/\"", request.working_dir),
        );
    }
    let stop_timeout = match request.stop_timeout {
        None => DEFAULT_STOP_TIMEOUT,
        Some(Ok(timeout)) if timeout <= MAX_STOP => timeout,
        Some(Ok(timeout)) => {
            wrong.add("stopTimeout", format!("{} s is too long; at most 3600", timeout.as_secs()));
            timeout
        }
        Some(Err(why)) => {
            wrong.add("stopTimeout", why);
            DEFAULT_STOP_TIMEOUT
        }
    };
    let health = supervision::health(request.health, &mut wrong);
    let restart_choice =
        supervision::restart(request.restart_policy, request.restart, &health, &mut wrong);

    let gpu_enabled = request.gpu_enabled && request.gpus.is_none();
    let gpus = match request.gpus {
        Some(raw) => Some(Wish::resolve(raw, &envs, &mut |field, why| wrong.add(field, why))),
        None if gpu_enabled => Wish::enabled(&envs),
        None => None,
    };

    let (Some(image), true) = (image, wrong.0.is_empty()) else {
        return Err(Error::fields(wrong.0));
    };
    Ok(RunSpec {
        names: request.names,
        image,
        ports,
        hash: Some(request.hash).filter(|hash| !hash.is_empty()),
        labels,
        envs,
        keeps,
        assets,
        command: request.command,
        entrypoint: request.entrypoint,
        working_dir: request.working_dir,
        user: request.user,
        resources,
        stop_timeout,
        pull_policy: request.pull_policy,
        login: request.login,
        gpu_enabled,
        gpus,
        health,
        restart: restart_choice,
    })
}

/// The engine's own rule for names, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
/// True for what a container can be called.
pub fn is_name(name: &str) -> bool {
    name.len() >= 2
        && name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn names(names: &[String], wrong: &mut Wrong) {
    wrong.too_many("names", names.len(), MAX_NAMES);
    let mut seen = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        if !is_name(name) {
            wrong.add(
                format!("names[{at}]"),
                format!(
                    "\"{name}\" is no container name; use 2 to 128 of [a-zA-Z0-9_.-], a letter or digit first"
                ),
            );
        } else if name.ends_with(SUCCESSOR) || name.ends_with(PREDECESSOR) {
            wrong.add(
                format!("names[{at}]"),
                format!(
                    "\"{name}\" ends with {SUCCESSOR} or {PREDECESSOR}, as only containers do that are being replaced; take another name"
                ),
            );
        } else if !seen.insert(name) {
            wrong.add(format!("names[{at}]"), format!("\"{name}\" is there twice; remove one"));
        }
    }
}

fn ports(raw: &[RawPort], defaults: &Defaults, wrong: &mut Wrong) -> Vec<PortSpec> {
    wrong.too_many("ports", raw.len(), MAX_PORTS);
    let mut ports: Vec<PortSpec> = Vec::new();
    for (at, port) in raw.iter().take(MAX_PORTS).enumerate() {
        let number = |value: i64, least: i64| u16::try_from(value).ok().filter(|_| value >= least);
        let Some(internal) = number(port.internal, 1) else {
            wrong.add(
                format!("ports[{at}].internal"),
                format!("{} is no port; use 1 to 65535", port.internal),
            );
            continue;
        };
        let Some(host) = number(port.host, 0) else {
            wrong.add(
                format!("ports[{at}].host"),
                format!("{} is no port; use 1 to 65535, or 0 to have one chosen", port.host),
            );
            continue;
        };
        let word = port.protocol.as_deref().unwrap_or("tcp");
        let Some(protocol) = Protocol::from_word(word) else {
            wrong.add(
                format!("ports[{at}].protocol"),
                format!("\"{word}\" is no protocol; use tcp, udp or sctp"),
            );
            continue;
        };
        let address = match port.host_address.as_deref().map(str::parse) {
            None => defaults.port_address,
            Some(Ok(address)) => address,
            Some(Err(_)) => {
                let text = port.host_address.as_deref().unwrap_or_default();
                wrong.add(
                    format!("ports[{at}].hostAddress"),
                    format!("\"{text}\" is no IP address; use one of this host, as 127.0.0.1"),
                );
                continue;
            }
        };
        let spec = PortSpec {
            internal,
            host,
            protocol,
            address,
            protocol_set: port.protocol.is_some(),
            address_set: port.host_address.is_some(),
        };
        for earlier in ports.iter().filter(|earlier| earlier.protocol == protocol) {
            let overlap = earlier.address == address
                || earlier.address.is_unspecified()
                || address.is_unspecified();
            if host != 0 && earlier.host == host && overlap {
                wrong.add(
                    format!("ports[{at}].host"),
                    format!("host port {host}/{word} is used twice; give each its own"),
                );
            } else if earlier.internal == internal && (host == 0 || earlier.host == 0) {
                wrong.add(
                    format!("ports[{at}].internal"),
                    format!("port {internal}/{word} is there twice; remove one"),
                );
            }
        }
        ports.push(spec);
    }
    ports
}

fn pairs(
    field: &str,
    raw: Vec<(String, String)>,
    most: usize,
    wrong: &mut Wrong,
) -> BTreeMap<String, String> {
    wrong.too_many(field, raw.len(), most);
    let mut map = BTreeMap::new();
    for (at, (key, value)) in raw.into_iter().enumerate() {
        wrong.no_nul(format!("{field}[{at}].key"), &key);
        wrong.no_nul(format!("{field}[{at}].value"), &value);
        if key.is_empty() {
            wrong.add(format!("{field}[{at}].key"), "is empty; give it a name");
            continue;
        }
        if map.insert(key.clone(), value).is_some() {
            wrong
                .add(format!("{field}[{at}].key"), format!("\"{key}\" is there twice; remove one"));
        }
    }
    map
}

fn keeps(raw: &[(String, bool)], names: &[String], wrong: &mut Wrong) -> Vec<Keep> {
    wrong.too_many("keeps", raw.len(), keep::MOST);
    if !raw.is_empty() && names.is_empty() {
        wrong
            .add("names", "is empty; data are kept for a name, so give a container with keeps one");
    }
    let mut keeps: Vec<Keep> = Vec::new();
    for (at, (given, read_only)) in raw.iter().take(keep::MOST).enumerate() {
        match keep::path(given) {
            Ok(path) if keeps.iter().any(|keep| keep.path == path) => {
                let why = format!("\"{path}\" is there twice; remove one");
                wrong.add(format!("keeps[{at}].path"), why);
            }
            Ok(path) => keeps.push(Keep { path, read_only: *read_only }),
            Err(why) => wrong.add(format!("keeps[{at}].path"), why),
        }
    }
    keeps.sort();
    keeps
}

fn assets(
    raw: Vec<Given>,
    defaults: &Defaults,
    envs: &BTreeMap<String, String>,
    keeps: &[Keep],
    wrong: &mut Wrong,
) -> Vec<Asset> {
    wrong.too_many("assets", raw.len(), asset::MOST);
    let mut assets: Vec<Asset> = Vec::new();
    for (at, given) in raw.into_iter().take(asset::MOST).enumerate() {
        let asset = match Asset::resolve(given, at, &defaults.asset_policy) {
            Ok(asset) => asset,
            Err(parts) => {
                for (part, why) in parts {
                    wrong.add(format!("assets[{at}].{part}"), why);
                }
                continue;
            }
        };
        let key = &asset.given.env_var_key;
        if envs.contains_key(key) || assets.iter().any(|other| other.given.env_var_key == *key) {
            let field = format!("assets[{at}].envVarKey");
            wrong.add(field, format!("\"{key}\" is there twice, here or in envs; remove one"));
        }
        // A file cannot have another below it.
        let meets = |path: &str| {
            Path::new(path).starts_with(&asset.path) || Path::new(&asset.path).starts_with(path)
        };
        let kept = keeps.iter().any(|keep| Path::new(&keep.path).starts_with(&asset.path));
        if kept || assets.iter().any(|other| meets(&other.path)) {
            let path = &asset.path;
            let why = format!("\"{path}\" meets the path of another asset or keep; use another");
            wrong.add(format!("assets[{at}].path"), why);
        }
        assets.push(asset);
    }
    assets.sort_by(|a, b| a.given.env_var_key.cmp(&b.given.env_var_key));
    assets
}

fn resources(request: &RunRequest, wrong: &mut Wrong) -> Resources {
    let cpu = request.cpu;
    if !(cpu == 0.0 || (0.001..=4096.0).contains(&cpu)) {
        wrong.add("resources.cpu", format!("{cpu} is out of range; use 0.001 to 4096, or 0"));
    }
    let memory = request.memory_mb;
    if memory != 0 && memory < MIN_MEMORY_MB {
        wrong.add(
            "resources.memoryMB",
            format!(
                "{memory} MiB is too little; the engine's least is {MIN_MEMORY_MB}, 0 is no limit"
            ),
        );
    }
    if request.pids < 0 {
        wrong.add("resources.pids", format!("{} is negative; 0 is no limit", request.pids));
    }
    if request.disk_mb != 0 {
        wrong.add("resources.diskMB", "the engine cannot limit disk here; leave it at 0");
    }
    Resources {
        cpu,
        memory_mb: u32::try_from(memory).unwrap_or(0),
        pids: u32::try_from(request.pids).unwrap_or(0),
    }
}
