//! Which assets the cache has, and removing one on purpose.

use std::sync::Arc;

use super::{App, StoredAsset};
use crate::domain::{Error, Result, asset, page};

/// Assets of a page where the request says nothing, and most.
const MOST: i64 = 1000;

/// One URL with its content and who has that.
#[derive(Debug, Clone)]
pub struct AssetInfo {
    /// What the cache has.
    pub stored: StoredAsset,
    /// Names of the containers that have this content, running or not.
    pub used_by: Vec<String>,
}

/// Which assets are asked for.
#[derive(Debug, Clone, Default)]
pub struct AssetQuery {
    /// URL of one; empty is all.
    pub url: String,
    /// Assets of a page; 0 is the most.
    pub page_size: i64,
    /// Where the page begins.
    pub page_token: String,
}

/// One page.
#[derive(Debug, Clone, Default)]
pub struct AssetPage {
    /// By URL.
    pub assets: Vec<AssetInfo>,
    /// Token of the next page; empty on the last.
    pub next: String,
}

impl App {
    /// Lists assets, by URL as it is shown.
    pub async fn list_assets(&self, query: &AssetQuery) -> Result<AssetPage> {
        let AssetQuery { url, page_size, page_token } = query;
        let size = usize::try_from(*page_size).ok().filter(|_| *page_size <= MOST);
        let size = size.ok_or_else(|| {
            Error::field("pageSize", format!("{page_size} is out of range; use 0 to {MOST}"))
        })?;
        let size = if size == 0 { MOST as usize } else { size };
        let begin = match page_token.as_str() {
            "" => None,
            token => Some(page::read(token, url)?),
        };
        let mut rows = self.store.assets().await?;
        if !url.is_empty() {
            let id = id_of(url)?;
            rows.retain(|row| row.id == id);
        }
        // A token goes out, so it must hold no more of a URL than is shown.
        let position = |row: &StoredAsset| format!("{}\n{}", asset::shown(&row.url), row.id);
        let mut rows: Vec<_> = rows.into_iter().map(|row| (position(&row), row)).collect();
        rows.retain(|(at, _)| begin.as_ref().is_none_or(|begin| at > begin));
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        let more = rows.len() > size;
        rows.truncate(size);
        let next = rows.last().filter(|_| more).map(|(last, _)| page::token(url, last));
        let users = self.asset_users();
        let info = |(_, stored): (String, StoredAsset)| AssetInfo {
            used_by: users.get(&stored.sha256).cloned().unwrap_or_default(),
            stored,
        };
        let assets = rows.into_iter().map(info).collect();
        Ok(AssetPage { assets, next: next.unwrap_or_default() })
    }

    /// Removes an asset from the cache, never while somebody has it.
    pub async fn remove_asset(self: &Arc<Self>, id: &str, url: &str) -> Result<()> {
        let id = match (id.is_empty(), url.is_empty()) {
            (false, true) => id.to_owned(),
            (true, false) => id_of(url)?,
            (true, true) => return Err(Error::field("id", "is empty; give the id or the URL")),
            (false, false) => return Err(Error::field("url", "is given too; give only one")),
        };
        self.view.require_synced()?;
        let rows = self.store.assets().await?;
        let Some(row) = rows.iter().find(|row| row.id == id) else {
            let message =
                format!("the cache has no asset {id}; list the assets to see which are there");
            return Err(Error::not_found("ASSET_NOT_CACHED", message));
        };
        if self.is_fetching(&id) {
            return Err(in_use(row, "is being fetched; wait until that has ended"));
        }
        if let Some(names) = self.asset_users().get(&row.sha256) {
            let names = names.join("\", \"");
            return Err(in_use(
                row,
                &format!("is in use by \"{names}\"; remove that container first"),
            ));
        }
        // Another URL may have given the same content.
        let shared = rows.iter().any(|other| other.id != id && other.sha256 == row.sha256);
        if !shared && !self.drop_content(&row.sha256).await? {
            return Err(in_use(row, "is in use by a run; wait until that has ended"));
        }
        self.forget_asset(row).await
    }
}

fn id_of(url: &str) -> Result<String> {
    let url = asset::plain_url(url).map_err(|why| Error::field("url", why))?;
    Ok(asset::id(url.as_str()))
}

fn in_use(row: &StoredAsset, why: &str) -> Error {
    let url = asset::shown(&row.url);
    Error::precondition("ASSET_IN_USE", format!("the asset {url} {why}")).with("id", &row.id)
}
