//! A container as the node sees it, and the labels by which we know our own.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    asset::Given,
    health::{Health, HealthCheck},
    ports::PublishedPort,
    restart::RestartChoice,
};

/// Labels that the service writes; callers may not set them.
pub mod labels {
    use std::collections::{BTreeMap, HashMap};

    use crate::domain::keep::labels as keep;

    /// Prefix of all labels of the service.
    pub const PREFIX: &str = "container-svc.";
    /// Node id of the service that made the container.
    pub const NODE: &str = "container-svc.node";
    /// The identity that a run is serialised by.
    pub const KEY: &str = "container-svc.key";
    /// Hash of the resolved request.
    pub const SPEC_HASH: &str = "container-svc.spec-hash";
    /// Aliases, separated by commas.
    pub const ALIASES: &str = "container-svc.aliases";
    /// Image as it was asked for.
    pub const IMAGE: &str = "container-svc.image";
    /// Assets as they were asked for, JSON.
    pub const ASSETS: &str = "container-svc.assets";
    /// GPUs that it was given, and how much of them.
    pub const GPUS: &str = "container-svc.gpus";
    /// What the request said about using more GPU memory than was booked.
    pub const GPU_OVERRUN: &str = "container-svc.gpu-overrun";
    /// Health check that the request gave, JSON.
    pub const HEALTH: &str = "container-svc.health";
    /// What the request said about restarts, JSON.
    pub const RESTART: &str = "container-svc.restart";
    /// On one that replaces another: whether that one ran, `true` or `false`.
    pub const PREDECESSOR_RAN: &str = "container-svc.predecessor-ran";
    /// The caller's hash, else ours; also written by 1Backend's own service.
    pub const HASH: &str = "1backend-hash";

    /// Every label that is read of a container.
    const READ: [&str; 17] = [
        NODE,
        KEY,
        SPEC_HASH,
        ALIASES,
        IMAGE,
        ASSETS,
        GPUS,
        GPU_OVERRUN,
        HEALTH,
        RESTART,
        PREDECESSOR_RAN,
        HASH,
        keep::HELPER,
        keep::OWNER,
        keep::PATH,
        keep::STAGED,
        keep::BYTES,
    ];

    /// True for a label that only the service may write.
    pub fn reserved(key: &str) -> bool {
        key.starts_with(PREFIX) || key == HASH
    }

    /// These labels for a new container, and an empty one, which counts as none, for
    /// each other that is read: an image hands its labels down to its containers, and
    /// what it says of keeps or GPUs must not be taken for ours.
    pub fn sealed(mut labels: HashMap<String, String>) -> HashMap<String, String> {
        for key in READ {
            labels.entry(key.to_owned()).or_default();
        }
        labels
    }

    /// Labels of a container as they are read.
    pub fn read(labels: HashMap<String, String>) -> BTreeMap<String, String> {
        labels.into_iter().filter(|(key, value)| !value.is_empty() || !reserved(key)).collect()
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended and about to start again.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// The engine failed to remove it.
    Dead,
}

/// What a name ends with while its container waits to take a predecessor's place.
pub const SUCCESSOR: &str = "__new";
/// What a name ends with while its container waits for its successor to run.
pub const PREDECESSOR: &str = "__old";

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// The engine's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// From the engine's word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Volume name or host path.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// Limits; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Resources {
    /// Processors.
    pub cpu: f64,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Processes and threads.
    pub pids: u32,
}

/// Place on the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Name of the network.
    pub mode: String,
    /// Address, empty while it does not run.
    pub ip_address: String,
    /// Hardware address, empty while it does not run.
    pub mac_address: String,
}

/// What is known of one container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Engine id.
    pub id: String,
    /// Engine name first, then aliases.
    pub names: Vec<String>,
    /// Image as asked for.
    pub image: String,
    /// Content id of the image.
    pub image_id: String,
    /// Published ports, with what they really are.
    pub ports: Vec<PublishedPort>,
    /// All labels, ours too.
    pub labels: BTreeMap<String, String>,
    /// Environment as `KEY`, `value`.
    pub envs: BTreeMap<String, String>,
    /// Mounts.
    pub volumes: Vec<Volume>,
    /// Life.
    pub state: State,
    /// Limits.
    pub resources: Resources,
    /// Network.
    pub network: Network,
    /// Made.
    pub created_at: Timestamp,
    /// Last start.
    pub started_at: Option<Timestamp>,
    /// Last end, while it does not run.
    pub finished_at: Option<Timestamp>,
    /// End of the last run that ended, also while it runs again.
    pub ended_at: Option<Timestamp>,
    /// Exit code of the last run, while it does not run.
    pub exit_code: Option<i32>,
    /// The last run ended for want of memory.
    pub oom_killed: bool,
    /// Its log has no stream headers.
    pub tty: bool,
    /// The engine's driver for its log; empty while it is not known.
    pub log_driver: String,
    /// File of the engine that holds its log; empty before the first start.
    pub log_path: String,
    /// How many files of its log the engine keeps; `None` when it throws nothing away
    /// or that is not known.
    pub log_files: Option<usize>,
    /// What the engine's own check of its health says, where there is one.
    pub engine_health: Option<Health>,
}

