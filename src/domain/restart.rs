//! Restarts: which ends of a container are followed by a start, when, and when no more.
//!
//! ```text
//!                 ended, and its policy wants it back
//!   WATCHING ──────────────────────────────────────────► BACKING_OFF ◄─┐
//!     ▲  ▲                                                  │  │       │ does not
//!     │  └───────────────── started ────────────────────────┘  │       │ start
//!     │                                                        └───────┘
//!     │ run, stopped or started by somebody       budget used up │
//!     └──────────────────────────────────── GAVE_UP ◄────────────┘
//! ```
//!
//! The wait is `min_backoff` times two for each restart since the container last ran
//! for `stable_after`, and at most `max_backoff`. Up to a fifth is taken off by chance.
//! So many restarts within the window as `max_restarts` use the budget up, however
//! long the runs between them were.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Lines of the log that are kept when the service gives up.
pub const LAST_LINES: u32 = 20;

/// Which ends are followed by a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// None.
    Never,
    /// Failures.
    OnFailure,
    /// All.
    Always,
}

impl Policy {
    /// As it is written in settings and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

/// How often and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Restarts within the window that use up the budget.
    pub max_restarts: u32,
    /// The window.
    pub window: Duration,
    /// First wait.
    pub min_backoff: Duration,
    /// Longest wait.
    pub max_backoff: Duration,
    /// A run of this length makes the next wait the first again.
    pub stable_after: Duration,
    /// Bad health is a failure. `None`: when the request itself has a probe.
    pub on_unhealthy: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self {
            max_restarts: 10,
            window: minutes(30),
            min_backoff: Duration::from_secs(1),
            max_backoff: minutes(5),
            stable_after: minutes(1),
            on_unhealthy: None,
        }
    }
}

/// What a request says about restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartChoice {
    /// The policy; `None` is the configured one.
    pub policy: Option<Policy>,
    /// How often and how fast.
    pub options: Options,
}

/// What holds for one container, all of it decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Which ends are followed by a start.
    pub policy: Policy,
    /// How often and how fast.
    pub options: Options,
    /// Bad health is a failure.
    pub on_unhealthy: bool,
}

/// Why a container does not run, or shall not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It ended with this code.
    Exited(i32),
    /// The kernel ended it for want of memory.
    OutOfMemory(i32),
    /// It went with its engine.
    EngineEnded,
    /// Its probes fail.
    Unhealthy,
    /// It uses more memory of a GPU than it booked.
    GpuOverrun(String),
    /// A GPU that it was given is of no use to it any more.
    GpuLost(String),
    /// The engine cannot start it, for this reason.
    DoesNotStart(String),
}

impl Cause {
    /// True for what befalls a container that goes on running.
    fn is_of_one_that_runs(&self) -> bool {
        match self {
            Self::Unhealthy | Self::GpuOverrun(_) | Self::GpuLost(_) => true,
            Self::Exited(_) | Self::OutOfMemory(_) | Self::EngineEnded | Self::DoesNotStart(_) => {
                false
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::OutOfMemory(code) => write!(f, "out of memory (exit code {code})"),
            Self::EngineEnded => f.write_str("ended with its engine"),
            Self::Unhealthy => f.write_str("unhealthy"),
            Self::GpuOverrun(what) => write!(f, "more GPU memory than booked: {what}"),
            Self::GpuLost(why) => write!(f, "lost its GPU: {why}"),
            Self::DoesNotStart(why) => write!(f, "does not start: {why}"),
        }
    }
}

/// What the service does about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It looks on.
    #[default]
    Watching,
    /// It waits.
    BackingOff {
        /// Until then.
        next_try_at: Timestamp,
        /// What the container ended of.
        reason: String,
        /// The service stops it itself, for its health or for its GPUs.
        for_health: bool,
    },
    /// It has given up.
    GaveUp {
        /// What the container ended of.
        reason: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
}

/// What comes of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Rest,
    /// It is started again after this.
    BackOff(Duration),
    /// The budget is used up.
    GiveUp,
}

