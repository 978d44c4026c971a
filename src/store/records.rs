//! Our containers, each change with the event that tells of it.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::Store;
use crate::domain::{Result, event::Event, spec::Canonical};

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

impl Store {
    /// All records.
    pub async fn records(&self) -> Result<Vec<Record>> {
        self.run(|db| {
            db.prepare(
                "SELECT key, name, container_id, spec_hash, spec, ports, wanted FROM containers",
            )?
            .query_map([], record)?
            .collect()
        })
        .await
    }

    /// Writes a record and what happened in one transaction.
    pub async fn put_record(&self, record: Record, event: Event) -> Result<()> {
        self.with_events(vec![event], move |change, _| {
            change.execute(
                "INSERT OR REPLACE INTO containers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
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
        })
        .await
        .map(drop)
    }

    /// Forgets a container, and says what happened in the same transaction.
    pub async fn delete_record(&self, key: &str, event: Event) -> Result<()> {
        let key = key.to_owned();
        self.with_events(vec![event], move |change, _| {
            change.execute("DELETE FROM containers WHERE key = ?1", [key])
        })
        .await
        .map(drop)
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
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
