//! Which images are on the node, what they take, and removing them.

use std::time::Duration;

use bollard::query_parameters::RemoveImageOptions;
use serde::Deserialize;

use crate::{
    domain::{Result, image::ImageRef},
    engine::{Engine, body::Body, errors},
};

/// Longest list.
const LARGEST: usize = 64 << 20;
/// The newest API of which the answers are known here.
const NEWEST: usize = 47;
/// What an engine says that measures its disk for somebody else.
const MEASURES: &str = "disk usage operation is already running";
/// How long is waited before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// An image in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedImage {
    /// Content id.
    pub id: String,
    /// Names with tags that can be read here.
    pub names: Vec<ImageRef>,
    /// It has no name with a tag, of whatever kind.
    pub unnamed: bool,
    /// Names with digests, as registries know it.
    pub digests: Vec<String>,
    /// Seconds since 1970 when it was made.
    pub created: i64,
    /// Bytes with all layers.
    pub size: u64,
    /// Bytes of layers that other images have too; 0 where it is not asked for.
    pub shared: u64,
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<String>,
    /// Content ids that are gone, those of layers' images too.
    pub ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    images: Option<Vec<Listed>>,
    #[serde(default)]
    layers_size: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    created: i64,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    shared_size: i64,
}

impl Engine {
    /// All images but those of steps in between.
    pub async fn images(&self) -> Result<Vec<ListedImage>> {
        let listed: Vec<Listed> = self.ask("images/json").await?;
        Ok(listed.into_iter().map(Into::into).collect())
    }

    /// The same with what they share, and the bytes that all layers take.
    pub async fn image_usage(&self) -> Result<(Vec<ListedImage>, u64)> {
        let limit = self.work_limit();
        let measured = async {
            let _one = self.measures.lock().await;
            loop {
                match self.ask::<Usage>("system/df?type=image").await {
                    Err(error) if error.message().contains(MEASURES) => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    usage => return usage,
                }
            }
        };
        let usage = tokio::time::timeout(limit, measured).await;
        let usage = usage.map_err(|_| errors::timeout(&self.address, limit))??;
        let images = usage.images.unwrap_or_default().into_iter().map(Into::into);
        Ok((images.collect(), u64::try_from(usage.layers_size).unwrap_or(0)))
    }

    /// Takes a name from its image; with the last one the image goes. Refused
    /// while a container has it.
    pub async fn remove_image(&self, name: &str) -> Result<Removed> {
        let docker = self.docker().await?;
        let question = docker.remove_image(name, None::<RemoveImageOptions>, None);
        let mut removed = Removed::default();
        for item in self.within(self.work_limit(), question).await? {
            removed.names.extend(item.untagged);
            removed.ids.extend(item.deleted);
        }
        Ok(removed)
    }

    /// Seconds since 1970 when an image last got a name on this node.
    pub async fn named_at(&self, id: &str) -> Result<Option<i64>> {
        let docker = self.docker().await?;
        let found = self.within(self.timeout, docker.inspect_image(id)).await?;
        let time = found.metadata.and_then(|metadata| metadata.last_tag_time);
        let time = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        // The engine says the year 1 for never.
        Ok(time.map(|time| time.as_second()).filter(|second| *second > 0))
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T> {
        let version = self.docker().await?.client_version();
        let (major, minor) = (version.major_version, version.minor_version.min(NEWEST));
        let path = format!("/v{major}.{minor}/{what}");
        let body = Body::get(self.address.clone(), path, self.work_limit()).await?;
        let bytes = body.whole(LARGEST).await?;
        serde_json::from_slice(&bytes).map_err(|why| errors::garbled(&self.address).because(why))
    }
}

impl From<Listed> for ListedImage {
    fn from(listed: Listed) -> Self {
        let known = |name: &String| !name.contains("<none>");
        let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
        let names = listed.repo_tags.unwrap_or_default();
        let unnamed = !names.iter().any(known);
        let digests = listed.repo_digests.unwrap_or_default();
        Self {
            id: listed.id,
            unnamed,
            names: names.iter().filter_map(|name| ImageRef::parse(name).ok()).collect(),
            digests: digests.into_iter().filter(known).collect(),
            created: listed.created,
            size: bytes(listed.size),
            shared: bytes(listed.shared_size),
        }
    }
}
