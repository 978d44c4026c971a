//! When each keep was last used, which the engine does not know.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::Store;
use crate::domain::{Result, event::Event};

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

    /// Forgets a volume, and says what happened in the same transaction.
    pub async fn forget_keep(&self, volume: String, event: Event) -> Result<()> {
        self.with_events(vec![event], move |change, _| {
            change.execute("DELETE FROM keeps WHERE volume = ?1", [volume])
        })
        .await
        .map(drop)
    }
}

fn use_keep(
    change: &Connection,
    volume: &str,
    made: Event,
    at: Timestamp,
    events: &mut Vec<Event>,
) -> rusqlite::Result<()> {
    let known = change.execute(
        "UPDATE keeps SET last_used_at = ?2 WHERE volume = ?1",
        params![volume, at.to_string()],
    )?;
    if known == 0 {
        change.execute("INSERT INTO keeps VALUES (?1, ?2)", params![volume, at.to_string()])?;
        events.push(made);
    }
    Ok(())
}
