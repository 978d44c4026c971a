//! Logs: collected from every container, kept, read back and followed.
//!
//! ```text
//! view ──► collect: one follower a container ──► store ──► list, tail, summary
//!              files or engine API                 ▲
//!                                        retain: age and bytes
//! ```

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::App;
use crate::{
    domain::{
        Error, Result,
        container::Container,
        logs::{Origin, Place, Selection, SourceChoice, Stream},
    },
    engine::LogFiles,
    store::logs::{About, Limits, LogStore},
};

mod collect;
mod follow;
mod list;
mod tail;

pub use crate::store::logs::{Line, Source};
pub use collect::collect;
pub use list::{LogPage, LogQuery};
pub use tail::{SlowReader, Start, TailItem, TailQuery};

/// Files that are read at once: decoding takes a processor.
const READERS: usize = 2;
/// Containers whose lines are held in memory at once, about a megabyte each.
const TURNS: usize = 16;
/// Longest pattern of a name.
const LONGEST_PATTERN: usize = 256;
/// How often retention looks.
const RETAIN: Duration = Duration::from_secs(5);

/// What the configuration decides about logs.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// Where lines are taken from.
    pub source: SourceChoice,
    /// How much is kept.
    pub limits: Limits,
}

/// How the collection of one container does.
#[derive(Debug, Clone, Default)]
struct Standing {
    origin: Option<Origin>,
    error: Option<Error>,
}

/// The store, and what the collectors say.
#[derive(Debug)]
pub struct Logs {
    /// The lines.
    pub store: LogStore,
    settings: LogSettings,
    /// Who reads a file.
    readers: Semaphore,
    /// Who holds lines that are not stored yet.
    turns: Semaphore,
    standing: Mutex<HashMap<String, Standing>>,
}

/// How the collection of one container does, told to a caller.
#[derive(Debug, Clone)]
pub struct LogStatus {
    /// Where its lines come from.
    pub origin: Option<Origin>,
    /// Counts.
    pub source: Arc<Source>,
    /// Why it stands still.
    pub error: Option<Error>,
}

/// Which containers and lines a caller asks for, as it was written.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Node.
    pub node_id: String,
    /// Containers; the id may be a prefix.
    pub selection: Selection,
    /// Streams; empty is all.
    pub streams: Vec<Stream>,
    /// Text.
    pub contains: String,
    /// Text in any case.
    pub contains_ignore_case: String,
    /// Expression.
    pub regex: String,
    /// Gaps too.
    pub full: bool,
}

impl Logs {
    pub(super) fn new(store: LogStore, settings: LogSettings) -> Self {
        Self {
            store,
            settings,
            readers: Semaphore::new(READERS),
            turns: Semaphore::new(TURNS),
            standing: Mutex::default(),
        }
    }

    fn standing(&self) -> MutexGuard<'_, HashMap<String, Standing>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: &str, origin: Option<Origin>, error: Option<Error>) {
        self.standing().insert(id.to_owned(), Standing { origin, error });
    }

    /// Why no lines can be stored, if that is so.
    pub fn trouble(&self) -> Option<Error> {
        self.store.trouble()
    }

    /// How many collectors stand still.
    pub fn failing(&self) -> usize {
        self.standing().values().filter(|standing| standing.error.is_some()).count()
    }

    /// How the collection of a container does; `None` when nothing was collected.
    pub fn status(&self, id: &str) -> Option<LogStatus> {
        let source = self.known(id)?;
        let standing = self.standing().get(id).cloned().unwrap_or_default();
        Some(LogStatus { origin: standing.origin, source, error: standing.error })
    }

    /// True when all that a container wrote before it ended is collected.
    pub(super) fn is_complete(&self, id: &str) -> bool {
        self.known(id).is_some_and(|source| source.complete)
    }

    fn known(&self, id: &str) -> Option<Arc<Source>> {
        self.store.sources().into_iter().find(|source| source.about.container_id == id)
    }

    /// Where the lines of a container are to be taken from; `None` while it has no
    /// log yet.
    ///
    /// A log goes on to be read from where it was read before, as long as that is
    /// possible: another source must find its place by time, and clocks jump.
    fn origin(&self, container: &Container, engine_is_here: bool) -> Option<Origin> {
        // The driver "none" keeps no log at all.
        let kept = !matches!(container.log_driver.as_str(), "" | "none");
        if !kept || container.started_at.is_none() {
            return None;
        }
        let files = container.log_driver == "json-file"
            && engine_is_here
            && LogFiles::readable(Path::new(&container.log_path));
        let known = self.known(&container.id);
        let before = known.as_ref().and_then(|source| source.checkpoint.as_ref());
        let engine = matches!(before.map(|at| &at.place), Some(Place::Engine { .. }));
        match self.settings.source {
            SourceChoice::Auto if engine => Some(Origin::Engine),
            SourceChoice::Engine => Some(Origin::Engine),
            SourceChoice::Files => Some(Origin::Files),
            SourceChoice::Auto if files => Some(Origin::Files),
            SourceChoice::Auto => Some(Origin::Engine),
        }
    }
}