/// What is remembered of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervised {
    /// What the service does about it.
    pub phase: Phase,
    /// Restarts since it last ran for long.
    pub attempts: u32,
    /// Restarts that count for the budget, oldest first.
    pub restarts: Vec<Timestamp>,
    /// Beginning of the run that was seen last.
    pub run: Option<Timestamp>,
    /// The end that was dealt with last.
    pub end: Option<Timestamp>,
}

impl Rules {
    fn wants_back(&self, cause: &Cause) -> bool {
        match self.policy {
            Policy::Never => false,
            Policy::OnFailure => !matches!(cause, Cause::Exited(0)),
            Policy::Always => true,
        }
    }

    /// The wait before a restart; `chance` is from 0 to 1.
    fn backoff(&self, attempts: u32, chance: f64) -> Duration {
        let factor = 1_u32.checked_shl(attempts).unwrap_or(u32::MAX);
        let whole = self.options.min_backoff.saturating_mul(factor).min(self.options.max_backoff);
        whole.mul_f64(1.0 - 0.2 * chance.clamp(0.0, 1.0))
    }
}

impl Supervised {
    /// Decides what comes of an end after a run of this length.
    pub fn ended(
        &mut self,
        rules: &Rules,
        cause: &Cause,
        ran: Duration,
        now: Timestamp,
        chance: f64,
    ) -> Verdict {
        if ran >= rules.options.stable_after {
            self.attempts = 0;
        }
        if !rules.wants_back(cause) {
            self.phase = Phase::Watching;
            return Verdict::Rest;
        }
        let since = now.checked_sub(rules.options.window).unwrap_or(Timestamp::MIN);
        // A clock that was put back leaves restarts of the future, which count as of now.
        for at in &mut self.restarts {
            *at = (*at).min(now);
        }
        self.restarts.retain(|at| *at > since);
        let reason = cause.to_string();
        if self.restarts.len() >= rules.options.max_restarts as usize {
            self.phase = Phase::GaveUp { reason, log: Vec::new() };
            return Verdict::GiveUp;
        }
        let wait = rules.backoff(self.attempts, chance);
        let next_try_at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        // A try that fails leaves it stopped by the service, as it was before.
        let still = matches!(self.phase, Phase::BackingOff { for_health: true, .. })
            && matches!(cause, Cause::DoesNotStart(_));
        let for_health = cause.is_of_one_that_runs() || still;
        self.phase = Phase::BackingOff { next_try_at, reason, for_health };
        Verdict::BackOff(wait)
    }

    /// How long until the next try; `None` when there is none to come. A clock that
    /// was put back does not make it longer than any wait.
    pub fn due_in(&self, rules: &Rules, now: Timestamp) -> Option<Duration> {
        let Phase::BackingOff { next_try_at, .. } = &self.phase else { return None };
        let wait = Duration::try_from(next_try_at.duration_since(now)).unwrap_or_default();
        Some(if wait > rules.options.max_backoff { Duration::ZERO } else { wait })
    }

    /// Notes a try to start it, before it is known how that ends.
    pub fn tried(&mut self, rules: &Rules, now: Timestamp) {
        self.attempts = self.attempts.saturating_add(1);
        self.restarts.push(now);
        let most = rules.options.max_restarts as usize;
        let over = self.restarts.len().saturating_sub(most);
        self.restarts.drain(..over);
    }

    /// Notes that it runs.
    pub fn runs(&mut self, run: Option<Timestamp>) {
        (self.phase, self.run) = (Phase::Watching, run);
    }

    /// Restarts since it last ran for long, when it has run for so long now.
    pub fn attempts_after(&self, rules: &Rules, ran: Option<Duration>) -> u32 {
        match ran {
            Some(ran) if ran >= rules.options.stable_after => 0,
            _ => self.attempts,
        }
    }
}

#[cfg(test)]
mod tests;
