//! Tokens: who may call. Only hashes are kept; look-ups never touch the disk.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::App;
use crate::{
    domain::{
        Error, Kind, Result,
        access::{self, Caller},
        spec::hex,
    },
    store::Store,
};

pub use crate::store::StoredToken;

/// Name of the token that the first start writes.
pub const ADMIN: &str = "admin";
/// What whoever makes and ends tokens needs.
const MANAGE: &str = "container-svc:token:manage";
/// What every token begins with, so that scanners of leaked secrets know it.
const PREFIX: &str = "csvc_";

#[derive(Debug)]
struct Grant {
    caller: Arc<Caller>,
    expires_at: Option<Timestamp>,
}

/// The live tokens by the hash of their text.
#[derive(Debug, Default)]
pub struct Tokens(RwLock<HashMap<[u8; 32], Grant>>);

impl Tokens {
    pub(super) async fn load(store: &Store) -> Result<Self> {
        let tokens = Self::default();
        tokens.reload(store).await?;
        Ok(tokens)
    }

    async fn reload(&self, store: &Store) -> Result<()> {
        let live = store.tokens().await?.into_iter().map(|token| {
            let caller = Arc::new(Caller { name: token.name, permissions: token.permissions });
            (token.hash, Grant { caller, expires_at: token.expires_at })
        });
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = live.collect();
        Ok(())
    }

    /// Who bears this text, if it is a live token.
    pub fn caller(&self, text: &str) -> Option<Arc<Caller>> {
        let hash: [u8; 32] = Sha256::digest(text).into();
        let tokens = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let grant = tokens.get(&hash)?;
        let live = grant.expires_at.is_none_or(|end| Timestamp::now() < end);
        live.then(|| grant.caller.clone())
    }
}

/// What a new token shall be.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// Name.
    pub name: String,
    /// Named set of permissions, empty for none.
    pub grant_set: String,
    /// Further permissions.
    pub permissions: Vec<String>,
    /// How long it lives.
    pub ttl: Option<Result<Duration, String>>,
}

impl App {
    /// Makes a token; its text is told once and never again.
    pub async fn create_token(&self, new: NewToken) -> Result<(String, StoredToken)> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if new.name.is_empty() || new.name.len() > 64 || !new.name.chars().all(good) {
            return Err(Error::field(
                "name",
                format!("\"{}\" is no token name; use 1 to 64 of [a-zA-Z0-9_.-]", new.name),
            ));
        }
        let mut permissions = Vec::new();
        if !new.grant_set.is_empty() {
            let set = access::grant_set(&new.grant_set).ok_or_else(|| {
                let sets = access::GRANT_SETS.join(", ");
                Error::field(
                    "grantSet",
                    format!("\"{}\" is no set; use one of {sets}", new.grant_set),
                )
            })?;
            permissions.extend(set.iter().map(|&permission| permission.to_owned()));
        }
        for (at, permission) in new.permissions.into_iter().enumerate() {
            if !access::is_permission(&permission) {
                let all = access::PERMISSIONS.join(", ");
                return Err(Error::field(
                    format!("permissions[{at}]"),
                    format!("\"{permission}\" is no permission; use some of {all}"),
                ));
            }
            permissions.push(permission);
        }
        permissions.sort();
        permissions.dedup();
        if permissions.is_empty() {
            return Err(Error::field("grantSet", "nothing is granted; name a set or permissions"));
        }
        let now = Timestamp::now();
        let expires_at = match new.ttl {
            None => None,
            Some(Ok(ttl)) if ttl >= Duration::from_secs(1) => Some(
                now.checked_add(ttl)
                    .map_err(|_| Error::field("ttl", "is too long; leave it out"))?,
            ),
            Some(Ok(_)) => return Err(Error::field("ttl", "is too short; at least 1 s")),
            Some(Err(why)) => return Err(Error::field("ttl", why)),
        };

        // An expired token holds its name for nobody.
        let expired =
            self.store.tokens().await?.into_iter().find(|token| {
                token.name == new.name && token.expires_at.is_some_and(|end| end <= now)
            });
        if expired.is_some() {
            self.store.remove_token(&new.name).await?;
        }
        let text = secret()?;
        let hash = Sha256::digest(&text).into();
        let token = StoredToken { hash, name: new.name, permissions, created_at: now, expires_at };
        self.store.add_token(token.clone()).await?;
        self.access.reload(&self.store).await?;
        Ok((text, token))
    }

    /// Ends a token at once. The last one that may manage tokens only by force: after
    /// it nobody could make another.
    pub async fn revoke_token(&self, name: &str, force: bool) -> Result<()> {
        let now = Timestamp::now();
        let manages = |token: &&StoredToken| {
            token.expires_at.is_none_or(|end| end > now)
                && token.permissions.iter().any(|permission| permission == MANAGE)
        };
        let tokens = self.store.tokens().await?;
        let mut managers = tokens.iter().filter(manages);
        if !force
            && managers.next().is_some_and(|token| token.name == name)
            && managers.next().is_none()
        {
            return Err(Error::precondition(
                "LAST_MANAGER",
                format!(
                    "\"{name}\" is the last token that may manage tokens; make another one first, or set force"
                ),
            ));
        }
        if !self.store.remove_token(name).await? {
            return Err(Error::not_found(
                "TOKEN_NOT_FOUND",
                format!("no token is named \"{name}\"; see the list of tokens"),
            ));
        }
        self.access.reload(&self.store).await
    }

    /// Makes the admin token anew, in place of an older one.
    pub async fn renew_admin_token(&self) -> Result<String> {
        self.store.remove_token(ADMIN).await?;
        let new =
            NewToken { name: ADMIN.to_owned(), grant_set: ADMIN.to_owned(), ..NewToken::default() };
        Ok(self.create_token(new).await?.0)
    }
}

fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(
            Kind::Unavailable,
            "NO_RANDOMNESS",
            format!("no randomness for a token: {error}"),
        )
    })?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}
