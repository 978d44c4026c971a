//! When each keep was last used, which the engine does not know.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::params;

use super::Store;
use crate::domain::Result;

impl Store {
    /// Notes that volumes are used now.
    pub async fn use_keeps(&self, volumes: Vec<String>, at: Timestamp) -> Result<()> {
        self.run(move |db| {
            let change = db.transaction()?;
            for volume in volumes {
                change.execute(
                    "INSERT OR REPLACE INTO keeps VALUES (?1, ?2)",
                    params![volume, at.to_string()],
                )?;
            }
            change.commit()
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

    /// Forgets a volume.
    pub async fn forget_keep(&self, volume: String) -> Result<()> {
        self.run(move |db| db.execute("DELETE FROM keeps WHERE volume = ?1", [volume]))
            .await
            .map(drop)
    }
}
