//! Reads the values of flags: ports, sizes, pairs.

use std::{env, net::IpAddr};

use jiff::Timestamp;

use crate::rpc::pb;

/// `[[address:]host:]container[/protocol]`; no host port, or 0, lets the service
/// choose one.
pub(super) fn publish(text: &str) -> Result<pb::PortMapping, String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol @ ("tcp" | "udp" | "sctp"))) => (ports, Some(protocol.to_owned())),
        Some((_, protocol)) => {
            return Err(format!("unknown protocol {protocol:?}; use tcp, udp or sctp"));
        }
        None => (text, None),
    };
    let (rest, internal) = match ports.rsplit_once(':') {
        Some((rest, internal)) => (Some(rest), internal),
        None => (None, ports),
    };
    let (address, host) = match rest.map(|rest| rest.rsplit_once(':').unwrap_or(("", rest))) {
        Some(("", host)) => (None, host),
        Some((address, host)) => (Some(ip(address)?), host),
        None => (None, ""),
    };
    let host = if host.is_empty() { 0 } else { port(host)? };
    match port(internal)? {
        0 => Err("the container's port is from 1 to 65535".to_owned()),
        internal => Ok(pb::PortMapping { internal, host, protocol, host_address: address }),
    }
}

fn ip(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare.unwrap_or(text).parse::<IpAddr>() {
        // Without brackets the colons of an IPv6 address and of the ports mix.
        Ok(ip) if ip.is_ipv4() == bare.is_none() => Ok(ip.to_string()),
        _ => Err(format!("{text:?} is no IP address; write IPv6 in brackets, as [::1]:80:80")),
    }
}

fn port(text: &str) -> Result<i32, String> {
    text.parse::<u16>().map(i32::from).map_err(|_| match text.contains('-') {
        true => format!("{text:?} is a range; publish each port on its own"),
        false => format!("{text:?} is no port; use a number up to 65535"),
    })
}

/// A port in a container.
pub(super) fn container_port(text: &str) -> Result<i32, String> {
    match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port.into()),
        _ => Err(format!("{text:?} is no port; use 1 to 65535")),
    }
}

/// `port` or `port/path`.
pub(super) fn http_probe(text: &str) -> Result<pb::HttpProbe, String> {
    let (port, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
    Ok(pb::HttpProbe { port: container_port(port)?, path: path.to_owned() })
}

/// `port` or `port/service`.
pub(super) fn grpc_probe(text: &str) -> Result<pb::GrpcProbe, String> {
    let (port, service) = text.split_once('/').unwrap_or((text, ""));
    Ok(pb::GrpcProbe { port: container_port(port)?, service: service.to_owned() })
}

/// Memory in MiB: a bare number is MiB; `m`, `g` and `t`, with or without `b` or `ib`.
pub(super) fn memory(text: &str) -> Result<i32, String> {
    let wrong = || "not a size; write MiB as 512, or 512m, 2g".to_owned();
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let number: i32 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1 << 10,
        "t" | "tb" | "tib" => 1 << 20,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// `id=KEY,src=FILE` or `id=KEY,env=VARIABLE`; the file or variable is read here.
pub(super) fn secret(text: &str) -> Result<pb::BuildSecret, String> {
    const FORM: &str = "write id=KEY,src=FILE or id=KEY,env=VARIABLE";
    let (id, from) = text.split_once(',').ok_or(FORM)?;
    let id = id.strip_prefix("id=").filter(|id| !id.is_empty()).ok_or(FORM)?;
    let value = match from.split_once('=') {
        Some(("src", file)) => {
            std::fs::read(file).map_err(|why| format!("{file} cannot be read: {why}"))?
        }
        Some(("env", name)) => {
            env::var(name).map_err(|_| format!("{name} has no value here"))?.into_bytes()
        }
        _ => return Err(FORM.to_owned()),
    };
    Ok(pb::BuildSecret { id: id.to_owned(), value })
}

/// Bytes, as the service's own settings take them.
pub(super) fn bytes(text: &str) -> Result<i64, String> {
    let bytes = crate::config::size(text, 0..=1 << 60)?;
    i64::try_from(bytes).map_err(|_| "is out of range".to_owned())
}

/// Processors, as in 0.5.
pub(super) fn cpus(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus >= 0.0 => Ok(cpus),
        _ => Err("not a number of processors; write one as 0.5".to_owned()),
    }
}

/// A count that is not negative.
pub(super) fn count(text: &str) -> Result<i32, String> {
    match text.parse::<i32>() {
        Ok(count) if count >= 0 => Ok(count),
        _ => Err(format!("not a count; use a number from 0 to {}", i32::MAX)),
    }
}

/// `KEY=VALUE`, or `KEY` with the value that it has in our own environment.
pub(super) fn env_var(text: &str) -> Result<pb::EnvVar, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => {
            let value = env::var(text).map_err(|_| {
                format!("{text:?} has no value here; write {text}=VALUE, or export it")
            })?;
            (text, value)
        }
    };
    match key {
        "" => Err("has no name; write KEY=VALUE".to_owned()),
        key => Ok(pb::EnvVar { key: key.to_owned(), value }),
    }
}

