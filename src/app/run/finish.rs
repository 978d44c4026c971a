//! Records what a run did, and answers what runs now.

use super::{Action, Outcome};
use crate::{
    app::{App, events},
    domain::{
        Error, Result,
        container::Container,
        event::{Subject, What},
        ports::PublishedPort,
        spec::{Canonical, RunSpec, differing},
    },
    store::Record,
};

impl App {
    /// Records what runs now and takes it into the view.
    pub(in crate::app) async fn finish(
        &self,
        spec: &RunSpec,
        id: &str,
        host_ports: &[u16],
        action: Action,
        what: What,
    ) -> Result<Outcome> {
        let container = self.refresh(id).await?.ok_or_else(|| {
            Error::precondition(
                "CONTAINER_VANISHED",
                format!(
                    "container \"{}\" was removed by somebody else as it started",
                    spec.engine_name()
                ),
            )
        })?;
        let record = recorded(spec, id, host_ports);
        let event = events::now(Subject::container(&container), what);
        tracing::info!(name = container.name(), id, event = event.message(), "run");
        // The record comes last: without it, the next run does all of this again.
        self.used_keeps(&container).await?;
        self.used_assets(spec).await?;
        self.put_record(record, event).await?;
        self.restarts.run_is_told(id, container.started_at);
        Ok(outcome(action, spec, &container))
    }

    /// Takes over a container of ours whose run was cut short between its start and its
    /// record, and answers that record. The lock of its key must be held.
    pub(in crate::app) async fn adopt(&self, container: &Container) -> Result<Option<Record>> {
        let (key, id) = (container.key(), &container.id);
        let started = container.started_at.is_some() && !container.is_left_over();
        if !started || self.store.is_recorded(key, id) {
            return Ok(None);
        }
        let Some(record) = self.store.find_intent(key, id).await? else { return Ok(None) };
        let what = self.made(key, &record.spec).await?;
        tracing::info!(name = container.name(), id, "taken over after its run was cut short");
        self.used_keeps(container).await?;
        self.used_contents(container).await?;
        self.put_record(record.clone(), events::now(Subject::container(container), what)).await?;
        self.restarts.run_is_told(id, container.started_at);
        self.view.touch(id);
        Ok(Some(record))
    }

    /// A crash came between the start of this container and its record: what was not
    /// told then is told now.
    pub(super) async fn finish_unrecorded(
        &self,
        spec: &RunSpec,
        existing: &Container,
    ) -> Result<Outcome> {
        let (what, ports) = (self.untold(spec).await?, asked_ports(spec, existing));
        self.finish(spec, &existing.id, &ports, Action::Unchanged, what).await
    }

    /// What made a container that has no record.
    pub(super) async fn untold(&self, spec: &RunSpec) -> Result<What> {
        self.made(&spec.key(), &spec.canonical()).await
    }

    async fn made(&self, key: &str, spec: &Canonical) -> Result<What> {
        Ok(match self.store.find_record(key).await? {
            Some(before) => What::Replaced {
                fields: differing(&before.spec, spec),
                predecessor: before.container_id,
            },
            None => What::Created,
        })
    }
}

/// The record of a container that runs for a spec.
pub(super) fn recorded(spec: &RunSpec, id: &str, host_ports: &[u16]) -> Record {
    Record {
        key: spec.key(),
        name: spec.engine_name(),
        container_id: id.to_owned(),
        spec_hash: spec.spec_hash(),
        spec: spec.canonical(),
        host_ports: host_ports.to_vec(),
        wanted: true,
    }
}

/// The host ports that an existing container has, in the spec's order.
pub(super) fn asked_ports(spec: &RunSpec, existing: &Container) -> Vec<u16> {
    let host = |internal, protocol| {
        existing.ports.iter().find(|have| have.internal == internal && have.protocol == protocol)
    };
    spec.ports
        .iter()
        .map(|port| host(port.internal, port.protocol).map_or(port.host, |have| have.host))
        .collect()
}

/// Ports in the order of the request, with what the caller set and no more.
pub(super) fn outcome(action: Action, spec: &RunSpec, container: &Container) -> Outcome {
    let mut ports: Vec<PublishedPort> = Vec::new();
    for port in &spec.ports {
        let real = container.ports.iter().find(|have| {
            have.internal == port.internal
                && have.protocol == port.protocol
                && (port.host == 0 || have.host == port.host)
        });
        ports.push(PublishedPort {
            internal: port.internal,
            host: real.map_or(port.host, |real| real.host),
            protocol: port.protocol,
            address: port.address_set.then_some(port.address),
            protocol_set: port.protocol_set,
        });
    }
    Outcome {
        action,
        id: container.id.clone(),
        name: container.name().to_owned(),
        hash: spec.spec_hash(),
        ports,
        cuda: None,
    }
}
