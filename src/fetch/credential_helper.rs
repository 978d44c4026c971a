//! Asks a `docker-credential-<name>` program for one registry's credential.

use std::{path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use super::docker_config::Credential;
use crate::domain::{Error, Kind, Result};

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_MAX: u64 = 64 * 1024;
/// The user name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// The credential that the helper has for `server`; the helper is searched in `folder`, else
/// in `PATH`.
pub(super) async fn get(
    folder: Option<&Path>,
    name: &str,
    server: &str,
) -> Result<Option<Credential>> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || !name.bytes().all(allowed) {
        let what = "is not a helper's name: use letters, digits, \"_\" and \"-\" only";
        return Err(broken(name, what));
    }
    let program = format!("docker-credential-{name}");
    let program = folder.map_or_else(|| program.clone().into(), |folder| folder.join(&program));
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|cause| broken(name, "cannot be started: install it").because(cause))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut stdin) = stdin {
            // A helper may answer and leave without reading: what counts is its answer.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(ANSWER_MAX + 1).read_to_end(&mut answer).await?;
        }
        if answer.len() as u64 > ANSWER_MAX {
            return Ok((None, answer));
        }
        Ok((Some(child.wait().await?), answer))
    };
    let (status, answer) = timeout(PATIENCE, talk)
        .await
        .map_err(|_| {
            let message = format!("The credential helper {name:?} did not answer in 10 seconds.");
            Error::new(Kind::Unavailable, "CREDENTIAL_HELPER", message)
        })?
        .map_err(|cause: std::io::Error| broken(name, "cannot be read").because(cause))?;
    match status {
        Some(status) if status.success() => {}
        // The helpers' protocol has this text, on standard output, for "I have none".
        Some(_) if String::from_utf8_lossy(&answer).contains("credentials not found") => {
            return Ok(None);
        }
        _ => return Err(broken(name, "failed: run it by hand to see why")),
    }
    // serde_json's own message can quote the secret, so it is not kept as a cause.
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| broken(name, "gave no JSON with Username and Secret"))?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credential::identity(answer.secret)
    } else {
        Credential::basic(answer.username, answer.secret)
    }))
}

fn broken(name: &str, what: &str) -> Error {
    Error::precondition("CREDENTIAL_HELPER", format!("The credential helper {name:?} {what}."))
}
