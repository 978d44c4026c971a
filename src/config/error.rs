//! A wrong setting: which, where it was given, its value and what to do.

use std::{error, fmt};

/// One setting that the server cannot start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    setting: String,
    origin: String,
    value: Option<String>,
    problem: String,
}

impl ConfigError {
    /// A setting with a value that does not do; `problem` says why and what does.
    pub(super) fn new(
        setting: &str,
        origin: &str,
        value: impl fmt::Display,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            setting: setting.to_owned(),
            origin: origin.to_owned(),
            value: Some(without_password(&value.to_string())),
            problem: problem.into(),
        }
    }

    pub(super) fn no_data_dir() -> Self {
        Self {
            setting: "data_dir".to_owned(),
            origin: "the environment".to_owned(),
            value: None,
            problem: "has no default, since neither HOME nor XDG_DATA_HOME is an absolute path; \
                      set --data-dir"
                .to_owned(),
        }
    }

    /// Name of the setting, as in the file.
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.setting)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, " (from {}) {}", self.origin, self.problem)
    }
}

impl error::Error for ConfigError {}

/// A URL may hold `user:password@`, which must not reach a terminal or a log.
fn without_password(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://[redacted]{}", &rest[at..]),
        None => value.to_owned(),
    }
}