impl Container {
    fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }

    /// The engine's name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The name that it was run under: the engine's name, which is another one for a
    /// moment while a container of ours is replaced.
    pub fn plain_name(&self) -> &str {
        let name = self.name();
        if self.key().is_empty() {
            return name;
        }
        [SUCCESSOR, PREDECESSOR].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
    }

    /// True for one of ours that was to be replaced, or to replace, and has not the name
    /// that it was run under: another one may have that.
    pub fn is_left_over(&self) -> bool {
        self.plain_name() != self.name()
    }

    /// The caller's hash, else the computed one, else empty.
    pub fn hash(&self) -> &str {
        self.label(labels::HASH)
    }

    /// The computed hash; empty for a foreign container.
    pub fn spec_hash(&self) -> &str {
        self.label(labels::SPEC_HASH)
    }

    /// The identity that runs of it are serialised by; empty when foreign.
    pub fn key(&self) -> &str {
        self.label(labels::KEY)
    }

    /// Assets that it was given, as they were asked for.
    pub fn assets(&self) -> Vec<Given> {
        serde_json::from_str(self.label(labels::ASSETS)).unwrap_or_default()
    }

    /// The file of the host that is mounted at a path.
    pub fn mounted_at(&self, path: &str) -> Option<&str> {
        let volume = self.volumes.iter().find(|volume| volume.destination == path)?;
        Some(&volume.source)
    }

    /// The health check that the request gave.
    pub fn health_check(&self) -> Option<HealthCheck> {
        serde_json::from_str(self.label(labels::HEALTH)).ok()
    }

    /// What the request said about restarts.
    pub fn restart_choice(&self) -> RestartChoice {
        serde_json::from_str(self.label(labels::RESTART)).unwrap_or_default()
    }

    /// Whether the one ran that it was made to replace; `None` when it replaces none.
    pub fn predecessor_ran(&self) -> Option<bool> {
        self.label(labels::PREDECESSOR_RAN).parse().ok()
    }

    /// True when somebody gave it a name, and not the service.
    pub fn is_named(&self) -> bool {
        self.key().starts_with("name:")
    }

    /// True when the service of this node made it.
    pub fn managed_by(&self, node_id: &str) -> bool {
        self.label(labels::NODE) == node_id
    }

    /// True when it does not run and will not by itself: one that the engine restarts
    /// has not ended.
    pub fn has_ended(&self) -> bool {
        !self.is_running() && self.state != State::Restarting
    }

    /// True when it runs, paused or not.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }

    /// True when this is one of its hashes.
    pub fn has_hash(&self, hash: &str) -> bool {
        !hash.is_empty() && (self.hash() == hash || self.spec_hash() == hash)
    }

    /// True when it has the label, `key` or `key=value`.
    pub fn has_label(&self, filter: &str) -> bool {
        match filter.split_once('=') {
            Some((key, value)) => self.labels.get(key).is_some_and(|have| have == value),
            None => self.labels.contains_key(filter),
        }
    }
}

/// True when a value under this key is likely a secret and must not be shown.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_uppercase();
    ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "CREDENTIAL", "PRIVATE"]
        .iter()
        .any(|word| key.contains(word))
        || key == "KEY"
        || key.ends_with("_KEY")
        || key.ends_with("APIKEY")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container of which nothing but the name is known.
    pub(crate) fn named(name: &str) -> Container {
        Container {
            id: String::new(),
            names: vec![name.to_owned()],
            image: String::new(),
            image_id: String::new(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            envs: BTreeMap::new(),
            volumes: Vec::new(),
            state: State::Running,
            resources: Resources::default(),
            network: Network::default(),
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            exit_code: None,
            oom_killed: false,
            tty: false,
            log_driver: String::new(),
            log_path: String::new(),
            log_files: None,
            engine_health: None,
            ended_at: None,
        }
    }

    #[test]
    fn a_state_survives_its_word() {
        for word in ["created", "running", "paused", "restarting", "removing", "exited", "dead"] {
            assert_eq!(State::from_word(word).map(State::word), Some(word));
        }
        assert_eq!(State::from_word("asleep"), None);
    }

    #[test]
    fn secrets_are_known_by_their_keys() {
        for key in ["DB_PASSWORD", "api_key", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "KEY"] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in ["PATH", "KEYBOARD", "MONKEY", "HOME"] {
            assert!(!is_secret_key(key), "{key}");
        }
    }
}
