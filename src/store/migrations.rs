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
    "
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- a number is never used again
        at INTEGER NOT NULL,            -- nanoseconds since 1970
        kind TEXT NOT NULL,
        name TEXT NOT NULL,             -- of the container, as are the next five
        aliases TEXT NOT NULL,          -- separated by commas
        container_id TEXT NOT NULL,
        hash TEXT NOT NULL,
        spec_hash TEXT NOT NULL,
        image TEXT NOT NULL,
        what TEXT NOT NULL              -- the kind with its details, JSON
    ) STRICT;
    CREATE INDEX events_by_name ON events (name, seq);
    INSERT INTO events (at, kind, name, aliases, container_id, hash, spec_hash, image, what)
        SELECT CAST(strftime('%s', substr(at, 1, 19)) AS INTEGER) * 1000000000
                + CASE WHEN instr(at, '.') > 0
                    THEN CAST(substr(rtrim(substr(at, 21), 'Z') || '000000000', 1, 9) AS INTEGER)
                    ELSE 0 END,
            action, name, '', '', '', '', '',
            CASE action WHEN 'replaced'
                THEN json_object('kind', action, 'fields',
                    json('[\"' || replace(detail, ', ', '\",\"') || '\"]'))
                ELSE json_object('kind', action) END
        FROM history ORDER BY id;
    DROP TABLE history;
    CREATE TABLE lives (
        container_id TEXT PRIMARY KEY,
        ended INTEGER NOT NULL          -- deaths up to then were told; nanoseconds since 1970
    ) STRICT;
    INSERT INTO meta VALUES ('events_id', lower(hex(randomblob(8))));
",
    "
    CREATE TABLE assets (
        id TEXT PRIMARY KEY,            -- of the URL
        url TEXT NOT NULL,
        sha256 TEXT NOT NULL,           -- of the content
        bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        last_modified TEXT NOT NULL,
        fetched_at TEXT NOT NULL,       -- RFC 3339
        last_used_at TEXT NOT NULL      -- RFC 3339
    ) STRICT;
",
    "
    -- what is remembered for restarts, JSON; '' is nothing
    ALTER TABLE containers ADD COLUMN restart TEXT NOT NULL DEFAULT '';
    -- what ended before nobody asked to have back
    INSERT INTO meta VALUES ('supervised_since', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
    CREATE TABLE health (
        container_id TEXT PRIMARY KEY,
        health TEXT NOT NULL            -- JSON
    ) STRICT;
",
    "
    -- when that last one ended by the engine's state, which tells it apart whatever the
    -- clock did; NULL is not known
    ALTER TABLE lives ADD COLUMN finished INTEGER;
",
    "
    CREATE TABLE intents (              -- as in containers, of one that is about to start
        key TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        container_id TEXT NOT NULL,
        spec_hash TEXT NOT NULL,
        spec TEXT NOT NULL,
        ports TEXT NOT NULL,
        wanted INTEGER NOT NULL
    ) STRICT;
",
    "
    -- name of the container that it belongs to, and path in it; '' until its next use
    ALTER TABLE keeps ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE keeps ADD COLUMN path TEXT NOT NULL DEFAULT '';
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
