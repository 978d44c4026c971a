//! Our containers, each change with the event that tells of it.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Store, intents};
use crate::domain::{Result, event::Event, restart::Supervised, spec::Canonical};

/// What is kept of one container that we made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Identity that runs are serialised by.
    pub key: String,
    /// The engine's name.
    pub name: String,
    /// Engine id.
    pub container_id: String,
    /// Hash of the spec.
    pub spec_hash: String,
    /// The spec in its canonical form.
    pub spec: Canonical,
    /// Host port of each port of the spec, in its order.
    pub host_ports: Vec<u16>,
    /// It shall run; false after a stop that somebody asked for.
    pub wanted: bool,
}

/// The columns of a record, in their order.
pub(super) const COLUMNS: &str = "key, name, container_id, spec_hash, spec, ports, wanted";

/// Which container the record of each identity is of, in memory.
#[derive(Debug, Default)]
pub(super) struct Recorded(RwLock<HashMap<String, String>>);

impl Recorded {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        let mut statement = db.prepare("SELECT key, container_id FROM containers")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: rusqlite::Result<_> = rows.collect();
        Ok(Self(RwLock::new(rows?)))
    }

    fn note(&self, key: &str, id: Option<&str>) {
        let mut recorded = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match id {
            Some(id) => recorded.insert(key.to_owned(), id.to_owned()),
            None => recorded.remove(key),
        };
    }

    /// Forgets an identity, unless another container has it by now.
    fn note_gone(&self, key: &str, id: &str) {
        let mut recorded = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if recorded.get(key).is_some_and(|have| have == id) {
            recorded.remove(key);
        }
    }
}

impl Store {
    /// Whether the record of an identity is of this container. A crash between the
    /// engine's work and ours leaves one that is not.
    pub fn is_recorded(&self, key: &str, id: &str) -> bool {
        let recorded = self.recorded.0.read().unwrap_or_else(PoisonError::into_inner);
        recorded.get(key).is_some_and(|have| have == id)
    }

    /// All records.
    pub async fn records(&self) -> Result<Vec<Record>> {
        self.run(|db| {
            db.prepare(&format!("SELECT {COLUMNS} FROM containers"))?
                .query_map([], record)?
                .collect()
        })
        .await
    }

    /// The record of one identity.
    pub async fn find_record(&self, key: &str) -> Result<Option<Record>> {
        let key = key.to_owned();
        self.run(move |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM containers WHERE key = ?1"))?
                .query_row([key], record)
                .optional()
        })
        .await
    }

    /// What is remembered for restarts, by identity, and since when that is done.
    pub async fn supervised(&self) -> Result<(HashMap<String, Supervised>, Timestamp)> {
        self.run(|db| {
            let mut statement =
                db.prepare("SELECT key, restart FROM containers WHERE restart <> ''")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, json(row, 1)?)))?;
            let states = rows.collect::<rusqlite::Result<_>>()?;
            let since =
                db.query_row("SELECT value FROM meta WHERE key = 'supervised_since'", [], |row| {
                    parsed(row, 0)
                })?;
            Ok((states, since))
        })
        .await
    }

    /// Writes what is remembered for restarts, and what happened, in one transaction.
    pub async fn put_supervised(
        &self,
        key: &str,
        state: &Supervised,
        events: Vec<Event>,
    ) -> Result<()> {
        let key = key.to_owned();
        let text = serde_json::to_string(state).unwrap_or_default();
        self.with_events(events, move |change, _| {
            change.execute("UPDATE containers SET restart = ?2 WHERE key = ?1", [key, text])
        })
        .await
        .map(drop)
    }

    /// Writes a record and what happened in one transaction. What was remembered for
    /// restarts is forgotten: somebody decided anew.
    pub async fn put_record(&self, record: Record, events: Vec<Event>) -> Result<()> {
        let (key, id) = (record.key.clone(), record.container_id.clone());
        self.with_events(events, move |change, _| {
            put(change, "containers", &record)?;
            intents::forget(change, [record.key, record.container_id])
        })
        .await?;
        self.recorded.note(&key, Some(&id));
        Ok(())
    }

    /// Forgets a container, and says what happened in the same transaction.
    pub async fn delete_record(&self, key: &str, events: Vec<Event>) -> Result<()> {
        let forgotten = key.to_owned();
        self.with_events(events, move |change, _| {
            change.execute("DELETE FROM containers WHERE key = ?1", [forgotten])
        })
        .await?;
        self.recorded.note(key, None);
        Ok(())
    }

    /// Forgets a record as it was read; one that is of another container by now stays.
    /// True when it was forgotten.
    pub async fn delete_unchanged(&self, record: &Record, told: Vec<Event>) -> Result<bool> {
        let (key, id) = (record.key.clone(), record.container_id.clone());
        let deleted = self
            .with_events(Vec::new(), move |change, events| {
                let of_it = "DELETE FROM containers WHERE key = ?1 AND container_id = ?2";
                let deleted = change.execute(of_it, [key, id])? > 0;
                if deleted {
                    events.extend(told);
                }
                Ok(deleted)
            })
            .await?;
        if deleted {
            self.recorded.note_gone(&record.key, &record.container_id);
        }
        Ok(deleted)
    }
}

pub(super) fn put(db: &Connection, table: &str, record: &Record) -> rusqlite::Result<usize> {
    db.execute(
        &format!("INSERT OR REPLACE INTO {table} ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
        params![
            record.key,
            record.name,
            record.container_id,
            record.spec_hash,
            serde_json::to_string(&record.spec).unwrap_or_default(),
            serde_json::to_string(&record.host_ports).unwrap_or_default(),
            record.wanted,
        ],
    )
}

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        key: row.get(0)?,
        name: row.get(1)?,
        container_id: row.get(2)?,
        spec_hash: row.get(3)?,
        spec: json(row, 4)?,
        host_ports: json(row, 5)?,
        wanted: row.get(6)?,
    })
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    at: usize,
) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(at)?.as_str()?).map_err(|error| damaged(at, error))
}

pub(super) fn parsed(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get_ref(at)?.as_str()?.parse().map_err(|error: jiff::Error| damaged(at, error))
}

pub(super) fn damaged(
    at: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
}
