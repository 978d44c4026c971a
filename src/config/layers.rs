//! Finds the text of a setting: in the flags, the environment, the file.

use std::{collections::BTreeMap, fs};

use toml::Value;

use super::{ConfigError, ServeArgs};

/// Every key of the file. A flag is the key with `-` for `_`, an environment
/// variable is the key in capitals after `CONTAINER_SVC_`.
const KEYS: &[&str] = &[
    "listen",
    "data_dir",
    "host_data_dir",
    "token_file",
    "engine",
    "node_id",
    "server_url",
    "self_url",
    "network",
    "port_range",
    "port_address",
    "docker_config",
    "build_roots",
    "git_protocols",
    "git_ca_file",
    "build_source_max_bytes",
    "build_source_max_time",
    "build_upload_max_age",
    "insecure_registries",
    "pull_stall_timeout",
    "cors_origins",
    "max_body_bytes",
    "public_meta",
    "anonymous",
    "log",
    "log_format",
    "logs_source",
    "logs_max_age",
    "logs_max_bytes_each",
    "logs_max_bytes",
    "container_log_bytes",
    "container_log_files",
    "events_max_age",
    "events_max_count",
    "nvml_library",
    "gpu_interval",
    "gpu_check",
    "gpu_overrun",
    "gpu_drain_time",
    "gpu_mps_directory",
    "asset_allow_http",
    "asset_allow_addresses",
    "asset_file_roots",
    "asset_file_svc",
    "asset_max_bytes",
    "asset_max_time",
    "asset_min_rate",
    "asset_stall_timeout",
    "asset_min_free_bytes",
    "asset_max_age",
    "asset_max_total_bytes",
    "restart_policy",
    "drain_timeout",
    "engine_timeout",
];

/// Settings that have a second, older variable; ours wins.
const ALIASES: &[(&str, &str)] = &[
    ("engine", "DOCKER_HOST"),
    ("node_id", "OB_NODE_ID"),
    ("server_url", "OB_SERVER_URL"),
    ("self_url", "OB_SELF_URL"),
];

/// What one layer says about a setting.
#[derive(Debug, Clone)]
struct Given {
    values: Vec<String>,
    origin: String,
}

/// Every setting that somebody gave, already decided between the layers.
pub(super) struct Layers(BTreeMap<&'static str, Given>);

impl Layers {
    pub(super) fn read(
        args: &ServeArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        // A variable that is set to nothing counts as not set.
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut file = match (&args.config, env("CONTAINER_SVC_CONFIG")) {
            (Some(path), _) => read_file("--config", &path.to_string_lossy())?,
            (None, Some(path)) => read_file("CONTAINER_SVC_CONFIG", &path)?,
            (None, None) => BTreeMap::new(),
        };
        let mut flags = args.values();
        let mut found = BTreeMap::new();
        for key in KEYS {
            let given = match flags.remove(key).filter(|values| !values.is_empty()) {
                Some(values) => {
                    Some(Given { values, origin: format!("--{}", key.replace('_', "-")) })
                }
                None => from_env(key, &env).or_else(|| file.remove(*key)),
            };
            if let Some(given) = given {
                found.insert(*key, given);
            }
        }
        Ok(Self(found))
    }

    /// The one value of a setting, if it was given.
    pub(super) fn one<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(given) = self.0.get(key) else {
            return Ok(None);
        };
        let [value] = given.values.as_slice() else {
            let shown = given.values.join(", ");
            let problem = "takes one value, not a list; write it without brackets";
            return Err(ConfigError::new(key, &given.origin, shown, problem));
        };
        parse(value).map(Some).map_err(|why| ConfigError::new(key, &given.origin, value, why))
    }

    /// The value of a setting, or its default.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.one(key, parse)?.unwrap_or(default))
    }

    /// All values of a setting; commas separate in flags and variables.
    pub(super) fn many<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(given) = self.0.get(key) else {
            return Ok(None);
        };
        let values = given.values.iter().flat_map(|value| value.split(',')).map(str::trim);
        values
            .map(|value| {
                parse(value).map_err(|why| ConfigError::new(key, &given.origin, value, why))
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

fn from_env(key: &str, env: &impl Fn(&str) -> Option<String>) -> Option<Given> {
    let own = format!("CONTAINER_SVC_{}", key.to_uppercase());
    let alias = ALIASES.iter().find(|(of, _)| *of == key).map(|(_, name)| (*name).to_owned());
    [Some(own), alias].into_iter().flatten().find_map(|name| {
        env(&name).map(|value| Given { values: vec![value], origin: name.clone() })
    })
}

fn read_file(setting: &str, path: &str) -> Result<BTreeMap<String, Given>, ConfigError> {
    let wrong = |problem: String| ConfigError::new("config", setting, path, problem);
    let text = fs::read_to_string(path)
        .map_err(|why| wrong(format!("cannot be read: {why}; name a readable TOML file")))?;
    let table: toml::Table = text.parse().map_err(|why: toml::de::Error| {
        wrong(format!("is not TOML; correct this place: {}", why.to_string().trim_end()))
    })?;
    table
        .into_iter()
        .map(|(key, value)| {
            if !KEYS.contains(&key.as_str()) {
                let problem = format!("is not a setting; the settings are {}", KEYS.join(", "));
                return Err(ConfigError::new(&key, path, value, problem));
            }
            let shown = value.to_string();
            let values = texts(value).ok_or_else(|| {
                let problem = "is of no use here; write text, a number, true or false, \
                               or a list of texts";
                ConfigError::new(&key, path, shown, problem)
            })?;
            Ok((key, Given { values, origin: path.to_owned() }))
        })
        .collect()
}

fn texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Boolean(flag) => Some(vec![flag.to_string()]),
        Value::Array(items) => {
            items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}
