//! Reads the text of one setting; an error says what is wrong and what would do.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{self, Path, PathBuf},
    time::Duration,
};

use http::{Uri, uri::Authority};
use tracing_subscriber::EnvFilter;

use super::{GitProtocol, HostRule, Listen, LogFormat, OnOverrun, Policy, Range, SourceChoice};

type Parsed<T> = Result<T, String>;

/// A length of time: a number and `ms`, `s`, `m`, `h` or `d`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is not a length of time; write one as 500ms, 10s, 5m, 2h or 1d".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3_600),
        "d" => number.checked_mul(86_400),
        _ => return Err(wrong()),
    };
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

pub(super) fn duration_in(text: &str, least: Duration) -> Parsed<Duration> {
    const MOST: Duration = Duration::from_secs(3_600);
    let duration = duration(text)?;
    if duration < least || duration > MOST {
        return Err(format!("is out of range; choose from {}s to 1h", least.as_secs()));
    }
    Ok(duration)
}

/// From one second to `most`, which is `shown` to people.
pub(super) fn duration_up_to(text: &str, most: Duration, shown: &str) -> Parsed<Duration> {
    let duration = duration(text)?;
    if duration < Duration::from_secs(1) || duration > most {
        return Err(format!("is out of range; choose from 1s to {shown}"));
    }
    Ok(duration)
}

/// Hosts of which something is allowed.
pub(super) fn host(text: &str) -> Parsed<HostRule> {
    HostRule::parse(text).ok_or_else(|| {
        "is no host; write files.example.com, files.example.com:8080, *.example.com or *".to_owned()
    })
}

/// Addresses that something is allowed.
pub(super) fn range(text: &str) -> Parsed<Range> {
    let wrong = || "is no range of addresses; write 10.1.2.3, 10.0.0.0/8 or fd00::/8".to_owned();
    Range::parse(text).ok_or_else(wrong)
}

pub(super) fn listen(text: &str) -> Parsed<Listen> {
    if let Some(socket) = text.strip_prefix("unix://") {
        return absolute(socket).map(Listen::Unix);
    }
    let address = text.strip_prefix("tcp://").unwrap_or(text);
    address.parse::<SocketAddr>().map(Listen::Tcp).map_err(|_| {
        "is not an address; write an IP address and port as 127.0.0.1:11337 or \
         tcp://[::1]:11337, or a socket as unix:///run/container-svc.sock"
            .to_owned()
    })
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    path::absolute(text).map_err(|why| format!("is not a path: {why}; write an absolute path"))
}

pub(super) fn engine(text: &str) -> Parsed<String> {
    const REMEDY: &str = "write unix:///var/run/docker.sock, or tcp://host:2375 or \
                          http://host:2375 for an engine elsewhere";
    match text.split_once("://") {
        Some(("unix", socket)) => absolute(socket).map(|_| text.to_owned()),
        Some(("tcp" | "http", host)) => {
            let authority = host.strip_suffix('/').unwrap_or(host).parse::<Authority>();
            match authority {
                Ok(host) if plain(&host) && host.port_u16().is_some() => Ok(text.to_owned()),
                _ => Err(format!("has no host and port; {REMEDY}")),
            }
        }
        Some((scheme, _)) => Err(format!("has the unknown scheme {scheme:?}; {REMEDY}")),
        None => Err(format!("has no scheme; {REMEDY}")),
    }
}

pub(super) fn node_id(text: &str) -> Parsed<String> {
    if (1..=128).contains(&text.len()) && text.bytes().all(is_name_byte) {
        return Ok(text.to_owned());
    }
    Err("is not a node id; set --node-id to 1 to 128 of [a-zA-Z0-9_.-]".to_owned())
}

pub(super) fn url(text: &str) -> Parsed<String> {
    let remedy = "write it as https://host:port, without user and password";
    let uri: Uri = text.parse().map_err(|_| format!("is not a URL; {remedy}"))?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    match uri.authority() {
        Some(host) if http && plain(host) => Ok(text.to_owned()),
        _ => Err(format!("is not an http or https URL; {remedy}")),
    }
}

pub(super) fn network(text: &str) -> Parsed<String> {
    if matches!(text, "host" | "none") {
        return Err("publishes no ports; name a bridge network, as container-svc".to_owned());
    }
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && text.len() <= 128 && text.bytes().all(is_name_byte) {
        return Ok(text.to_owned());
    }
    Err("is not a network name; begin with a letter or digit and use up to 128 of \
         [a-zA-Z0-9_.-]"
        .to_owned())
}

pub(super) fn port_range(text: &str) -> Parsed<(u16, u16)> {
    let remedy = "write the first and last port as 20000-29999, from 1024 to 65535";
    let wrong = || format!("is not a range of ports; {remedy}");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    let (first, last) = (port(first)?, port(last)?);
    if first < 1024 {
        return Err(format!("reaches into the ports below 1024; {remedy}"));
    }
    if first > last {
        return Err(format!("ends before it begins; {remedy}"));
    }
    Ok((first, last))
}

pub(super) fn ip(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| "is not an IP address; write one as 0.0.0.0 or ::1".to_owned())
}

