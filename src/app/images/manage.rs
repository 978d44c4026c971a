//! Which images are here, and removing them, never one that a container has.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    app::App,
    domain::{
        Error, Kind, Result,
        event::{EventKind, What},
        image::ImageRef,
    },
    engine::{ListedImage, Removed},
    store::EventQuery,
};

/// Most pulls that are looked through for when images came.
const PULLS: usize = 10_000;
/// Bytes that these take.
const PULL_BYTES: usize = 16 << 20;

/// An image, and who has it.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// What the engine tells.
    pub image: ListedImage,
    /// Names of the containers that have it, running or not.
    pub used_by: Vec<String>,
}

/// Which unused images shall go.
#[derive(Debug, Clone, Default)]
pub struct Prune {
    /// Also those that still have a name.
    pub named: bool,
    /// Only those that were pulled, got their last name, or were made, so long ago.
    pub older_than: Duration,
    /// Only as many, oldest first, as bring all images below so many bytes.
    pub keep_bytes: Option<u64>,
    /// Only tell what would go.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Oldest first.
    pub images: Vec<ListedImage>,
    /// Bytes that no other image has.
    pub bytes: u64,
}

/// An id, or the beginning of one. It becomes part of the path of a question to the
/// engine, where `..` would lead to something that is no image.
fn image_id(id: &str) -> Result<&str> {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let fits = (4..=64).contains(&digits.len())
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    fits.then_some(id).ok_or_else(|| {
        Error::field(
            "id",
            format!("\"{id}\" is no image id; give at least 4 of its hexadecimal digits"),
        )
    })
}

impl App {
    /// Lists images, newest first. A name without a tag or digest fits all tags.
    pub async fn list_images(&self, name: &str, unused: bool) -> Result<Vec<ImageInfo>> {
        let wanted = match name {
            "" => None,
            name => Some((named(name)?, has_tag(name))),
        };
        let users = self.image_users()?;
        let fits = |image: &ListedImage| match &wanted {
            None => true,
            Some((wanted, true)) if wanted.digest().is_some() => {
                let digests = image.digests.iter().filter_map(|name| ImageRef::parse(name).ok());
                digests
                    .into_iter()
                    .any(|name| name.same_repository(wanted) && name.digest() == wanted.digest())
            }
            Some((wanted, true)) => image.names.contains(wanted),
            Some((wanted, false)) => image.names.iter().any(|name| name.same_repository(wanted)),
        };
        let images = self.engine.images().await?.into_iter().filter(|image| fits(image));
        let mut images: Vec<_> = images
            .map(|image| {
                let used_by = users.get(&image.id).cloned().unwrap_or_default();
                ImageInfo { image, used_by }
            })
            .filter(|info| !unused || info.used_by.is_empty())
            .collect();
        images.sort_by(|a, b| (b.image.created, &a.image.id).cmp(&(a.image.created, &b.image.id)));
        Ok(images)
    }

    /// Takes a name from its image, or removes the image with this id. The last
    /// name takes the image along, unless a container has it.
    pub async fn delete_image(&self, name: &str, id: &str) -> Result<Removed> {
        let target = match (name, id) {
            ("", "") => return Err(Error::field("name", "nothing is named; set name or id")),
            ("", id) => image_id(id)?.to_owned(),
            (name, _) => named(name)?.familiar(),
        };
        let missing = |error: Error| match error.kind() {
            Kind::NotFound => Error::not_found(
                "IMAGE_NOT_FOUND",
                format!("the node has no image \"{target}\"; list them to see which are there"),
            ),
            _ => error,
        };
        let found = self.engine.image_by_id(&target).await.map_err(missing)?;
        let users = self.image_users()?.remove(&found.id).unwrap_or_default();
        if !users.is_empty() && (name.is_empty() || found.names < 2) {
            return Err(in_use(&target, &users));
        }
        if self.images.is_claimed(&found.id) {
            let why = format!(
                "a run is making a container of the image \"{target}\" at this moment; remove \
                 that container first"
            );
            return Err(Error::precondition("IMAGE_IN_USE", why));
        }
        let removed =
            self.engine.remove_image(&target).await.map_err(|error| match error.kind() {
                // A container that we do not know yet, an image upon it, or more names.
                Kind::AlreadyExists => Error::precondition("IMAGE_IN_USE", error.message()),
                _ => missing(error),
            })?;
        self.images.forget_names();
        Ok(removed)
    }

