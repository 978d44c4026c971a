//! What each field of a run may hold.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use super::resolve::{Defaults, RawPort, RunRequest, Wrong};
use crate::domain::{
    asset::{self, Asset, Given},
    container::{PREDECESSOR, Resources, SUCCESSOR},
    keep::{self, Keep},
    ports::{PortSpec, Protocol},
};

const MAX_NAMES: usize = 16;
const MAX_PORTS: usize = 256;
/// The engine's own least, of Docker Engine 20.10 and later.
const MIN_MEMORY_MB: i64 = 6;

/// True for what a container can be called, by the engine's own rule,
/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_name(name: &str) -> bool {
    name.len() >= 2
        && name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

pub(super) fn names(names: &[String], wrong: &mut Wrong) {
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

pub(super) fn ports(raw: &[RawPort], defaults: &Defaults, wrong: &mut Wrong) -> Vec<PortSpec> {
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

pub(super) fn pairs(
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

pub(super) fn keeps(raw: &[(String, bool)], names: &[String], wrong: &mut Wrong) -> Vec<Keep> {
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

pub(super) fn assets(
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
        let below = |keep: &&Keep| keep.read_only && Path::new(&asset.path).starts_with(&keep.path);
        if let Some(keep) = keeps.iter().find(below).filter(|_| !kept) {
            let (path, keep) = (&asset.path, &keep.path);
            let why = format!(
                "\"{path}\" lies in the keep \"{keep}\", which is read-only, so the file cannot be \
                 put there; use a path outside"
            );
            wrong.add(format!("assets[{at}].path"), why);
        }
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

pub(super) fn resources(request: &RunRequest, wrong: &mut Wrong) -> Resources {
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