/// `KEY=URL`, and options after commas at its end.
pub(super) fn asset(text: &str) -> Result<pb::Asset, String> {
    let wrong = || "write KEY=URL, as MODEL=https://host/model.gguf".to_owned();
    let (key, mut url) = text.split_once('=').ok_or_else(wrong)?;
    let mut asset = pb::Asset { env_var_key: key.to_owned(), ..Default::default() };
    // A URL may have commas too: only what is an option ends it.
    while let Some((rest, option)) = url.rsplit_once(',') {
        match option.split_once('=').unwrap_or((option, "")) {
            ("sha256", value) => asset.sha256 = Some(value.to_owned()),
            ("path", value) => asset.path = Some(value.to_owned()),
            ("mode", value) => asset.mode = Some(value.to_owned()),
            ("refresh", "") => asset.refresh = Some(true),
            _ => break,
        }
        url = rest;
    }
    asset.url = url.to_owned();
    match key.is_empty() || url.is_empty() {
        true => Err(wrong()),
        false => Ok(asset),
    }
}

/// `PATH`, or `PATH:ro`.
pub(super) fn keep(text: &str) -> Result<pb::Keep, String> {
    let (path, read_only) = match text.strip_suffix(":ro") {
        Some(path) => (path, Some(true)),
        None => (text, None),
    };
    match path.starts_with('/') {
        true => Ok(pb::Keep { path: path.to_owned(), read_only }),
        false => Err("write an absolute path in the container, as /data or /data:ro".to_owned()),
    }
}

/// `key=value`, or `key` with an empty value.
pub(super) fn label(text: &str) -> Result<pb::Label, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("has no key; write key=value".to_owned()),
        (key, value) => Ok(pb::Label { key: key.to_owned(), value: value.to_owned() }),
    }
}

/// A length of time, as the service's own settings take it.
pub(super) fn duration(text: &str) -> Result<prost_types::Duration, String> {
    let duration = crate::config::duration(text)?;
    duration.try_into().map_err(|_| "is too long".to_owned())
}

/// A time, as RFC 3339 writes it, or how long ago it was.
pub(super) fn time(text: &str) -> Result<prost_types::Timestamp, String> {
    time_before(text, Timestamp::now())
}

fn time_before(text: &str, now: Timestamp) -> Result<prost_types::Timestamp, String> {
    let at = match text.parse::<Timestamp>() {
        Ok(at) => Some(at),
        Err(_) => match text.ends_with(|c: char| c.is_ascii_lowercase()) {
            true => crate::config::duration(text).ok().and_then(|ago| now.checked_sub(ago).ok()),
            false => None,
        },
    };
    let at = at.ok_or("is no time; write 2026-01-31T12:00:00Z, or 10m for ten minutes ago")?;
    // The fraction counts forward, before 1970 too.
    let (seconds, nanos) = match (at.as_second(), at.subsec_nanosecond()) {
        (seconds, nanos @ ..0) => (seconds - 1, nanos + 1_000_000_000),
        whole => whole,
    };
    Ok(prost_types::Timestamp { seconds, nanos })
}

/// How many lines to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// All that there are.
    All,
    /// So many of the last.
    Last(i32),
}

impl Tail {
    /// The number, where there is one.
    pub(super) fn lines(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Last(lines) => usize::try_from(lines).ok(),
        }
    }
}

/// `all`, or a number of lines as the service takes it.
pub(super) fn tail(text: &str) -> Result<Tail, String> {
    match text.parse::<i32>() {
        _ if text == "all" => Ok(Tail::All),
        Ok(lines @ 0..=10_000) => Ok(Tail::Last(lines)),
        Ok(10_001..) => Err("at most 10000; for more, use --since, or all".to_owned()),
        _ => Err("not a number of lines; use 0 to 10000, or all".to_owned()),
    }
}

/// Which GPUs a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gpus {
    /// All that can be used.
    All,
    /// So many.
    Count(i32),
    /// Just these.
    Ids(Vec<String>),
}

