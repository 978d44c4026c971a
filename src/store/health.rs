//! How containers do by our own probes.

use std::collections::HashMap;

use rusqlite::params;

use super::{Store, records::json};
use crate::domain::{Result, event::Event, health::Health};

impl Store {
    /// The health of all containers that were probed, by id.
    pub async fn healths(&self) -> Result<HashMap<String, Health>> {
        self.run(|db| {
            db.prepare("SELECT container_id, health FROM health")?
                .query_map([], |row| Ok((row.get(0)?, json(row, 1)?)))?
                .collect()
        })
        .await
    }

    /// Writes the health of containers, and what happened, in one transaction.
    pub async fn put_healths(
        &self,
        healths: Vec<(String, Health)>,
        events: Vec<Event>,
    ) -> Result<()> {
        self.with_events(events, move |change, _| {
            for (id, health) in healths {
                let text = serde_json::to_string(&health).unwrap_or_default();
                change
                    .execute("INSERT OR REPLACE INTO health VALUES (?1, ?2)", params![id, text])?;
            }
            Ok(())
        })
        .await
    }

    /// Forgets the health of containers that are gone.
    pub async fn forget_healths(&self, ids: Vec<String>) -> Result<()> {
        self.run(move |db| {
            let change = db.transaction()?;
            for id in ids {
                change.execute("DELETE FROM health WHERE container_id = ?1", [id])?;
            }
            change.commit()
        })
        .await
    }
}
