//! Takes assets out of the cache that nobody uses: the old ones, and the longest unused
//! when all together are too large.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{App, blocking, content_mounted};
use crate::{
    app::events,
    domain::{
        Result, asset,
        event::{Subject, What},
    },
    store::StoredAsset,
};

/// How often this looks.
const OFTEN: Duration = Duration::from_secs(5);
/// How often the last use of what is in use is written.
const TOUCH: Duration = Duration::from_secs(3600);
/// How long a part stays that nobody went on with.
const PARTS: Duration = Duration::from_secs(24 * 3600);

/// Keeps the cache within its limits until the service stops.
pub async fn clean(app: Arc<App>) {
    let mut ticks = tokio::time::interval(OFTEN);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Only a view that is true says who has what.
        if !app.view.freshness().synced {
            continue;
        }
        if let Err(error) = app.clean_assets().await {
            tracing::warn!(?error, "assets cannot be taken out of the cache; trying again");
        }
    }
}

impl App {
    async fn clean_assets(self: &Arc<Self>) -> Result<()> {
        let (age, most) = (self.settings.assets.max_age, self.settings.assets.max_total_bytes);
        let now = Timestamp::now();
        let files = self.assets.files.clone();
        let (mut parts, there) = blocking(move || {
            files.remove_old_parts(PARTS)?;
            Ok((files.parts()?, files.list()?))
        })
        .await?;
        let mut rows = self.store.assets().await?;
        let users = self.asset_users();
        let unused_for = |row: &StoredAsset| {
            Duration::try_from(now.duration_since(row.last_used_at)).unwrap_or_default()
        };

        let (used, mut unused): (Vec<_>, Vec<_>) =
            rows.drain(..).partition(|row| users.contains_key(&row.sha256));
        let late = used.iter().filter(|row| unused_for(row) >= TOUCH.min(age / 4));
        let late: Vec<String> = late.map(|row| row.id.clone()).collect();
        if !late.is_empty() {
            self.store.use_assets(late, now).await?;
        }

        // A content of which no URL is known was followed by another one.
        let known: HashSet<&String> = used.iter().chain(&unused).map(|row| &row.sha256).collect();
        for file in there.iter().filter(|file| !known.contains(&file.sha256)) {
            if !users.contains_key(&file.sha256) {
                self.drop_content(&file.sha256).await?;
            }
        }
        let mut sizes: HashMap<&str, u64> = HashMap::new();
        for file in there
            .iter()
            .filter(|file| known.contains(&file.sha256) || users.contains_key(&file.sha256))
        {
            *sizes.entry(&file.sha256).or_default() += file.bytes;
        }
        let mut total = sizes.values().chain(parts.iter().map(|part| &part.bytes)).sum::<u64>();
        // A part costs the least to do without: nobody has it.
        parts.sort_by_key(|part| part.changed);
        for part in parts {
            if total <= most {
                break;
            }
            let (files, path) = (self.assets.files.clone(), part.path);
            if blocking(move || files.remove_part(&path)).await? {
                total -= part.bytes;
            }
        }
        unused.sort_by_key(|row| row.last_used_at);
        // Several URLs may have given one content; the last of them takes it along.
        let mut owners: HashMap<String, usize> = HashMap::new();
        for row in &unused {
            *owners.entry(row.sha256.clone()).or_default() += 1;
        }
        for row in unused {
            if total <= most && unused_for(&row) < age {
                continue;
            }
            let left = owners.entry(row.sha256.clone()).or_default();
            *left = left.saturating_sub(1);
            if *left > 0 {
                self.forget_asset(&row).await?;
            } else if self.drop_content(&row.sha256).await? {
                self.forget_asset(&row).await?;
                total -= sizes.remove(row.sha256.as_str()).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Forgets an asset whose content is gone or another URL's too.
    pub(super) async fn forget_asset(&self, row: &StoredAsset) -> Result<()> {
        let (url, bytes) = (asset::shown(&row.url), row.bytes);
        tracing::info!(url, bytes, "an asset is removed");
        let removed = What::AssetRemoved { url, bytes };
        self.store.forget_asset(row, events::now(Subject::default(), removed)).await
    }

    /// Names of the containers that have each content, running or not.
    pub(super) fn asset_users(&self) -> HashMap<String, Vec<String>> {
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.view.all() {
            for volume in &container.volumes {
                if let Some(content) = content_mounted(&volume.source) {
                    let names = users.entry(content.to_owned()).or_default();
                    names.push(container.name().to_owned());
                }
            }
        }
        for names in users.values_mut() {
            names.sort();
            names.dedup();
        }
        users
    }

    /// Removes the files of a content, unless a run or a container holds it; says
    /// whether it did.
    pub(super) async fn drop_content(self: &Arc<Self>, sha256: &str) -> Result<bool> {
        let app = self.clone();
        let (files, pins) = (self.assets.files.clone(), self.assets.pins.clone());
        let sha256 = sha256.to_owned();
        blocking(move || {
            let mut there = files.list()?;
            there.retain(|file| file.sha256 == sha256);
            let mut aside = Vec::with_capacity(there.len());
            {
                // Held until the files have left their place: whoever pins it later sees
                // that. What takes long, which is freeing their room, comes afterwards.
                let pins = pins.0.lock().unwrap_or_else(PoisonError::into_inner);
                // A run lets go of it only when its container is known to have it.
                if pins.contains_key(&sha256) || app.asset_users().contains_key(&sha256) {
                    return Ok(false);
                }
                for file in &there {
                    aside.push(files.set_aside(&file.path)?);
                }
            }
            for file in aside {
                files.remove(&file)?;
            }
            Ok(true)
        })
        .await
    }
}
