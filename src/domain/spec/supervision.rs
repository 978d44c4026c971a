//! What a request says about health and restarts: checked, and as texts for the hash.

use std::time::Duration;

use super::resolve::Wrong;
use crate::domain::{
    health::{HealthCheck, HealthChoice, Probe, Timing},
    restart::{Options, Policy, RestartChoice},
};

/// A length of time as it came; `Err` is why it is none.
pub type RawDuration = Option<Result<Duration, String>>;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Most words of a command, and bytes of a path or service.
const MOST_WORDS: usize = 256;
const LONGEST_TEXT: usize = 2048;

/// A probe as it came.
#[derive(Debug, Clone)]
pub enum RawProbe {
    /// A command.
    Exec(Vec<String>),
    /// Port and path.
    Http(i64, String),
    /// Port.
    Tcp(i64),
    /// Port and service.
    Grpc(i64, String),
}

/// A health check as it came.
#[derive(Debug, Clone, Default)]
pub struct RawHealthCheck {
    /// What is asked.
    pub probe: Option<RawProbe>,
    /// Nothing is asked.
    pub disabled: bool,
    /// From one probe to the next.
    pub interval: RawDuration,
    /// How long a probe may take.
    pub timeout: RawDuration,
    /// Failures in a row.
    pub retries: Option<i64>,
    /// When failures do not count.
    pub start_period: RawDuration,
}

/// Options of restarts as they came.
#[derive(Debug, Clone, Default)]
pub struct RawRestart {
    /// Budget.
    pub max_restarts: Option<i64>,
    /// Its window.
    pub window: RawDuration,
    /// First wait.
    pub min_backoff: RawDuration,
    /// Longest wait.
    pub max_backoff: RawDuration,
    /// A long run.
    pub stable_after: RawDuration,
    /// Whether bad health is a failure.
    pub on_unhealthy: Option<bool>,
}

pub(super) fn health(raw: Option<RawHealthCheck>, wrong: &mut Wrong) -> HealthChoice {
    let Some(raw) = raw else { return HealthChoice::Image };
    let usual = Timing::default();
    let timing = Timing {
        interval: time(
            "healthCheck.interval",
            raw.interval,
            usual.interval,
            (MILLI * 100, HOUR),
            wrong,
        ),
        timeout: time(
            "healthCheck.timeout",
            raw.timeout,
            usual.timeout,
            (MILLI * 10, SECOND * 600),
            wrong,
        ),
        retries: count("healthCheck.retries", raw.retries, usual.retries, 100, wrong),
        start_period: time(
            "healthCheck.startPeriod",
            raw.start_period,
            usual.start_period,
            (Duration::ZERO, HOUR),
            wrong,
        ),
    };
    match (raw.probe, raw.disabled) {
        (None, true) => HealthChoice::Off,
        (Some(_), true) => {
            let why = "is set beside a probe; leave one of the two out";
            wrong.add("healthCheck.disabled", why);
            HealthChoice::Off
        }
        (None, false) => {
            let why = "has no probe; give exec, http, tcp or grpc, or set disabled";
            wrong.add("healthCheck", why);
            HealthChoice::Off
        }
        (Some(raw), false) => match probe(raw, wrong) {
            Some(probe) => HealthChoice::Check(HealthCheck { probe, timing }),
            None => HealthChoice::Off,
        },
    }
}

fn probe(raw: RawProbe, wrong: &mut Wrong) -> Option<Probe> {
    match raw {
        RawProbe::Exec(command) => {
            let field = "healthCheck.exec.command";
            if command.first().is_none_or(String::is_empty) {
                wrong.add(field, "names no program; give it and its arguments");
                return None;
            }
            wrong.too_many(field, command.len(), MOST_WORDS);
            for (at, word) in command.iter().enumerate() {
                wrong.no_nul(format!("{field}[{at}]"), word);
            }
            Some(Probe::Exec { command })
        }
        RawProbe::Http(given, path) => {
            let port = port("healthCheck.http.port", given, wrong)?;
            let path = if path.is_empty() { "/".to_owned() } else { path };
            // Anything else would end the line of the request, or begin another.
            let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !path.starts_with('/') || !plain || path.len() > LONGEST_TEXT {
                let why = format!(
                    "\"{}\" is no path; begin with \"/\", use at most {LONGEST_TEXT} plain \
                     characters, and write others as %20",
                    path.chars().take(64).collect::<String>().escape_debug()
                );
                wrong.add("healthCheck.http.path", why);
                return None;
            }
            Some(Probe::Http { port, path })
        }
        RawProbe::Tcp(given) => {
            Some(Probe::Tcp { port: port("healthCheck.tcp.port", given, wrong)? })
        }
        RawProbe::Grpc(given, service) => {
            let port = port("healthCheck.grpc.port", given, wrong)?;
            if service.len() > LONGEST_TEXT {
                let why = format!("is longer than {LONGEST_TEXT} bytes; shorten it");
                wrong.add("healthCheck.grpc.service", why);
                return None;
            }
            Some(Probe::Grpc { port, service })
        }
    }
}

