//! Health: what is asked of a container, and what the answers make of it.
//!
//! ```text
//!               a success
//!   STARTING ──────────────────────► HEALTHY
//!      │                              │   ▲
//!      │ `retries` failures in a row, │   │ a success
//!      │ those of the start period    │   │
//!      │ not counted                  │   │
//!      │        `retries` failures    ▼   │
//!      └───────────────────────────► UNHEALTHY
//!                in a row
//! ```
//!
//! Each run of a container begins in STARTING. These are the rules of the engine for
//! its own checks too, so a container does the same whoever asks it.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Results that are remembered of one container.
pub const REMEMBERED: usize = 10;
/// Most bytes of what a probe answered that are kept.
pub const LONGEST_OUTPUT: usize = 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A command in the container, which the engine runs.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A GET request.
    Http {
        /// Port in the container.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// A connection.
    Tcp {
        /// Port in the container.
        port: u16,
    },
    /// A call of `grpc.health.v1`.
    Grpc {
        /// Port in the container.
        port: u16,
        /// Service that is asked for.
        service: String,
    },
}

/// A probe and its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// When, and how often.
    #[serde(flatten)]
    pub timing: Timing,
}

/// When a probe is made, and how many of them count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// From the beginning of one probe to the next.
    pub interval: Duration,
    /// After so long a probe has failed.
    pub timeout: Duration,
    /// Failures in a row that make a container unhealthy.
    pub retries: u32,
    /// How long after a start failures do not count.
    pub start_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            retries: 3,
            start_period: Duration::ZERO,
        }
    }
}

/// How a container is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HealthChoice {
    /// As its image says.
    #[default]
    Image,
    /// Not at all.
    Off,
    /// So.
    Check(HealthCheck),
}

/// What the answers come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Neither well nor ill yet.
    #[default]
    Starting,
    /// Well.
    Healthy,
    /// Ill.
    Unhealthy,
}

impl Status {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The answer to one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When the probe began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// A success.
    pub success: bool,
    /// What came back, or what went wrong.
    pub output: String,
}

/// How one run of a container does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// When the run began.
    pub run: Option<Timestamp>,
    /// What the answers come to.
    pub status: Status,
    /// Failures in a row that count.
    pub streak: u32,
    /// Since when it is in this state.
    pub since: Option<Timestamp>,
    /// The last answers, oldest first.
    pub results: VecDeque<ProbeResult>,
}

impl Health {
    /// Begins a run; what the runs before answered is still told.
    pub fn begin(&mut self, run: Option<Timestamp>, now: Timestamp) {
        (self.run, self.status, self.streak, self.since) = (run, Status::Starting, 0, Some(now));
    }

    /// Takes an answer over. `into_run` is how long after the start the probe began.
    /// Answers with the state when it is another than before.
    pub fn take(
        &mut self,
        timing: &Timing,
        result: ProbeResult,
        into_run: Duration,
    ) -> Option<Status> {
        let before = self.status;
        let counts = self.status != Status::Starting || into_run >= timing.start_period;
        if result.success {
            (self.status, self.streak) = (Status::Healthy, 0);
        } else if counts {
            self.streak = self.streak.saturating_add(1);
            if self.streak >= timing.retries {
                self.status = Status::Unhealthy;
            }
        }
        let changed = self.status != before;
        if changed {
            self.since = Some(result.at);
        }
        self.results.push_back(result);
        while self.results.len() > REMEMBERED {
            self.results.pop_front();
        }
        changed.then_some(self.status)
    }
}

/// The beginning of what a probe answered, as much as is kept.
pub fn clipped(text: &str) -> String {
    let text = text.trim_end();
    let mut end = text.len().min(LONGEST_OUTPUT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn result(success: bool) -> ProbeResult {
        ProbeResult { at: Timestamp::UNIX_EPOCH, took: SECOND, success, output: String::new() }
    }

    fn timing(retries: u32, start: u64) -> Timing {
        Timing { retries, start_period: SECOND * start as u32, ..Timing::default() }
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_and_a_success_ends_it() {
        let (timing, mut health) = (timing(2, 10), Health::default());
        for second in 0..9 {
            assert_eq!(health.take(&timing, result(false), SECOND * second), None);
        }
        assert_eq!((health.status, health.streak), (Status::Starting, 0));
        assert_eq!(health.take(&timing, result(true), SECOND * 9), Some(Status::Healthy));
        assert_eq!(health.take(&timing, result(false), SECOND * 9), None);
        assert_eq!(health.take(&timing, result(false), SECOND * 9), Some(Status::Unhealthy));
        assert_eq!(health.take(&timing, result(true), SECOND * 9), Some(Status::Healthy));
    }

    #[test]
    fn output_is_cut_between_characters() {
        let text = "é".repeat(LONGEST_OUTPUT);
        assert_eq!(clipped(&text), "é".repeat(LONGEST_OUTPUT / 2));
        assert_eq!(clipped("a\n"), "a");
    }

    proptest! {
        /// Whatever comes: unhealthy is exactly the end of so many failures in a row,
        /// healthy is a success since, and memory is bounded.
        #[test]
        fn the_state_is_what_the_last_answers_say(
            retries in 1_u32..5,
            start in 0_u64..6,
            answers in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let timing = timing(retries, start);
            let mut health = Health::default();
            let (mut failures, mut was_well, mut state) = (0, false, Status::Starting);
            for (second, success) in answers.into_iter().enumerate() {
                let into = SECOND * u32::try_from(second).unwrap();
                let changed = health.take(&timing, result(success), into);
                let counts = state != Status::Starting || second as u64 >= start;
                failures = match success { true => 0, false => failures + u32::from(counts) };
                was_well |= success;
                let expected = if failures >= retries {
                    Status::Unhealthy
                } else if success || state == Status::Healthy {
                    Status::Healthy
                } else {
                    state
                };
                prop_assert_eq!(changed, (expected != state).then_some(expected));
                state = expected;
                prop_assert_eq!((health.status, health.streak), (state, failures));
                prop_assert!(was_well || state != Status::Healthy);
                prop_assert!(health.results.len() <= REMEMBERED);
            }
        }
    }
}
