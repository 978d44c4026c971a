//! Events: appended with the change that they tell of, read by number.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params, params};
use tokio::sync::watch;

use super::{Store, records::damaged};
use crate::domain::{
    Result,
    event::{Event, EventKind, Subject},
};

/// Most events that retention takes in one transaction.
const AT_ONCE: u64 = 10_000;

/// What is kept in memory of the events.
#[derive(Debug)]
pub(super) struct State {
    /// The number of this store; a cursor of another leads nowhere.
    id: u64,
    latest: watch::Sender<u64>,
    /// Events since the process began, by kind.
    counts: [AtomicU64; EventKind::ALL.len()],
}

impl State {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        let id: String =
            db.query_row("SELECT value FROM meta WHERE key = 'events_id'", [], |row| row.get(0))?;
        let id = u64::from_str_radix(&id, 16).map_err(|error| damaged(0, error))?;
        Ok(Self { id, latest: watch::Sender::new(last(db)?), counts: Default::default() })
    }

    fn note(&self, event: &Event) {
        let kinds = EventKind::ALL.iter().zip(&self.counts);
        let mut kinds = kinds.filter(|(kind, _)| **kind == event.what.kind());
        if let Some((_, count)) = kinds.next() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One event with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Number, rising and without holes.
    pub seq: u64,
    /// The event.
    pub event: Event,
}

/// Which deaths of a container were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Those up to then; nanoseconds since 1970.
    pub until: i64,
    /// When the last of them was by the engine's state, where that is known.
    pub finished: Option<i64>,
}

/// Which events are asked for; an empty text matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Name or alias of the container.
    pub name: String,
    /// Aliases do not count, which is quicker.
    pub no_aliases: bool,
    /// Id of the container, or how it begins.
    pub container_id: String,
    /// Its hash, either.
    pub hash: String,
    /// Kinds; empty is all.
    pub kinds: Vec<EventKind>,
    /// At this time or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Before this time.
    pub until: Option<i64>,
    /// Only numbers above.
    pub after: u64,
    /// Only numbers below; 0 is no limit.
    pub before: u64,
    /// The highest number first.
    pub newest_first: bool,
    /// At most so many.
    pub limit: usize,
    /// And so many bytes, but at least one event.
    pub bytes: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// In the order that was asked for.
    pub events: Vec<StoredEvent>,
    /// There are more.
    pub more: bool,
    /// The lowest number that is still there; one above the last when there is none.
    pub oldest: u64,
    /// The last number that was given to any event.
    pub latest: u64,
}

impl Store {
    /// The number of this store, for cursors.
    pub fn events_id(&self) -> u64 {
        self.events.id
    }

    /// The number of the last event, as it grows.
    pub fn latest_event(&self) -> watch::Receiver<u64> {
        self.events.latest.subscribe()
    }

    /// Events since the process began, by kind.
    pub fn event_counts(&self) -> impl Iterator<Item = (EventKind, u64)> {
        let counts = self.events.counts.iter().map(|count| count.load(Ordering::Relaxed));
        EventKind::ALL.into_iter().zip(counts)
    }

    /// Appends events.
    pub async fn append_events(&self, events: Vec<Event>) -> Result<()> {
        self.with_events(events, |_, _| Ok(())).await
    }

    /// Makes a change, which may add events, and appends them, in one transaction.
    pub(super) async fn with_events<T: Send + 'static>(
        &self,
        events: impl Into<Arc<Vec<Event>>>,
        change: impl FnOnce(&Connection, &mut Vec<Event>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (state, events) = (self.events.clone(), events.into());
        self.run(move |db| {
            let transaction = db.transaction()?;
            let mut more = Vec::new();
            let done = change(&transaction, &mut more)?;
            for event in events.iter().chain(&more) {
                append(&transaction, event)?;
            }
            let last = last(&transaction)?;
            transaction.commit()?;
            events.iter().chain(&more).for_each(|event| state.note(event));
            state.latest.send_if_modified(|latest| std::mem::replace(latest, last) != last);
            Ok(done)
        })
        .await
    }

    /// Reads a page of events.
    pub async fn events(&self, query: EventQuery) -> Result<EventPage> {
        self.read(move |db| {
            // All of it sees one state.
            let snapshot = db.transaction()?;
            page(&snapshot, &query)
        })
        .await
    }

