//! Makes the container of a run and starts it; what does not start is not left behind.

use std::{collections::HashMap, sync::Arc};

use super::{Action, Outcome, Ready, Step, finish::recorded};
use crate::{
    app::{
        App,
        gpus::Booked,
        ports::{Chosen, Lost},
    },
    domain::{
        Error, Kind, Result,
        container::{Container, labels},
        event::What,
        gpu::label,
        health::HealthChoice,
        restart::RestartChoice,
        spec::RunSpec,
    },
    engine::NewContainer,
};

impl App {
    pub(super) async fn create_new(
        self: &Arc<Self>,
        spec: &RunSpec,
        ready: &Ready,
    ) -> Result<Outcome> {
        let name = spec.engine_name();
        let mut lost = Lost::default();
        let booked = self.book_gpus(spec, None).await?;
        loop {
            let chosen = self.choose_ports(&spec.ports, None, &lost)?;
            let id = self.create(spec, &name, None, ready, &chosen, &booked).await?;
            ready.tell.tell(Step::Starting);
            match self.engine.start(&id).await {
                Ok(()) => {
                    return self
                        .finish(spec, &id, &chosen.host_ports, Action::Created, What::Created)
                        .await;
                }
                Err(error) => {
                    // What we could not start we do not leave behind.
                    self.discard(&id).await;
                    self.try_again(spec, &error, &chosen.host_ports, &mut lost, &id)?;
                }
            }
        }
    }

    pub(in crate::app) async fn create(
        &self,
        spec: &RunSpec,
        name: &str,
        predecessor: Option<&Container>,
        ready: &Ready,
        chosen: &Chosen<'_>,
        booked: &Booked,
    ) -> Result<String> {
        ready.tell.tell(Step::Creating);
        let network = self.settings.network.as_str();
        self.engine.ensure_network(network, &self.settings.node_id).await?;
        self.join_network().await;
        let keeps = self.ensure_keeps(spec).await?;
        let id = self
            .engine
            .create(NewContainer {
                name,
                spec,
                image_id: &ready.image_id,
                host_ports: &chosen.host_ports,
                labels: self.labels(spec, predecessor, booked),
                network,
                log_files: self.settings.log_files,
                keeps,
                assets: ready.assets.sources(),
                gpus: &booked.gpus,
                gpu_access: booked.access,
                mps: booked.mps.as_deref(),
            })
            .await?;
        // Before it starts: a crash must not leave one running of which nothing is known.
        let record = recorded(spec, &id, &chosen.host_ports);
        if let Err(error) = self.store.intend(record).await {
            self.discard(&id).await;
            return Err(error);
        }
        Ok(id)
    }

    fn labels(
        &self,
        spec: &RunSpec,
        predecessor: Option<&Container>,
        booked: &Booked,
    ) -> HashMap<String, String> {
        let hash = spec.spec_hash();
        let ours = [
            (labels::NODE, self.settings.node_id.clone()),
            (labels::KEY, spec.key()),
            (labels::HASH, spec.hash.clone().unwrap_or_else(|| hash.clone())),
            (labels::SPEC_HASH, hash),
            (labels::ALIASES, spec.names.get(1..).unwrap_or_default().join(",")),
            (labels::IMAGE, spec.image.familiar()),
        ];
        let given: Vec<_> = spec.assets.iter().map(|asset| asset.given.as_shown()).collect();
        let assets = serde_json::to_string(&given).ok().filter(|_| !given.is_empty());
        let gpus = (!booked.gpus.is_empty()).then(|| label::write(&booked.gpus));
        let on_overrun = spec.gpus.as_ref().and_then(|wish| wish.on_overrun);
        // What is at its default is left out, so that a setting can decide it later.
        let health = match &spec.health {
            HealthChoice::Check(check) => serde_json::to_string(check).ok(),
            HealthChoice::Image | HealthChoice::Off => None,
        };
        let restart = (spec.restart != RestartChoice::default())
            .then(|| serde_json::to_string(&spec.restart).ok());
        let some = [
            (labels::ASSETS, assets),
            (labels::GPUS, gpus),
            (labels::GPU_OVERRUN, on_overrun.map(|action| action.word().to_owned())),
            (labels::HEALTH, health),
            (labels::RESTART, restart.flatten()),
            (labels::PREDECESSOR_RAN, predecessor.map(|it| it.is_running().to_string())),
        ];
        let some = some.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let ours = ours.into_iter().chain(some).map(|(key, value)| (key.to_owned(), value));
        labels::sealed(spec.labels.clone().into_iter().chain(ours).collect())
    }

    pub(in crate::app) async fn discard(&self, id: &str) {
        match self.engine.remove(id).await {
            Ok(()) => self.view.remove(id),
            Err(error) => tracing::warn!(?error, id, "a container that failed is left behind"),
        }
    }
}

pub(in crate::app) fn does_not_start(name: &str, error: &Error) -> Error {
    if error.kind() == Kind::Unavailable {
        return error.clone();
    }
    let why = error.message();
    Error::precondition(
        "DOES_NOT_START",
        format!("container \"{name}\" does not start: {why}; check its image and command"),
    )
    .with("name", name)
}