pub(super) fn registry(text: &str) -> Parsed<String> {
    match text.parse::<Authority>() {
        Ok(host) if plain(&host) => Ok(text.to_owned()),
        _ => Err("is not a registry; write host or host:port, as localhost:5000".to_owned()),
    }
}

pub(super) fn origin(text: &str) -> Parsed<String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    match text.split_once("://") {
        // Browsers send an origin without a path, so a longer one would never match.
        Some(("http" | "https", host)) if host.parse().is_ok_and(|host| plain(&host)) => {
            Ok(text.to_owned())
        }
        _ => Err("is not an origin; write https://host[:port] without a path, or *".to_owned()),
    }
}

pub(super) fn body_bytes(text: &str) -> Parsed<usize> {
    let bytes = size(text, 1 << 10..=256 << 20)?;
    usize::try_from(bytes).map_err(|_| "is out of range".to_owned())
}

/// A number of bytes, with or without a unit.
pub fn size(text: &str, range: RangeInclusive<u64>) -> Parsed<u64> {
    const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("", 0)];
    let show = |bytes: u64| {
        let unit = UNITS.iter().find(|(_, bits)| bytes.trailing_zeros() >= *bits);
        unit.map_or(bytes.to_string(), |(unit, bits)| format!("{}{unit}", bytes >> bits))
    };
    let (least, most) = (show(*range.start()), show(*range.end()));
    let remedy = format!("write bytes as 4194304, or 512KiB, or 4MiB, from {least} to {most}");
    let unit = UNITS.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = unit.unwrap_or((text, &0));
    let number: u64 = number.parse().map_err(|_| format!("is not a size; {remedy}"))?;
    match number.checked_mul(1 << bits) {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => Err(format!("is out of range; {remedy}")),
    }
}

pub(super) fn log_source(text: &str) -> Parsed<SourceChoice> {
    match text {
        "auto" => Ok(SourceChoice::Auto),
        "files" => Ok(SourceChoice::Files),
        "engine" => Ok(SourceChoice::Engine),
        _ => Err("is not a source of logs; write auto, files or engine".to_owned()),
    }
}

pub(super) fn log_age(text: &str) -> Parsed<Duration> {
    let age = duration(text)?;
    if age < Duration::from_secs(60) || age > super::DAY * 3650 {
        return Err("is out of range; choose from 1m to 3650d".to_owned());
    }
    Ok(age)
}

pub(super) fn log_files(text: &str) -> Parsed<u32> {
    let count = text.parse().ok().filter(|count| (1..=100).contains(count));
    count.ok_or_else(|| "is not a number of files; choose from 1 to 100".to_owned())
}

pub(super) fn event_count(text: &str) -> Parsed<u64> {
    let count = text.parse().ok().filter(|count| (100..=1_000_000).contains(count));
    count.ok_or_else(|| "is not a number of events; choose from 100 to 1000000".to_owned())
}

/// The loader takes a name without a slash from where the system keeps libraries. A
/// relative path would depend on where the service was started.
pub(super) fn library(text: &str) -> Parsed<String> {
    if !text.is_empty() && (Path::new(text).is_absolute() || !text.contains('/')) {
        return Ok(text.to_owned());
    }
    Err("is not a library; write a name as libnvidia-ml.so.1, or an absolute path".to_owned())
}

/// Often enough that a lost GPU is noticed within 30 s.
pub(super) fn gpu_interval(text: &str) -> Parsed<Duration> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(250) || interval > Duration::from_secs(7) {
        return Err("is out of range; choose from 250ms to 7s".to_owned());
    }
    Ok(interval)
}

pub(super) fn overrun(text: &str) -> Parsed<OnOverrun> {
    OnOverrun::from_word(text)
        .ok_or_else(|| "is no action on an overrun; write report, restart or stop".to_owned())
}

pub(super) fn git_protocol(text: &str) -> Parsed<GitProtocol> {
    let found = GitProtocol::ALL.into_iter().find(|protocol| protocol.word() == text);
    found.ok_or_else(|| "is no way to ask a repository; write https, ssh or git".to_owned())
}

pub(super) fn restart_policy(text: &str) -> Parsed<Policy> {
    match text {
        "never" => Ok(Policy::Never),
        "on-failure" => Ok(Policy::OnFailure),
        "always" => Ok(Policy::Always),
        _ => Err("is not a restart policy; write never, on-failure or always".to_owned()),
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("is not a yes or no; write true or false".to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Parsed<String> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|why| {
        format!("is not a log filter: {why}; write a level, as info, or container_svc=debug,warn")
    })
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is not a log format; write text or json".to_owned()),
    }
}

fn absolute(socket: &str) -> Parsed<PathBuf> {
    if Path::new(socket).is_absolute() && socket.len() > 1 {
        return Ok(socket.into());
    }
    Err("has no absolute path; write the socket as unix:///run/name.sock".to_owned())
}

/// A host without `user:password@`, which would end in logs.
fn plain(authority: &Authority) -> bool {
    !authority.as_str().contains('@') && !authority.host().is_empty()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}
