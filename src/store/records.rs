//! Our containers and what was done with them.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::Store;
use crate::domain::{Result, spec::Canonical};

/// History entries kept for one name.
const HISTORY: u32 = 100;

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

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: String,
    /// More about it.
    pub detail: String,
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

    /// Writes a record and a line of history in one transaction.
    pub async fn put_record(&self, record: Record, entry: HistoryEntry) -> Result<()> {
        self.run(move |db| {
            let change = db.transaction()?;
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
            )?;
            append(&change, &record.name, &entry)?;
            change.commit()
        })
        .await
    }

    /// Forgets a container.
    pub async fn delete_record(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.run(move |db| db.execute("DELETE FROM containers WHERE key = ?1", [key]))
            .await
            .map(drop)
    }

    /// History of a name, newest first.
    pub async fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let name = name.to_owned();
        self.run(move |db| {
            db.prepare(
                "SELECT at, action, detail FROM history WHERE name = ?1 ORDER BY id DESC LIMIT ?2",
            )?
            .query_map(params![name, HISTORY], |row| {
                Ok(HistoryEntry { at: parsed(row, 0)?, action: row.get(1)?, detail: row.get(2)? })
            })?
            .collect()
        })
        .await
    }
}

fn append(db: &rusqlite::Connection, name: &str, entry: &HistoryEntry) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO history (name, at, action, detail) VALUES (?1, ?2, ?3, ?4)",
        params![name, entry.at.to_string(), entry.action, entry.detail],
    )?;
    db.execute(
        "DELETE FROM history WHERE name = ?1 AND id <= (
             SELECT id FROM history WHERE name = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        params![name, HISTORY],
    )?;
    Ok(())
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
