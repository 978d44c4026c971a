//! What shall run: the request checked and resolved, its identity and its hash.
//!
//! The hash is sha256 over a versioned encoding in which sets are sorted and a
//! field at its default is left out, so that a field added later leaves the
//! hash of every older request as it was. Chosen ports, credentials and the
//! pull policy are not part of it: they do not change what runs.

use std::{collections::BTreeMap, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{
    asset::Asset, container::Resources, error::Result, gpu::Wish, health::HealthChoice,
    image::ImageRef, keep::Keep, ports::PortSpec, restart::RestartChoice, source::Login,
};

mod fields;
mod resolve;
mod supervision;

pub use fields::is_name;
pub use resolve::{Defaults, RawPort, RunRequest};
pub use supervision::{RawDuration, RawHealthCheck, RawProbe, RawRestart};

/// How long a stop waits where the request says nothing.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the node has none of that name.
    #[default]
    IfNotPresent,
    /// On every run.
    Always,
    /// Never.
    Never,
}

/// A checked request with every default made explicit.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    /// Engine name first, then aliases.
    pub names: Vec<String>,
    /// Image.
    pub image: ImageRef,
    /// Ports to publish.
    pub ports: Vec<PortSpec>,
    /// The caller's own hash.
    pub hash: Option<String>,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// Environment.
    pub envs: BTreeMap<String, String>,
    /// Paths whose data outlive the container, sorted.
    pub keeps: Vec<Keep>,
    /// Files that are fetched first, sorted by their variable.
    pub assets: Vec<Asset>,
    /// Arguments; empty is the image's.
    pub command: Vec<String>,
    /// Program; empty is the image's.
    pub entrypoint: Vec<String>,
    /// Directory; empty is the image's.
    pub working_dir: String,
    /// User; empty is the image's.
    pub user: String,
    /// Limits.
    pub resources: Resources,
    /// From the signal to the kill.
    pub stop_timeout: Duration,
    /// When the image is fetched; not part of the hash.
    pub pull_policy: PullPolicy,
    /// What opens the image's registry; not part of the hash.
    pub login: Option<Login>,
    /// GPUs were asked for by the older field alone, `capabilities.gpuEnabled`.
    pub gpu_enabled: bool,
    /// What it shall have of GPUs.
    pub gpus: Option<Wish>,
    /// How it is asked whether it is well.
    pub health: HealthChoice,
    /// Whether it comes back when it ends.
    pub restart: RestartChoice,
}

/// The canonical form: field name to the texts that make its value.
pub type Canonical = BTreeMap<String, Vec<String>>;

impl RunSpec {
    /// Checks a request and makes its defaults explicit.
    pub fn resolve(request: RunRequest, defaults: &Defaults) -> Result<Self> {
        resolve::resolve(request, defaults)
    }

    /// The canonical form, under the JSON names of the request's fields.
    pub fn canonical(&self) -> Canonical {
        let mut fields = Canonical::new();
        let mut set = |name: &str, value: Vec<String>| {
            if !value.is_empty() {
                fields.insert(name.to_owned(), value);
            }
        };
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect()
        };
        let text = |value: &str| match value {
            "" => Vec::new(),
            value => vec![value.to_owned()],
        };

        let mut names = self.names.clone();
        if let Some((_, aliases)) = names.split_first_mut() {
            aliases.sort();
        }
        let mut ports: Vec<String> = self.ports.iter().map(PortSpec::to_string).collect();
        ports.sort();

        set("image", vec![self.image.to_string()]);
        set("names", names);
        set("ports", ports);
        set("hash", text(self.hash.as_deref().unwrap_or_default()));
        set("labels", pairs(&self.labels));
        set("envs", pairs(&self.envs));
        let mode = |keep: &Keep| if keep.read_only { "ro" } else { "rw" };
        let keeps = self.keeps.iter().flat_map(|keep| [keep.path.clone(), mode(keep).to_owned()]);
        set("keeps", keeps.collect());
        set("assets", self.assets.iter().flat_map(Asset::canonical).collect());
        set("command", self.command.clone());
        set("entrypoint", self.entrypoint.clone());
        set("workingDir", text(&self.working_dir));
        set("user", text(&self.user));
        if self.resources != Resources::default() {
            let Resources { cpu, memory_mb, pids } = self.resources;
            set("resources", vec![format!("{cpu:.9}"), memory_mb.to_string(), pids.to_string()]);
        }
        if self.stop_timeout != DEFAULT_STOP_TIMEOUT {
            set("stopTimeout", vec![self.stop_timeout.as_nanos().to_string()]);
        }
        if self.gpu_enabled {
            set("capabilities", vec!["gpuEnabled".to_owned()]);
        } else if let Some(wish) = &self.gpus {
            set("gpus", wish.canonical());
        }
        set("healthCheck", supervision::health_texts(&self.health));
        set("restartPolicy", supervision::policy_texts(&self.restart));
        set("restart", supervision::restart_texts(&self.restart));
        fields
    }

    /// The hash: `v1:` and 64 hexadecimal digits.
    pub fn spec_hash(&self) -> String {
        hash_of(&self.canonical())
    }

    /// The identity that runs are serialised by: the first name, else the
    /// caller's hash, else the computed one.
    pub fn key(&self) -> String {
        let given = given_key(&self.names, self.hash.as_deref().unwrap_or_default());
        given.unwrap_or_else(|| format!("spec:{}", self.spec_hash()))
    }

    /// The engine's name: the first name, else one derived from the identity,
    /// so that the engine itself refuses a second container of one identity.
    pub fn engine_name(&self) -> String {
        match self.names.first() {
            Some(name) => name.clone(),
            None => derived_name(&self.key()),
        }
    }
}

/// The identity, as far as names and the caller's hash give it.
pub fn given_key(names: &[String], hash: &str) -> Option<String> {
    match (names.first(), hash) {
        (Some(name), _) => Some(format!("name:{name}")),
        (None, "") => None,
        (None, hash) => Some(format!("hash:{hash}")),
    }
}

/// The engine's name of an identity that has no name.
pub fn derived_name(key: &str) -> String {
    format!("container-svc-{}", &hex(&Sha256::digest(key))[..12])
}

/// Names of the fields in which two descriptions differ.
pub fn differing(old: &Canonical, new: &Canonical) -> Vec<String> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

/// Each field is its name and texts, each with its length before it: no text
/// can be mistaken for two.
fn hash_of(fields: &Canonical) -> String {
    let mut hasher = Sha256::new();
    let mut put = |text: &str| {
        hasher.update(text.len().to_string());
        hasher.update(":");
        hasher.update(text);
    };
    put("container-svc spec v1");
    for (name, texts) in fields {
        put(name);
        put(&texts.len().to_string());
        for text in texts {
            put(text);
        }
    }
    format!("v1:{}", hex(&hasher.finalize()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
