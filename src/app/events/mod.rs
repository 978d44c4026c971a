//! Events: told once, kept for long, listed and watched.
//!
//! ```text
//! use cases ──► emit ─────────────┐
//!          ──► with their record ─┼─► store ──► list, watch, history
//! tracker  ──► deaths ────────────┘     ▲
//!                                   retain: age and count
//! ```

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::App;
use crate::{
    domain::{
        Error, Result,
        event::{Event, EventKind, Subject, What},
        page,
    },
    store::{EventQuery, nanos},
};

pub(super) mod deaths;
mod watch;

pub use crate::store::StoredEvent;
pub use watch::{Start, WatchEvents, WatchedEvent};

/// Events of a page where the request says nothing, and most events.
const DEFAULT: i64 = 100;
const MOST: i64 = 1000;
/// Most bytes of a page; the usual limit of a gRPC message is 4 MiB.
const BYTES: usize = 2 << 20;
/// Entries of a container's history.
const HISTORY: usize = 100;
/// The shortest id prefix that names a container.
const SHORTEST_PREFIX: usize = 4;
/// How often retention looks.
const RETAIN: Duration = Duration::from_secs(5);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// How long.
    pub age: Duration,
    /// How many.
    pub count: u64,
}

/// Which events a caller asks for; an empty field matches all.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Node.
    pub node_id: String,
    /// Name or alias of a container.
    pub name: String,
    /// Its id, or how it begins.
    pub container_id: String,
    /// Its hash, either.
    pub hash: String,
    /// Kinds.
    pub kinds: Vec<EventKind>,
}

/// A question for a page.
#[derive(Debug, Clone, Default)]
pub struct EventsQuery {
    /// Which.
    pub wanted: Wanted,
    /// At this time or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Before this time.
    pub until: Option<i64>,
    /// The first first.
    pub oldest_first: bool,
    /// Events of a page; 0 is the default.
    pub page_size: i64,
    /// Where the page begins.
    pub page_token: String,
}

/// One page.
#[derive(Debug, Clone, Default)]
pub struct EventsPage {
    /// In the order that was asked for.
    pub events: Vec<StoredEvent>,
    /// Token of the next page; empty on the last.
    pub next: String,
}

impl Wanted {
    /// The question to the store; `None` when nothing can match.
    fn query(&self, app: &App) -> Result<Option<EventQuery>> {
        let Self { node_id, name, container_id, hash, kinds } = self;
        let id = container_id;
        if !id.is_empty() && id.len() < SHORTEST_PREFIX {
            let why = format!("\"{id}\" is too short; give at least {SHORTEST_PREFIX} digits");
            return Err(Error::field("containerId", why));
        }
        let here = node_id.is_empty() || *node_id == app.settings.node_id;
        Ok(here.then(|| EventQuery {
            name: name.clone(),
            container_id: container_id.clone(),
            hash: hash.clone(),
            kinds: kinds.clone(),
            bytes: BYTES,
            ..EventQuery::default()
        }))
    }
}

impl App {
    /// Tells what was done or seen just now. It is in the store when this returns.
    /// A store that fails is logged, and does not undo what happened.
    pub(super) async fn emit(&self, subject: Subject, what: What) {
        let event = now(subject, what);
        let message = event.message();
        if let Err(error) = self.store.append_events(vec![event]).await {
            tracing::error!(?error, message, "an event is lost");
        }
    }

    /// Lists events.
    pub async fn list_events(&self, query: &EventsQuery) -> Result<EventsPage> {
        let EventsQuery { wanted, since, until, oldest_first, page_size, page_token } = query;
        if !(0..=MOST).contains(page_size) {
            let why = format!("{page_size} is out of range; use 0 to {MOST}");
            return Err(Error::field("pageSize", why));
        }
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(Error::field("until", "is not after since; exchange the two"));
        }
        let identity = format!("{wanted:?} {since:?} {until:?} {oldest_first}");
        let begin: Option<u64> = match page_token.as_str() {
            "" => None,
            token => {
                let last = page::read(token, &identity)?.parse();
                let wrong = |_| Error::field("pageToken", "is not a page token; begin without one");
                Some(last.map_err(wrong)?)
            }
        };
        let Some(question) = wanted.query(self)? else { return Ok(EventsPage::default()) };
        let size = if *page_size == 0 { DEFAULT } else { *page_size };
        let found = self
            .store
            .events(EventQuery {
                since: *since,
                until: *until,
                newest_first: !oldest_first,
                after: begin.filter(|_| *oldest_first).unwrap_or(0),
                before: begin.filter(|_| !oldest_first).unwrap_or(0),
                limit: usize::try_from(size).unwrap_or_default(),
                ..question
            })
            .await?;
        let last = found.events.last().filter(|_| found.more);
        let next = last.map(|last| page::token(&identity, &last.seq.to_string()));
        Ok(EventsPage { events: found.events, next: next.unwrap_or_default() })
    }

    /// What was done with a container of ours, newest first.
    pub(super) async fn history(&self, name: &str) -> Result<Vec<Event>> {
        let question = EventQuery {
            name: name.to_owned(),
            no_aliases: true,
            kinds: EventKind::DEEDS.to_vec(),
            newest_first: true,
            limit: HISTORY,
            bytes: BYTES,
            ..EventQuery::default()
        };
        let found = self.store.events(question).await?;
        Ok(found.events.into_iter().map(|stored| stored.event).collect())
    }
}

/// An event of this moment.
pub(super) fn now(subject: Subject, what: What) -> Event {
    Event { at: Timestamp::now(), subject, what }
}

/// Takes away what is too old or too much, until the service stops.
pub async fn retain(app: Arc<App>) {
    let mut ticks = tokio::time::interval(RETAIN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let EventLimits { age, count } = app.settings.events;
    loop {
        ticks.tick().await;
        let before = Timestamp::now().checked_sub(age).map_or(i64::MIN, nanos);
        loop {
            match app.store.retain_events(before, count).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(?error, "old events cannot be taken away; trying again");
                    break;
                }
            }
        }
    }
}