    /// Removes images that no container has.
    pub async fn prune_images(&self, prune: &Prune) -> Result<Pruned> {
        let (images, total) = self.engine.image_usage().await?;
        let users = self.image_users()?;
        let (now, pulled) = (Timestamp::now().as_second(), self.pulled_at().await?);
        let building = self.builds.since().map(|since| since.as_second());
        let mut old = Vec::new();
        for image in images {
            // The classic builder's steps leave such images, upon which it makes the next.
            let of_build = image.unnamed && building.is_some_and(|since| image.created >= since);
            let wanted = (prune.named || image.unnamed) && !of_build;
            if !wanted || users.contains_key(&image.id) || self.images.is_claimed(&image.id) {
                continue;
            }
            let since = match self.engine.named_at(&image.id).await {
                Ok(named) => {
                    let pulled = pulled.get(&image.id).copied();
                    image.created.max(named.unwrap_or(0)).max(pulled.unwrap_or(0))
                }
                // Somebody else was quicker.
                Err(error) if error.kind() == Kind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let age = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
            if age >= prune.older_than.as_secs() {
                old.push((since, image));
            }
        }
        old.sort_by(|(a, x), (b, y)| (a, &x.id).cmp(&(b, &y.id)));
        let (mut left, mut pruned) = (total, Pruned::default());
        for (_, image) in old {
            if prune.keep_bytes.is_some_and(|keep| left <= keep) {
                break;
            }
            let goes = if prune.dry_run { Ok(true) } else { self.remove_unused(&image).await };
            match goes {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) if pruned.images.is_empty() => return Err(error),
                // What went is told; the next prune meets the error again.
                Err(error) => {
                    tracing::warn!(?error, image = image.id, "a prune ends early");
                    break;
                }
            }
            let own = image.size.saturating_sub(image.shared);
            left = left.saturating_sub(own);
            pruned.bytes += own;
            pruned.images.push(image);
        }
        if !prune.dry_run {
            self.images.forget_names();
        }
        Ok(pruned)
    }

    /// Seconds since 1970 when images were last pulled by us, by their id: the engine
    /// notes only when an image got a name by a tag or a build.
    async fn pulled_at(&self) -> Result<HashMap<String, i64>> {
        let question = EventQuery {
            kinds: vec![EventKind::Pulled],
            limit: PULLS,
            bytes: PULL_BYTES,
            newest_first: true,
            ..EventQuery::default()
        };
        let mut pulled = HashMap::new();
        for stored in self.store.events(question).await?.events {
            if let What::Pulled { image_id, .. } = stored.event.what {
                pulled.entry(image_id).or_insert(stored.event.at.as_second());
            }
        }
        Ok(pulled)
    }

    /// False when it turns out to be in use.
    async fn remove_unused(&self, image: &ListedImage) -> Result<bool> {
        // It may have been taken up while others were removed.
        if self.image_users()?.contains_key(&image.id) || self.images.is_claimed(&image.id) {
            return Ok(false);
        }
        let names: Vec<_> = image.names.iter().map(ImageRef::familiar).collect();
        // The engine takes an image by its id while it has one name at most, and looks
        // itself whether anything needs it.
        for name in names.iter().skip(1) {
            // A name may have gone to another image since the list was made.
            if self.means(name, &image.id).await? && !self.remove_one(name).await? {
                return Ok(false);
            }
        }
        self.remove_one(&image.id).await
    }

    async fn means(&self, name: &str, id: &str) -> Result<bool> {
        match self.engine.image_by_id(name).await {
            Ok(found) => Ok(found.id == id),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn remove_one(&self, target: &str) -> Result<bool> {
        match self.engine.remove_image(target).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(true),
            // A container that we do not know, a name that it got meanwhile, or an image
            // that is made upon it.
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Names of containers by the id of their image.
    fn image_users(&self) -> Result<BTreeMap<String, Vec<String>>> {
        // What is not known might have any image.
        self.view.require_synced()?;
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.view.all() {
            let name = container.name().to_owned();
            users.entry(container.image_id.clone()).or_default().push(name);
        }
        Ok(users)
    }
}

fn named(name: &str) -> Result<ImageRef> {
    ImageRef::parse(name).map_err(|error| {
        let why = error.violations().first().map(|wrong| wrong.description.clone());
        Error::field("name", why.unwrap_or_default())
    })
}

/// A colon after the last slash starts a tag.
fn has_tag(name: &str) -> bool {
    name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn in_use(image: &str, users: &[String]) -> Error {
    let users = users.join("\", \"");
    Error::precondition(
        "IMAGE_IN_USE",
        format!("the image \"{image}\" is in use by \"{users}\"; remove that container first"),
    )
}
