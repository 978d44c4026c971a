//! Containers that are about to be started: the record that each will have, for when a
//! crash comes between the start and that record.

use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Store,
    records::{COLUMNS, Record, put, record},
};
use crate::domain::Result;

impl Store {
    /// Notes what the record of an identity will be once its container is started.
    pub async fn intend(&self, record: Record) -> Result<()> {
        self.run(move |db| put(db, "intents", &record)).await.map(drop)
    }

    /// The record that a container was to have, if it was written down for it.
    pub async fn find_intent(&self, key: &str, id: &str) -> Result<Option<Record>> {
        let named = [key.to_owned(), id.to_owned()];
        self.run(move |db| {
            let of_it = "WHERE key = ?1 AND container_id = ?2";
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM intents {of_it}"))?
                .query_row(named, record)
                .optional()
        })
        .await
    }

    /// All that is noted.
    pub async fn intents(&self) -> Result<Vec<Record>> {
        self.run(|db| {
            db.prepare(&format!("SELECT {COLUMNS} FROM intents"))?.query_map([], record)?.collect()
        })
        .await
    }

    /// Forgets what came to nothing.
    pub async fn forget_intent(&self, key: &str, id: &str) -> Result<()> {
        let named = [key.to_owned(), id.to_owned()];
        self.run(move |db| forget(db, named)).await.map(drop)
    }
}

pub(super) fn forget(db: &Connection, named: [String; 2]) -> rusqlite::Result<usize> {
    db.execute("DELETE FROM intents WHERE key = ?1 AND container_id = ?2", named)
}