pub(super) fn restart(
    policy: Option<Policy>,
    raw: RawRestart,
    health: &HealthChoice,
    wrong: &mut Wrong,
) -> RestartChoice {
    let usual = Options::default();
    let min_backoff =
        time("restart.minBackoff", raw.min_backoff, usual.min_backoff, (MILLI * 100, HOUR), wrong);
    let options = Options {
        max_restarts: count(
            "restart.maxRestarts",
            raw.max_restarts,
            usual.max_restarts,
            1000,
            wrong,
        ),
        window: time("restart.window", raw.window, usual.window, (SECOND, DAY * 7), wrong),
        min_backoff,
        // The usual longest is not shorter than a first wait that was asked for.
        max_backoff: time(
            "restart.maxBackoff",
            raw.max_backoff,
            usual.max_backoff.max(min_backoff),
            (min_backoff, DAY),
            wrong,
        ),
        stable_after: time(
            "restart.stableAfter",
            raw.stable_after,
            usual.stable_after,
            (SECOND, DAY),
            wrong,
        ),
        on_unhealthy: raw.on_unhealthy,
    };
    if raw.on_unhealthy == Some(true) && *health == HealthChoice::Off {
        let why = "asks for what nobody will know, as the health check is disabled; leave one out";
        wrong.add("restart.onUnhealthy", why);
    }
    RestartChoice { policy, options }
}

/// The texts of a health check for the hash; times at their default are left out.
pub(super) fn health_texts(choice: &HealthChoice) -> Vec<String> {
    let HealthCheck { probe, timing } = match choice {
        HealthChoice::Image => return Vec::new(),
        HealthChoice::Off => return vec!["disabled".to_owned()],
        HealthChoice::Check(check) => check,
    };
    let mut texts = match probe {
        Probe::Exec { command } => {
            let head = ["exec".to_owned(), command.len().to_string()];
            head.into_iter().chain(command.iter().cloned()).collect()
        }
        Probe::Http { port, path } => vec!["http".to_owned(), port.to_string(), path.clone()],
        Probe::Tcp { port } => vec!["tcp".to_owned(), port.to_string()],
        Probe::Grpc { port, service } => {
            vec!["grpc".to_owned(), port.to_string(), service.clone()]
        }
    };
    let usual = Timing::default();
    let pairs = [
        ("interval", nanos(timing.interval), nanos(usual.interval)),
        ("timeout", nanos(timing.timeout), nanos(usual.timeout)),
        ("retries", timing.retries.to_string(), usual.retries.to_string()),
        ("startPeriod", nanos(timing.start_period), nanos(usual.start_period)),
    ];
    texts.extend(unusual(pairs));
    texts
}

/// The texts of a policy that was asked for.
pub(super) fn policy_texts(choice: &RestartChoice) -> Vec<String> {
    choice.policy.iter().map(|policy| policy.word().to_owned()).collect()
}

/// The texts of what is not as usual about restarts.
pub(super) fn restart_texts(choice: &RestartChoice) -> Vec<String> {
    let (have, usual) = (&choice.options, Options::default());
    let pairs = [
        ("maxRestarts", have.max_restarts.to_string(), usual.max_restarts.to_string()),
        ("window", nanos(have.window), nanos(usual.window)),
        ("minBackoff", nanos(have.min_backoff), nanos(usual.min_backoff)),
        ("maxBackoff", nanos(have.max_backoff), nanos(usual.max_backoff)),
        ("stableAfter", nanos(have.stable_after), nanos(usual.stable_after)),
    ];
    let mut texts: Vec<String> = unusual(pairs).collect();
    if let Some(on) = have.on_unhealthy {
        texts.extend(["onUnhealthy".to_owned(), on.to_string()]);
    }
    texts
}

fn unusual<const N: usize>(pairs: [(&str, String, String); N]) -> impl Iterator<Item = String> {
    let differs = pairs.into_iter().filter(|(_, have, usual)| have != usual);
    differs.flat_map(|(name, have, _)| [name.to_owned(), have])
}

fn nanos(time: Duration) -> String {
    time.as_nanos().to_string()
}

fn port(field: &str, given: i64, wrong: &mut Wrong) -> Option<u16> {
    let port = u16::try_from(given).ok().filter(|port| *port > 0);
    if port.is_none() {
        wrong.add(field, format!("{given} is no port; use 1 to 65535"));
    }
    port
}

fn count(field: &str, given: Option<i64>, usual: u32, most: u32, wrong: &mut Wrong) -> u32 {
    let Some(given) = given else { return usual };
    match u32::try_from(given).ok().filter(|count| (1..=most).contains(count)) {
        Some(count) => count,
        None => {
            wrong.add(field, format!("{given} is out of range; use 1 to {most}"));
            usual
        }
    }
}

fn time(
    field: &str,
    given: RawDuration,
    usual: Duration,
    (least, most): (Duration, Duration),
    wrong: &mut Wrong,
) -> Duration {
    match given {
        None => usual,
        Some(Ok(time)) if (least..=most).contains(&time) => time,
        Some(Ok(time)) => {
            wrong.add(field, format!("{time:?} is out of range; use {least:?} to {most:?}"));
            usual
        }
        Some(Err(why)) => {
            wrong.add(field, why);
            usual
        }
    }
}
