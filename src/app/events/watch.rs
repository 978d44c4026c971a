//! Events as they come, after those that are there, without a seam.
//!
//! A reader is a number: what it is sent next is read from the store when it is
//! ready for it. So a slow one costs nothing, and no other one notices.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::{App, StoredEvent, Wanted};
use crate::{
    domain::{Error, Result, cursor},
    store::EventQuery,
};

/// Events and bytes that are read at once.
const BATCH: usize = 256;
const BYTES: usize = 256 << 10;
/// Most of the last events.
const MOST_LAST: i64 = 1000;

/// Where a watch begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// With what comes.
    #[default]
    Now,
    /// After a cursor.
    After(String),
    /// At a time, in nanoseconds since 1970.
    Since(i64),
    /// With the last events that match.
    Last(i64),
}

/// What a watcher asks for.
#[derive(Debug, Clone, Default)]
pub struct WatchEvents {
    /// Which.
    pub wanted: Wanted,
    /// Where to begin.
    pub start: Start,
    /// Ends when all that was there is sent.
    pub no_follow: bool,
    /// Something is sent at least so often.
    pub heartbeat: Duration,
}

/// Something to tell a watcher.
#[derive(Debug, Clone)]
pub enum WatchedEvent {
    /// One event.
    Event(Box<StoredEvent>),
    /// All that was there is sent.
    CaughtUp,
    /// Nothing happened for a while.
    Heartbeat,
    /// So many events, of all containers and kinds, were taken by retention before
    /// they were read.
    Missed(u64),
}

struct Watcher {
    app: Arc<App>,
    query: WatchEvents,
    /// `None` when nothing can ever match.
    question: Option<EventQuery>,
    /// Events up to here are also judged by their time.
    since: Option<(u64, i64)>,
    /// All up to here was sent.
    cursor: u64,
    /// What was there at the beginning ends here.
    end: u64,
    latest: watch::Receiver<u64>,
    ready: VecDeque<(WatchedEvent, u64)>,
    caught_up: bool,
    last_sent: Instant,
}

impl App {
    /// Watches events; each item comes with the cursor after it.
    pub async fn watch_events(
        self: &Arc<Self>,
        query: WatchEvents,
    ) -> Result<impl Stream<Item = Result<(WatchedEvent, String)>> + Send + use<>> {
        let question = query.wanted.query(self)?;
        let store_id = self.store.events_id();
        let mut latest = self.store.latest_event();
        let end = *latest.borrow_and_update();
        let (mut cursor_at, mut since) = (end, None);
        match &query.start {
            Start::Now | Start::Last(_) => {}
            // One that is ahead is of events that a loss of power took.
            Start::After(text) => cursor_at = cursor::read("cursor", text, store_id)?.min(end),
            Start::Since(time) => (cursor_at, since) = (0, Some((end, *time))),
        }
        let mut watcher = Watcher {
            app: self.clone(),
            question,
            since,
            cursor: cursor_at,
            end,
            latest,
            ready: VecDeque::new(),
            caught_up: false,
            last_sent: Instant::now(),
            query,
        };
        if let Start::Last(count) = watcher.query.start {
            watcher.last(count).await?;
        }
        Ok(stream::unfold(Some(watcher), move |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(Some((item, seq))) => {
                    watcher.last_sent = Instant::now();
                    Some((Ok((item, cursor::write(store_id, seq))), Some(watcher)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl Watcher {
    /// `None` when the stream ends.
    async fn next(&mut self) -> Result<Option<(WatchedEvent, u64)>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let latest = match self.query.no_follow {
                true => self.end,
                false => *self.latest.borrow_and_update(),
            };
            if self.cursor < latest {
                self.read(latest).await?;
            } else if !self.caught_up {
                self.caught_up = true;
                self.ready.push_back((WatchedEvent::CaughtUp, self.cursor));
            } else if self.query.no_follow || !self.wait().await {
                return Ok(None);
            }
            if self.ready.is_empty() && self.last_sent.elapsed() >= self.query.heartbeat {
                self.ready.push_back((WatchedEvent::Heartbeat, self.cursor));
            }
        }
    }

    /// False when the service stops.
    async fn wait(&mut self) -> bool {
        let rest = self.query.heartbeat.saturating_sub(self.last_sent.elapsed());
        tokio::select! {
            changed = self.latest.changed() => changed.is_ok(),
            () = tokio::time::sleep(rest) => true,
            () = self.app.tasks.stopped() => false,
        }
    }

    /// Reads what comes after the cursor, up to a place.
    async fn read(&mut self, latest: u64) -> Result<()> {
        let Some(question) = &self.question else {
            self.cursor = latest;
            return Ok(());
        };
        // Up to `end`, events are judged by their time; beyond it they are new.
        let by_time = self.since.filter(|(end, _)| self.cursor < *end);
        let through = by_time.map_or(latest, |(end, _)| latest.min(end));
        let found = self
            .app
            .store
            .events(EventQuery {
                after: self.cursor,
                before: through + 1,
                since: by_time.map(|(_, time)| time),
                limit: BATCH,
                bytes: BYTES,
                ..question.clone()
            })
            .await?;
        let missed = found.oldest.min(through + 1).saturating_sub(self.cursor + 1);
        // A watch from a time on misses nothing that is older than the store.
        if missed > 0 && by_time.is_none() {
            self.ready.push_back((WatchedEvent::Missed(missed), found.oldest - 1));
        }
        let last = found.events.last().map(|event| event.seq);
        self.cursor = last.filter(|_| found.more).unwrap_or(through);
        self.send(found.events);
        Ok(())
    }

    fn send(&mut self, events: Vec<StoredEvent>) {
        for event in events {
            let seq = event.seq;
            self.ready.push_back((WatchedEvent::Event(Box::new(event)), seq));
        }
    }

    /// Readies the last events up to the end.
    async fn last(&mut self, count: i64) -> Result<()> {
        let limit = usize::try_from(count).ok().filter(|_| count <= MOST_LAST);
        let limit = limit.ok_or_else(|| {
            Error::field("last", format!("{count} is out of range; use 0 to {MOST_LAST}"))
        })?;
        let Some(question) = self.question.clone().filter(|_| limit > 0) else { return Ok(()) };
        let before = self.end + 1;
        let ask = EventQuery { before, newest_first: true, limit, ..question };
        let mut found = self.app.store.events(ask).await?;
        found.events.reverse();
        self.send(found.events);
        Ok(())
    }
}
