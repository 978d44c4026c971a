//! The schema, as an ordered list that only ever grows at its end.

use std::path::Path;

use rusqlite::Connection;

use super::unusable;
use crate::domain::{Error, Result};

/// The schema of the service's own records. Each entry brings the schema from its
/// index to the next. An entry that was released is never changed.
pub(super) const RECORDS: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE containers (
        key TEXT PRIMARY KEY,           -- identity that runs are serialised by
        name TEXT NOT NULL,             -- the engine's name
        container_id TEXT NOT NULL,
        spec_hash TEXT NOT NULL,
        spec TEXT NOT NULL,             -- canonical spec, JSON
        ports TEXT NOT NULL,            -- chosen host ports, JSON
        wanted INTEGER NOT NULL         -- 1: shall run, 0: was stopped
    ) STRICT;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        at TEXT NOT NULL,               -- RFC 3339
        action TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;
    CREATE INDEX history_by_name ON history (name, id);
    CREATE TABLE tokens (
        hash BLOB PRIMARY KEY,          -- sha256 of the text
        name TEXT NOT NULL UNIQUE,
        permissions TEXT NOT NULL,      -- JSON
        created_at TEXT NOT NULL,
        expires_at TEXT
    ) STRICT;
",
    "
    CREATE TABLE keeps (
        volume TEXT PRIMARY KEY,
        last_used_at TEXT NOT NULL      -- RFC 3339
    ) STRICT;
",
];

/// Brings a schema up to date, in one transaction a step. The version is kept in
/// `user_version`.
pub(super) fn run(db: &mut Connection, path: &Path, steps: &[&str]) -> Result<()> {
    let unusable = |error: rusqlite::Error| unusable(path, &error);
    let version: usize =
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unusable)?;
    if version > steps.len() {
        return Err(Error::precondition(
            "STORE_TOO_NEW",
            format!(
                "the database {} has schema {version}, this version knows {}; use a newer container-svc",
                path.display(),
                steps.len()
            ),
        ));
    }
    for (at, sql) in steps.iter().enumerate().skip(version) {
        let step = db.transaction().map_err(unusable)?;
        step.execute_batch(sql).map_err(unusable)?;
        step.pragma_update(None, "user_version", at + 1).map_err(unusable)?;
        step.commit().map_err(unusable)?;
    }
    Ok(())
}
