//! Tokens: only hashes of them.

use jiff::Timestamp;
use rusqlite::params;

use super::{
    Store,
    records::{json, parsed},
};
use crate::domain::{Error, Kind, Result};

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// sha256 of its text.
    pub hash: [u8; 32],
    /// Name.
    pub name: String,
    /// What its bearer may do.
    pub permissions: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

impl Store {
    /// All tokens, oldest first.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>> {
        self.run(|db| {
            db.prepare(
                "SELECT hash, name, permissions, created_at, expires_at
                 FROM tokens ORDER BY created_at, name",
            )?
            .query_map([], |row| {
                let ends = row.get_ref(4)?.as_str_or_null()?.is_some();
                Ok(StoredToken {
                    hash: row.get(0)?,
                    name: row.get(1)?,
                    permissions: json(row, 2)?,
                    created_at: parsed(row, 3)?,
                    expires_at: ends.then(|| parsed(row, 4)).transpose()?,
                })
            })?
            .collect()
        })
        .await
    }

    /// Adds a token; ALREADY_EXISTS when the name is taken.
    pub async fn add_token(&self, token: StoredToken) -> Result<()> {
        let name = token.name.clone();
        let added = self
            .run(move |db| {
                db.execute(
                    "INSERT OR IGNORE INTO tokens VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        token.hash,
                        token.name,
                        serde_json::to_string(&token.permissions).unwrap_or_default(),
                        token.created_at.to_string(),
                        token.expires_at.map(|at| at.to_string()),
                    ],
                )
            })
            .await?;
        if added == 0 {
            return Err(Error::new(
                Kind::AlreadyExists,
                "TOKEN_EXISTS",
                format!("a token named \"{name}\" exists; revoke it first, or take another name"),
            ));
        }
        Ok(())
    }

    /// Removes a token; false when there is none of that name.
    pub async fn remove_token(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.run(move |db| db.execute("DELETE FROM tokens WHERE name = ?1", [name]))
            .await
            .map(|removed| removed > 0)
    }
}
