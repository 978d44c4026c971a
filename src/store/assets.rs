//! Which content the cache has of which URL.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Store, records::parsed};
use crate::domain::{Result, event::Event};

const COLUMNS: &str =
    "SELECT id, url, sha256, bytes, etag, last_modified, fetched_at, last_used_at FROM assets";

/// One URL with the content that was fetched from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAsset {
    /// What the cache knows it by.
    pub id: String,
    /// URL.
    pub url: String,
    /// Checksum of the content.
    pub sha256: String,
    /// Length of the content.
    pub bytes: u64,
    /// By what the source knows the content.
    pub etag: String,
    /// The same, by time.
    pub last_modified: String,
    /// When it was fetched.
    pub fetched_at: Timestamp,
    /// When a container with it was last made or started.
    pub last_used_at: Timestamp,
}

impl Store {
    /// All, by URL.
    pub async fn assets(&self) -> Result<Vec<StoredAsset>> {
        self.run(|db| {
            db.prepare(&format!("{COLUMNS} ORDER BY url, id"))?.query_map([], asset)?.collect()
        })
        .await
    }

    /// One, by its id.
    pub async fn asset(&self, id: &str) -> Result<Option<StoredAsset>> {
        let id = id.to_owned();
        self.run(move |db| {
            db.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], asset).optional()
        })
        .await
    }

    /// Writes what the cache has now, and says so in the same transaction.
    pub async fn put_asset(&self, asset: StoredAsset, event: Event) -> Result<()> {
        self.with_events(vec![event], move |change, _| {
            change.execute(
                "INSERT OR REPLACE INTO assets VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    asset.id,
                    asset.url,
                    asset.sha256,
                    i64::try_from(asset.bytes).unwrap_or(i64::MAX),
                    asset.etag,
                    asset.last_modified,
                    asset.fetched_at.to_string(),
                    asset.last_used_at.to_string(),
                ],
            )
        })
        .await
        .map(drop)
    }

    /// Notes that these are used now.
    pub async fn use_assets(&self, ids: Vec<String>, at: Timestamp) -> Result<()> {
        self.run(move |db| {
            let change = db.transaction()?;
            for id in ids {
                change.execute(
                    "UPDATE assets SET last_used_at = ?2 WHERE id = ?1",
                    params![id, at.to_string()],
                )?;
            }
            change.commit()
        })
        .await
    }

    /// Forgets one, unless another content came meanwhile, and says so in the same
    /// transaction.
    pub async fn forget_asset(&self, asset: &StoredAsset, event: Event) -> Result<()> {
        let (id, fetched_at) = (asset.id.clone(), asset.fetched_at.to_string());
        self.with_events(Vec::new(), move |change, events| {
            let forget = "DELETE FROM assets WHERE id = ?1 AND fetched_at = ?2";
            if change.execute(forget, [id, fetched_at])? > 0 {
                events.push(event);
            }
            Ok(())
        })
        .await
    }
}

fn asset(row: &Row<'_>) -> rusqlite::Result<StoredAsset> {
    Ok(StoredAsset {
        id: row.get(0)?,
        url: row.get(1)?,
        sha256: row.get(2)?,
        bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
        etag: row.get(4)?,
        last_modified: row.get(5)?,
        fetched_at: parsed(row, 6)?,
        last_used_at: parsed(row, 7)?,
    })
}
