//! From a request as it came to a checked spec, with all that is wrong at once.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::domain::{
    asset::{Given, Policy},
    container::labels,
    error::{Error, FieldViolation, Result},
    gpu::{RawWish, Wish},
    image::ImageRef,
    keep, restart,
    source::Login,
    spec::{
        DEFAULT_STOP_TIMEOUT, PullPolicy, RunSpec, fields,
        supervision::{self, RawDuration, RawHealthCheck, RawRestart},
    },
};

const MAX_LABELS: usize = 256;
const MAX_ENVS: usize = 1024;
/// Longest argument, and variable with its name: MAX_ARG_STRLEN of Linux, less the NUL.
const LONGEST_TEXT: usize = (128 << 10) - 1;
const MAX_STOP: Duration = Duration::from_secs(3600);

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

    /// What a program is started with, beyond which the kernel does not start it.
    fn no_longer(&mut self, field: impl Into<String>, key: &str, length: usize) {
        if length > LONGEST_TEXT {
            let what = if key.is_empty() { String::new() } else { format!("\"{key}\" ") };
            let most = format!("the kernel takes {LONGEST_TEXT}; pass a file instead");
            self.add(field, format!("{what}has {length} bytes; {most}"));
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
    fields::names(&request.names, &mut wrong);
    let ports = fields::ports(&request.ports, defaults, &mut wrong);
    let resources = fields::resources(&request, &mut wrong);
    let labels = fields::pairs("labels", request.labels, MAX_LABELS, &mut wrong);
    for key in labels.keys().filter(|key| labels::reserved(key)) {
        wrong.add("labels", format!("the key \"{key}\" belongs to the service; use another"));
    }
    let envs = fields::pairs("envs", request.envs, MAX_ENVS, &mut wrong);
    for key in envs.keys().filter(|key| key.contains('=')) {
        wrong.add("envs", format!("the key \"{key}\" contains \"=\"; put only the name there"));
    }
    let keeps = fields::keeps(&request.keeps, &request.names, &mut wrong);
    let assets = fields::assets(request.assets, defaults, &envs, &keeps, &mut wrong);
    let hash_length = request.hash.chars().count();
    if hash_length > 256 || request.hash.chars().any(char::is_control) {
        wrong.add("hash", "must be at most 256 characters, none of them a control character");
    }
    for (field, texts) in [("command", &request.command), ("entrypoint", &request.entrypoint)] {
        for (at, text) in texts.iter().enumerate() {
            wrong.no_nul(format!("{field}[{at}]"), text);
            wrong.no_longer(format!("{field}[{at}]"), "", text.len());
        }
    }
    for (key, value) in &envs {
        wrong.no_longer("envs", key, key.len() + 1 + value.len());
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
    if let Err(why) = keep::length(&request.working_dir) {
        wrong.add("workingDir", why);
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