    /// Up to when the deaths of each container were told. `None` when no listing
    /// was ever compared.
    pub async fn lives(&self) -> Result<Option<HashMap<String, Told>>> {
        self.run(|db| {
            let began = "SELECT count(*) FROM meta WHERE key = 'lives'";
            let began: bool = db.query_row(began, [], |row| row.get(0))?;
            let mut statement = db.prepare("SELECT container_id, ended, finished FROM lives")?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, Told { until: row.get(1)?, finished: row.get(2)? }))
            })?;
            let rows: rusqlite::Result<_> = rows.collect();
            Ok(if began { Some(rows?) } else { None })
        })
        .await
    }

    /// Tells of deaths, notes up to when they were told, and forgets containers
    /// that are gone. The caller keeps all of it without a copy, for when it fails.
    pub async fn tell_deaths(
        &self,
        events: Arc<Vec<Event>>,
        ended: Arc<BTreeMap<String, Told>>,
        gone: Arc<BTreeSet<String>>,
    ) -> Result<()> {
        self.with_events(events, move |change, _| {
            change.execute("INSERT OR IGNORE INTO meta VALUES ('lives', '')", [])?;
            for (id, told) in ended.iter() {
                change.execute(
                    "INSERT OR REPLACE INTO lives VALUES (?1, ?2, ?3)",
                    params![id, told.until, told.finished],
                )?;
            }
            for id in gone.iter() {
                change.execute("DELETE FROM lives WHERE container_id = ?1", [id])?;
            }
            Ok(())
        })
        .await
    }

    /// Takes away the oldest events: those from before a time, and those that are
    /// more than so many. True when there is more to take.
    pub async fn retain_events(&self, before: i64, most: u64) -> Result<bool> {
        self.run(move |db| {
            let last = last(db)?;
            // The first that stays; order is by number, whatever the clock did.
            let young = "SELECT seq FROM events WHERE at >= ?1 ORDER BY seq LIMIT 1";
            let mut statement = db.prepare_cached(young)?;
            let young: Option<u64> =
                statement.query_map([before], |row| row.get(0))?.next().transpose()?;
            drop(statement);
            let first = young.unwrap_or(last + 1).max((last + 1).saturating_sub(most));
            let taken = db.execute(
                "DELETE FROM events WHERE seq IN
                    (SELECT seq FROM events WHERE seq < ?1 ORDER BY seq LIMIT ?2)",
                params![first, AT_ONCE],
            )?;
            Ok(taken as u64 == AT_ONCE)
        })
        .await
    }
}

/// Nanoseconds since 1970; times that are further away are the furthest.
pub fn nanos(at: Timestamp) -> i64 {
    let nanos = at.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// Appends one event to a transaction.
fn append(db: &Connection, event: &Event) -> rusqlite::Result<()> {
    let Event { at, subject, what } = event;
    db.prepare_cached(
        "INSERT INTO events (at, kind, name, aliases, container_id, hash, spec_hash, image, what)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        nanos(*at),
        what.kind().word(),
        subject.name,
        subject.aliases.join(","),
        subject.container_id,
        subject.hash,
        subject.spec_hash,
        subject.image,
        serde_json::to_string(&what.clone().bounded()).unwrap_or_default(),
    ])
    .map(drop)
}

/// The last number that was given.
fn last(db: &Connection) -> rusqlite::Result<u64> {
    let last = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'";
    db.query_row(last, [], |row| row.get(0))
}

fn page(db: &Connection, query: &EventQuery) -> rusqlite::Result<EventPage> {
    let latest = last(db)?;
    let oldest = db.query_row("SELECT min(seq) FROM events", [], |row| row.get(0))?;
    let oldest = Option::unwrap_or(oldest, latest + 1);
    let kinds = query.kinds.iter().map(|kind| format!(",{}", kind.word())).collect::<String>();
    let order = if query.newest_first { "DESC" } else { "ASC" };
    let name = match query.no_aliases {
        true => "name = :name",
        false => {
            ":name = '' OR name = :name OR instr(',' || aliases || ',', ',' || :name || ',') > 0"
        }
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT seq, at, name, aliases, container_id, hash, spec_hash, image, what FROM events
         WHERE seq > :after AND seq < :before AND at >= :since AND at < :until
            AND ({name})
            AND (:id = '' OR substr(container_id, 1, length(:id)) = :id)
            AND (:hash = '' OR hash = :hash OR spec_hash = :hash)
            AND (:kinds = ',' OR instr(:kinds, ',' || kind || ',') > 0)
         ORDER BY seq {order}"
    ))?;
    let most = i64::MAX.unsigned_abs();
    let before = if query.before == 0 { most } else { query.before.min(most) };
    let mut rows = statement.query(named_params! {
        ":after": query.after.min(most),
        ":before": before,
        ":since": query.since.unwrap_or(i64::MIN),
        ":until": query.until.unwrap_or(i64::MAX),
        ":name": query.name,
        ":id": query.container_id,
        ":hash": query.hash,
        ":kinds": format!("{kinds},"),
    })?;
    let mut found = EventPage { oldest, latest, ..EventPage::default() };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += row.get_ref(8)?.as_str()?.len() + 512;
        let full = bytes > query.bytes && !found.events.is_empty();
        if found.events.len() >= query.limit || full {
            found.more = true;
            break;
        }
        found.events.push(event(row)?);
    }
    Ok(found)
}

fn event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    let at: i64 = row.get(1)?;
    let aliases: String = row.get(3)?;
    Ok(StoredEvent {
        seq: row.get(0)?,
        event: Event {
            at: Timestamp::from_nanosecond(at.into()).map_err(|error| damaged(1, error))?,
            subject: Subject {
                name: row.get(2)?,
                aliases: aliases.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect(),
                container_id: row.get(4)?,
                hash: row.get(5)?,
                spec_hash: row.get(6)?,
                image: row.get(7)?,
            },
            what: super::records::json(row, 8)?,
        },
    })
}
