//! Runs a small program in a container that runs, and takes what it says.

use std::time::Duration;

use bollard::{exec::StartExecResults, models::ExecConfig};
use futures_util::StreamExt as _;

use super::{Engine, errors};
use crate::domain::{Kind, Result};

/// Most bytes of its words that are kept.
const MOST: usize = 16 * 1024;

/// How long the engine is waited for when it is asked of one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// It ended with this code and these words.
    Ended(i64, String),
    /// The container has no such program.
    Absent,
    /// It has not ended in time, and goes on under this id of the engine.
    Late(String),
}

impl Engine {
    /// Runs a program; an error says nothing about it: the engine is away, is slow or
    /// failed, or the container does not run.
    pub async fn run_in(&self, id: &str, command: &[&str], limit: Duration) -> Result<Ran> {
        let docker = self.docker().await?;
        let config = ExecConfig {
            cmd: Some(command.iter().map(|&part| part.to_owned()).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec =
            match self.within(self.timeout.min(PATIENCE), docker.create_exec(id, config)).await {
                Ok(made) => made.id,
                Err(error) if is_absent(error.message()) => return Ok(Ran::Absent),
                Err(error) => return Err(error),
            };
        let work = async {
            let mut words = Vec::new();
            if let StartExecResults::Attached { mut output, .. } =
                docker.start_exec(&exec, None).await?
            {
                while let Some(piece) = output.next().await {
                    words.extend_from_slice(&piece?.into_bytes());
                    words.truncate(MOST);
                }
            }
            Ok::<_, bollard::errors::Error>(words)
        };
        let words = match self.within(limit, work).await {
            Ok(words) => words,
            Err(error) if is_absent(error.message()) => return Ok(Ran::Absent),
            Err(error) if error.reason() == "ENGINE_TIMEOUT" => {
                // Whether the program hangs or the engine does, the engine itself says.
                return if self.goes_on(&exec).await? { Ok(Ran::Late(exec)) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        let told = self.within(self.timeout.min(PATIENCE), docker.inspect_exec(&exec)).await?;
        match told.exit_code {
            // It closed its output, and goes on.
            _ if told.running == Some(true) => Ok(Ran::Late(exec)),
            // Codes of the engine for what it cannot find or run.
            Some(126 | 127) => Ok(Ran::Absent),
            Some(code) => Ok(Ran::Ended(code, String::from_utf8_lossy(&words).into_owned())),
            // The engine went away under it.
            None => Err(errors::unreachable(&self.address)),
        }
    }

    /// Whether a program that was late still goes on.
    pub async fn goes_on(&self, exec: &str) -> Result<bool> {
        let docker = self.docker().await?;
        match self.within(self.timeout.min(PATIENCE), docker.inspect_exec(exec)).await {
            Ok(told) => Ok(told.running == Some(true)),
            // The engine forgets what has ended.
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The engine's words for a program that the container does not have.
fn is_absent(message: &str) -> bool {
    let no_file = message.contains("exec failed") && message.contains("no such file or directory");
    no_file || message.contains("executable file not found")
}
