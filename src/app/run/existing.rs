//! What is there already under the names of a run, and how it differs from what is asked.

use super::Ready;
use crate::{
    app::App,
    domain::{
        Error, Kind, Result,
        container::Container,
        spec::{RunSpec, differing},
    },
};

impl App {
    pub(super) async fn refresh_named(&self, name: &str) -> Result<Option<Container>> {
        let ticket = self.view.ticket();
        let found = self.engine.inspect(name).await?;
        // The engine also finds by id; only a name counts here.
        let found = found.filter(|container| container.name() == name);
        if let Some(container) = &found {
            self.view.put(container.clone(), ticket);
        }
        Ok(found)
    }

    /// A container that we did not make is never touched, and no alias may
    /// mean two containers.
    pub(super) async fn refuse_taken_names(
        &self,
        spec: &RunSpec,
        existing: Option<&Container>,
    ) -> Result<()> {
        if let Some(existing) = existing
            && (!self.is_ours(existing) || existing.key() != spec.key())
        {
            return Err(name_taken(existing.name(), existing));
        }
        let own = existing.map_or("", |container| container.id.as_str());
        for name in &spec.names {
            for other in self.view.named(name).iter().filter(|other| other.id != own) {
                // It may have gone a moment ago, before its event came.
                let there = self.refresh(&other.id).await?;
                if let Some(other) = there.filter(|other| other.names.contains(name)) {
                    return Err(name_taken(name, &other));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn differences(
        &self,
        existing: &Container,
        spec: &RunSpec,
        ready: &Ready,
    ) -> Result<Vec<String>> {
        let mut fields = Vec::new();
        if existing.spec_hash() != spec.spec_hash() {
            let records = self.store.records().await?;
            let record = records.iter().find(|record| record.key == spec.key());
            fields = match record {
                Some(record) => differing(&record.spec, &spec.canonical()),
                None => vec!["hash".to_owned()],
            };
            if fields.is_empty() {
                fields.push("hash".to_owned());
            }
        }
        let other_assets = self.assets.differ(existing, spec, &ready.assets);
        if other_assets && !fields.contains(&"assets".to_owned()) {
            fields.push("assets".to_owned());
        }
        if existing.image_id != ready.image_id && !fields.contains(&"image".to_owned()) {
            fields.push("imageId".to_owned());
        }
        Ok(fields)
    }
}

fn name_taken(name: &str, holder: &Container) -> Error {
    Error::new(
        Kind::AlreadyExists,
        "NAME_TAKEN",
        format!(
            "the name \"{name}\" belongs to container {} (\"{}\"), which is not this one; take another name, or remove that container",
            holder.id.get(..12).unwrap_or(&holder.id),
            holder.name()
        ),
    )
    .with("name", name)
    .with("containerId", &holder.id)
}
