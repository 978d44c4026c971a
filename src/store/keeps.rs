//! When each keep was last used, which the engine does not know.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::Store;
use crate::domain::{
    Result,
    event::{Event, What},
};

/// A keep that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedKeep {
    /// Name of its volume.
    pub volume: String,
    /// Name of the container that it belongs to; empty where an older version noted it.
    pub owner: String,
    /// Path in the container; empty likewise.
    pub path: String,
}

impl Store {
    /// Notes that volumes are used now. One that was not known is new, and its event
    /// tells so.
    pub async fn use_keeps(&self, keeps: Vec<(String, Event)>, at: Timestamp) -> Result<()> {
        self.with_events(Vec::new(), move |change, events| {
            for (volume, made) in keeps {
                use_keep(change, &volume, made, at, events)?;
            }
            Ok(())
        })
        .await
    }

    /// Notes that a volume has other data now, which is a use of it, and says so in the
    /// same transaction.
    pub async fn import_keep(
        &self,
        volume: String,
        made: Event,
        imported: Event,
        at: Timestamp,
    ) -> Result<()> {
        self.with_events(Vec::new(), move |change, events| {
            use_keep(change, &volume, made, at, events)?;
            events.push(imported);
            Ok(())
        })
        .await
    }

    /// When each volume was last used.
    pub async fn keeps(&self) -> Result<HashMap<String, Timestamp>> {
        self.run(|db| {
            let mut statement = db.prepare("SELECT volume, last_used_at FROM keeps")?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            let rows = rows.filter_map(|row| match row {
                Ok((volume, at)) => at.parse().ok().map(|at| Ok((volume, at))),
                Err(error) => Some(Err(error)),
            });
            rows.collect()
        })
        .await
    }

    /// Every volume that was used, and whose it is.
    pub async fn used_keeps(&self) -> Result<Vec<UsedKeep>> {
        self.run(|db| {
            let keep = |row: &rusqlite::Row<'_>| {
                Ok(UsedKeep { volume: row.get(0)?, owner: row.get(1)?, path: row.get(2)? })
            };
            db.prepare("SELECT volume, owner, path FROM keeps")?.query_map([], keep)?.collect()
        })
        .await
    }

    /// Forgets a volume, and says what happened in the same transaction. False when it
    /// was not known: then nothing is said.
    pub async fn forget_keep(&self, volume: String, event: Option<Event>) -> Result<bool> {
        self.with_events(Vec::new(), move |change, events| {
            let known = change.execute("DELETE FROM keeps WHERE volume = ?1", [volume])? > 0;
            if known {
                events.extend(event);
            }
            Ok(known)
        })
        .await
    }
}

fn use_keep(
    change: &Connection,
    volume: &str,
    made: Event,
    at: Timestamp,
    events: &mut Vec<Event>,
) -> rusqlite::Result<()> {
    let path = match &made.what {
        What::KeepCreated { path, .. } => path.as_str(),
        _ => "",
    };
    let row = params![volume, at.to_string(), made.subject.name, path];
    let known = change.execute(
        "UPDATE keeps SET last_used_at = ?2, owner = ?3, path = ?4 WHERE volume = ?1",
        row,
    )?;
    if known == 0 {
        change.execute(
            "INSERT INTO keeps (volume, last_used_at, owner, path) VALUES (?1, ?2, ?3, ?4)",
            row,
        )?;
        events.push(made);
    }
    Ok(())
}