/// What a container is known by. While one is being replaced it has another name;
/// its log stays that of the name that it was run under.
fn about(container: &Container) -> About {
    let hashes = [container.hash(), container.spec_hash()];
    let mut names = container.names.clone();
    if let Some(name) = names.first_mut() {
        container.plain_name().clone_into(name);
    }
    About {
        container_id: container.id.clone(),
        names,
        hashes: hashes.iter().filter(|h| !h.is_empty()).map(|h| (*h).to_owned()).collect(),
        labels: container.labels.clone(),
        image: container.image.clone(),
        created_at: container.created_at.to_string(),
    }
}

/// Takes away what is too old or too much, until the service stops.
pub async fn retain(app: Arc<App>) {
    let mut ticks = tokio::time::interval(RETAIN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        if let Err(error) = app.logs.store.retain(app.logs.settings.limits, now).await {
            tracing::warn!(?error, "old log lines cannot be taken away; trying again");
        }
    }
}

impl App {
    /// The containers that are asked for. NOT_FOUND when one that must be there is
    /// known neither to the store nor to the view.
    fn select_logs(&self, wanted: &Wanted) -> Result<(Selection, Vec<Arc<Source>>)> {
        let mut selection = wanted.selection.clone();
        if selection.name_pattern.len() > LONGEST_PATTERN {
            let why = format!("is longer than {LONGEST_PATTERN} bytes; write a shorter one");
            return Err(Error::field("namePattern", why));
        }
        if !selection.container_id.is_empty() {
            selection.container_id = self.whole_id(&selection.container_id)?;
        }
        if !wanted.node_id.is_empty() && wanted.node_id != self.settings.node_id {
            return Ok((selection, Vec::new()));
        }
        let mut sources = self.logs.store.sources();
        sources.retain(|source| source.is_selected(&selection));
        if sources.is_empty() && selection.names_one() {
            // Only what names a container must be there, whatever its labels.
            let named = Selection {
                name_pattern: String::new(),
                label: String::new(),
                ..selection.clone()
            };
            let there = self.view.all().iter().any(|container| {
                let About { container_id, names, hashes, labels, .. } = about(container);
                named.fits(&container_id, &names, &hashes, &labels)
            });
            if !there && !self.logs.store.sources().iter().any(|s| s.is_selected(&named)) {
                self.view.require_synced()?;
                let Selection { container_id, name, hash, .. } = &wanted.selection;
                let fields = [("id", container_id), ("name", name), ("hash", hash)];
                let (what, value) = fields.into_iter().find(|(_, value)| !value.is_empty()).unzip();
                return Err(super::unknown(what.unwrap_or("name"), value.map_or("", |v| v)));
            }
        }
        Ok((selection, sources))
    }

    /// The id that begins so, of a container that is there or of which lines are.
    fn whole_id(&self, prefix: &str) -> Result<String> {
        if let Some(container) = self.view.identified(prefix)? {
            return Ok(container.id.clone());
        }
        let sources = self.logs.store.sources();
        let mut ids = sources
            .iter()
            .map(|source| &source.about.container_id)
            .filter(|id| id.starts_with(prefix));
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id.clone()),
            (Some(_), Some(_)) => Err(Error::field(
                "containerId",
                format!("\"{prefix}\" is the beginning of several ids; give more digits"),
            )),
            (None, _) => Ok(prefix.to_owned()),
        }
    }
}
