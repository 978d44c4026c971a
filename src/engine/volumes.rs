//! Volumes: the engine's places for data that outlive a container.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    models::{Volume as Described, VolumeCreateRequest},
    query_parameters::{ListVolumesOptions, RemoveVolumeOptions},
};
use jiff::Timestamp;
use serde::Deserialize;

use super::{Engine, body::Body, errors};
use crate::domain::{Kind, Result};

/// Longest account of what is used where.
const LARGEST_USAGE: usize = 16 << 20;

/// One volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

impl Engine {
    /// Makes a volume, or answers with the one that has the name.
    pub async fn ensure_volume(
        &self,
        name: &str,
        labels: HashMap<String, String>,
    ) -> Result<Volume> {
        let docker = self.docker().await?;
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..Default::default()
        };
        self.within(self.timeout, docker.create_volume(request)).await.map(volume)
    }

    /// One volume; `None` when there is none of that name.
    pub async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let docker = self.docker().await?;
        match self.within(self.timeout, docker.inspect_volume(name)).await {
            Ok(found) => Ok(Some(volume(found))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All volumes with a label, `key=value`.
    pub async fn volumes(&self, label: &str) -> Result<Vec<Volume>> {
        let docker = self.docker().await?;
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListVolumesOptions { filters: Some(filters) };
        let listed = self.within(self.timeout, docker.list_volumes(Some(options))).await?;
        Ok(listed.volumes.unwrap_or_default().into_iter().map(volume).collect())
    }

    /// Removes a volume; FAILED_PRECONDITION or ALREADY_EXISTS while a container has
    /// it, running or not.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        let question = docker.remove_volume(name, None::<RemoveVolumeOptions>);
        self.within(self.timeout, question).await
    }

    /// Bytes that each volume takes. The engine walks all their files for it.
    ///
    /// Not by bollard, which knows only the answer of the newest engines.
    pub async fn volume_sizes(&self) -> Result<HashMap<String, u64>> {
        let version = self.docker().await?.client_version();
        let (major, minor) = (version.major_version, version.minor_version);
        let path = format!("/v{major}.{minor}/system/df?type=volume");
        let body = Body::get(self.address.clone(), path, self.work_limit()).await?;
        let usage = body.whole(LARGEST_USAGE).await?;
        let usage: Usage = serde_json::from_slice(&usage)
            .map_err(|error| errors::garbled(&self.address).because(error))?;
        let sizes = usage.volumes.unwrap_or_default().into_iter().filter_map(|volume| {
            // It says -1 where it does not know.
            Some((volume.name, u64::try_from(volume.usage_data?.size).ok()?))
        });
        Ok(sizes.collect())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    volumes: Option<Vec<Used>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Used {
    name: String,
    usage_data: Option<Sized>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sized {
    size: i64,
}

fn volume(described: Described) -> Volume {
    Volume {
        name: described.name,
        labels: described.labels.into_iter().collect(),
        created_at: described.created_at.and_then(|at| at.parse().ok()),
    }
}
