//! How a container does, told to a person.

use jiff::Timestamp;

use super::{App, list::Selector};
use crate::{
    domain::{
        Error, Kind, Result,
        container::{Container, State},
        ports::PublishedPort,
        restart::Phase,
    },
    store::logs::About,
};

/// Lines where the request says nothing.
const DEFAULT_LINES: u32 = 100;
/// Most lines.
const MOST_LINES: u32 = 10_000;

/// A summary.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Eight lines `Key: value`.
    pub status: String,
    /// The last log lines.
    pub logs: String,
    /// Both, under headings.
    pub summary: String,
}

impl App {
    /// Tells how a container does.
    pub async fn summary(&self, selector: &Selector, lines: Option<i32>) -> Result<Summary> {
        let lines = match lines.map(u32::try_from) {
            None => DEFAULT_LINES,
            Some(Ok(lines)) if lines <= MOST_LINES => lines,
            Some(_) => {
                let lines = lines.unwrap_or_default();
                let why = format!("{lines} is out of range; use 0 to {MOST_LINES}");
                return Err(Error::field("lines", why));
            }
        };
        let (status, logs) = match self.find(selector, "hash or name") {
            Ok(container) => {
                let status = status(&container, &self.standing(&container), Timestamp::now());
                (status, self.last_lines(&container.id, lines).await?)
            }
            Err(error) if error.kind() == Kind::NotFound => {
                // What a container wrote outlives it.
                let gone = self.gone(selector).ok_or(error)?;
                (epitaph(&gone), self.last_lines(&gone.container_id, lines).await?)
            }
            Err(error) => return Err(error),
        };
        let summary =
            format!("=== Status ===\n{status}\n=== Logs (last {lines} lines) ===\n{logs}");
        Ok(Summary { status, logs, summary })
    }

    /// What is known beside the state, in a few words; empty when there is nothing.
    fn standing(&self, container: &Container) -> String {
        let restart = self.restarts.get(container.key()).filter(|_| self.is_ours(container));
        match restart.map(|state| state.phase) {
            Some(Phase::BackingOff { next_try_at, .. }) => format!("restart at {next_try_at}"),
            Some(Phase::GaveUp { reason, .. }) => format!("given up: {reason}"),
            Some(Phase::Watching) | None => {
                self.health_of(container).map_or("", |health| health.status.word()).to_owned()
            }
        }
    }
}

fn epitaph(about: &About) -> String {
    [
        ("ID", about.container_id.as_str()),
        ("Name", &about.names.join(", ")),
        ("Image", &about.image),
        ("State", "removed"),
        ("Status", "Removed"),
        ("Created", &about.created_at),
        ("Started", "unknown"),
        ("Ports", ""),
    ]
    .map(|(key, value)| format!("{key}: {value}"))
    .join("\n")
}

fn status(container: &Container, standing: &str, now: Timestamp) -> String {
    let mut condition = condition(container, now);
    if !standing.is_empty() {
        condition = format!("{condition} ({})", standing.replace(char::is_control, " "));
    }
    let or_never = |at: Option<Timestamp>| at.map_or("never".to_owned(), |at| at.to_string());
    let ports: Vec<String> = container.ports.iter().map(port).collect();
    [
        ("ID", container.id.clone()),
        ("Name", container.names.join(", ")),
        ("Image", container.image.clone()),
        ("State", container.state.word().to_owned()),
        ("Status", condition),
        ("Created", container.created_at.to_string()),
        ("Started", or_never(container.started_at)),
        ("Ports", ports.join(", ")),
    ]
    .map(|(key, value)| format!("{key}: {value}"))
    .join("\n")
}

/// In words, as `docker ps` does.
fn condition(container: &Container, now: Timestamp) -> String {
    let ago = |at: Option<Timestamp>| {
        let seconds = at.map_or(0, |at| (now.as_second() - at.as_second()).max(0));
        match seconds {
            0..=119 => format!("{seconds} seconds"),
            120..=7199 => format!("{} minutes", seconds / 60),
            7200..=172_799 => format!("{} hours", seconds / 3600),
            _ => format!("{} days", seconds / 86_400),
        }
    };
    let oom = if container.oom_killed { ", out of memory" } else { "" };
    match container.state {
        State::Running => format!("Up {}", ago(container.started_at)),
        State::Paused => format!("Up {} (Paused)", ago(container.started_at)),
        State::Exited | State::Dead => format!(
            "Exited ({}{oom}) {} ago",
            container.exit_code.unwrap_or(0),
            ago(container.finished_at)
        ),
        State::Created => "Created".to_owned(),
        State::Restarting => "Restarting".to_owned(),
        State::Removing => "Removal in progress".to_owned(),
    }
}

fn port(port: &PublishedPort) -> String {
    let address = port.address.map(|address| format!("{address}:")).unwrap_or_default();
    format!("{address}{}->{}/{}", port.host, port.internal, port.protocol.word())
}
