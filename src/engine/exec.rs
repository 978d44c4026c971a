//! Runs a small program in a container that runs, and takes what it says.

use std::time::Duration;

use bollard::{exec::StartExecResults, models::ExecConfig};
use futures_util::StreamExt as _;

use super::Engine;
use crate::domain::{Kind, Result};

/// Most bytes of its words that are kept.
const MOST: usize = 16 * 1024;

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// It ended with this code and these words.
    Ended(i64, String),
    /// The container has no such program, or does not run.
    Absent,
    /// It had not ended in time; it may go on.
    Late,
}

impl Engine {
    /// Runs a program; an error only when the engine is away.
    pub async fn run_in(&self, id: &str, command: &[&str], limit: Duration) -> Result<Ran> {
        let docker = self.docker().await?;
        let config = ExecConfig {
            cmd: Some(command.iter().map(|&part| part.to_owned()).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let work = async {
            let exec = docker.create_exec(id, config).await?.id;
            let mut words = Vec::new();
            if let StartExecResults::Attached { mut output, .. } =
                docker.start_exec(&exec, None).await?
            {
                while let Some(piece) = output.next().await {
                    words.extend_from_slice(&piece?.into_bytes());
                    words.truncate(MOST);
                }
            }
            let code = docker.inspect_exec(&exec).await?.exit_code.unwrap_or(-1);
            Ok::<_, bollard::errors::Error>((code, words))
        };
        match tokio::time::timeout(limit, work).await {
            // Codes of the engine for what it cannot find or run.
            Ok(Ok((126 | 127, _))) => Ok(Ran::Absent),
            Ok(Ok((code, words))) => {
                Ok(Ran::Ended(code, String::from_utf8_lossy(&words).into_owned()))
            }
            Ok(Err(error)) => match self.error(error) {
                error if error.kind() == Kind::Unavailable => Err(error),
                _ => Ok(Ran::Absent),
            },
            Err(_) => Ok(Ran::Late),
        }
    }
}