/// `all`, a number of GPUs, or a list of indices and UUIDs; a comma makes a list of one.
pub(super) fn gpus(text: &str) -> Result<Gpus, String> {
    let ids = || text.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
    match text.parse() {
        _ if text == "all" => Ok(Gpus::All),
        Ok(count) if count > 0 => Ok(Gpus::Count(count)),
        Err(_) if text.contains(',') || text.starts_with("GPU-") || text.starts_with("MIG-") => {
            Ok(Gpus::Ids(ids()))
        }
        _ => Err("write all, how many, or which, as 0,2 or GPU-UUID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_is_a_url_with_options_at_its_end() {
        let plain = asset("A=https://h/a,b?c=1,2").expect("an asset");
        assert_eq!((plain.env_var_key.as_str(), plain.url.as_str()), ("A", "https://h/a,b?c=1,2"));
        let all = asset("A=https://h/a,x,sha256=ab,path=/p,mode=0555,refresh").expect("an asset");
        assert_eq!((all.url.as_str(), all.sha256.as_deref()), ("https://h/a,x", Some("ab")));
        assert_eq!((all.path.as_deref(), all.mode.as_deref()), (Some("/p"), Some("0555")));
        assert_eq!(all.refresh, Some(true));
        for wrong in ["A", "=https://h/a", "A=", ""] {
            assert!(asset(wrong).is_err(), "{wrong}");
        }
    }

    fn mapping(
        internal: i32,
        host: i32,
        protocol: Option<&str>,
        address: Option<&str>,
    ) -> Result<pb::PortMapping, String> {
        Ok(pb::PortMapping {
            internal,
            host,
            protocol: protocol.map(str::to_owned),
            host_address: address.map(str::to_owned),
        })
    }

    #[test]
    fn ports_are_published_as_docker_writes_them() {
        assert_eq!(publish("80"), mapping(80, 0, None, None));
        assert_eq!(publish("8080:80"), mapping(80, 8080, None, None));
        assert_eq!(publish("53:53/udp"), mapping(53, 53, Some("udp"), None));
        assert_eq!(publish("127.0.0.1:8080:80"), mapping(80, 8080, None, Some("127.0.0.1")));
        assert_eq!(publish("127.0.0.1::80"), mapping(80, 0, None, Some("127.0.0.1")));
        assert_eq!(publish("[::1]:1:80/tcp"), mapping(80, 1, Some("tcp"), Some("::1")));
        let bad = [
            "",
            "x",
            "0",
            "65536",
            "80/icmp",
            "1-2:1-2",
            "host:1:2",
            "::1:1:2",
            "1.2.3.4:80",
            "-1",
        ];
        for text in bad {
            assert!(publish(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_is_mib_unless_a_unit_says_otherwise() {
        assert_eq!(memory("512"), Ok(512));
        assert_eq!(memory("512m"), Ok(512));
        assert_eq!(memory("2G"), Ok(2048));
        assert_eq!(memory("1TiB"), Ok(1 << 20));
        for text in ["", "m", "1.5g", "512k", "-1", "3000t"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_rfc_3339_or_how_long_ago_it_was() {
        let now = Timestamp::from_second(10_000).unwrap();
        let at = |text: &str| time_before(text, now).map(|at| (at.seconds, at.nanos));
        assert_eq!(at("10m"), Ok((9_400, 0)));
        assert_eq!(at("1500ms"), Ok((9_998, 500_000_000)));
        assert_eq!(at("1d"), Ok((10_000 - 86_400, 0)));
        assert_eq!(at("1970-01-01T01:00:00.5+01:00"), Ok((0, 500_000_000)));
        assert_eq!(at("1969-12-31T23:59:59.25Z"), Ok((-1, 250_000_000)));
        for text in ["", "now", "10", "-10m", "10x", "m", "2026-01-31", "99999999999999d"] {
            assert!(at(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(tail("all"), Ok(Tail::All));
        assert_eq!(tail("0"), Ok(Tail::Last(0)));
        assert_eq!(tail("10000"), Ok(Tail::Last(10_000)));
        for text in ["", "-1", "10001", "99999999999", "some"] {
            assert!(tail(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_keep_everything_after_the_first_equals_sign() {
        assert_eq!(env_var("A=b=c"), Ok(pb::EnvVar { key: "A".into(), value: "b=c".into() }));
        assert_eq!(env_var("A="), Ok(pb::EnvVar { key: "A".into(), value: String::new() }));
        assert!(env_var("=b").is_err() && env_var("NOBODY_EXPORTS_THIS").is_err());
        assert_eq!(label("a"), Ok(pb::Label { key: "a".into(), value: String::new() }));
        assert!(label("=b").is_err());
    }
}
