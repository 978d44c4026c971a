//! RunContainer: make sure that a container of this description runs.

mod tell;

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{
    App,
    assets::InPlace,
    events,
    gpus::{Booked, CudaChoice, waits_for},
    ports::{Chosen, Lost},
    turns::{self, Newer, Turn},
};
use crate::{
    domain::{
        Error, Kind, Result,
        container::{Container, labels},
        event::{Subject, What},
        gpu::label,
        health::HealthChoice,
        image::ImageRef,
        ports::PublishedPort,
        restart::RestartChoice,
        spec::{PullPolicy, RunRequest, RunSpec, derived_name, differing, given_key},
    },
    engine::{NewContainer, PORT_IN_USE},
    store::Record,
};

pub(super) use tell::Teller;
pub use tell::{Step, Told};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Made and started.
    Created,
    /// Replaced, for these fields.
    Replaced(Vec<String>),
    /// Started again.
    Started,
    /// Nothing.
    Unchanged,
}

/// What runs now.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was done.
    pub action: Action,
    /// Engine id.
    pub id: String,
    /// Engine name.
    pub name: String,
    /// Hash of the spec.
    pub hash: String,
    /// Ports as they really are.
    pub ports: Vec<PublishedPort>,
    /// The image that was chosen in place of the one that was asked for.
    pub cuda: Option<CudaChoice>,
}

/// What a spec needs before its container can be made.
#[derive(Debug)]
pub(super) struct Ready {
    /// Content of the image.
    pub(super) image_id: String,
    /// Files of its assets.
    pub(super) assets: InPlace,
    /// Who looks on.
    pub(super) tell: Teller,
}

impl App {
    /// Makes sure that a container of this description runs. Where it waits for GPUs, it
    /// waits no longer than its caller does.
    pub async fn run(
        self: &Arc<Self>,
        request: RunRequest,
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        self.run_and_tell(request, deadline, Teller::default()).await
    }

    async fn run_and_tell(
        self: &Arc<Self>,
        mut request: RunRequest,
        deadline: Option<Instant>,
        tell: Teller,
    ) -> Result<Outcome> {
        // What comes from here on is newer, however long the rest takes.
        let begin = |key: String, mut names: Vec<String>| {
            if names.is_empty() {
                names.push(derived_name(&key));
            }
            self.turns.begin(key, names)
        };
        let names = request.names.clone();
        let turn = given_key(&names, &request.hash).map(|key| begin(key, names));
        let cuda = self.fit_cuda(&mut request).await;
        let cuda = cuda.map_err(|error| self.with_gpus_of_node(error))?;
        let spec = RunSpec::resolve(request, &self.defaults());
        let spec = spec.map_err(|error| self.with_gpus_of_node(error))?;
        let turn = turn.unwrap_or_else(|| begin(spec.key(), Vec::new()));
        if let Some(outcome) = self.already_runs(&spec) {
            self.turns.overtake(&spec.key(), turn.number, Newer::Run);
            return Ok(Outcome { cuda, ..outcome });
        }
        let queues = spec.gpus.as_ref().is_some_and(|wish| wish.queue.is_some());
        let (mut ticket, mut booked, turn) = (None, None, Arc::new(turn));
        loop {
            let (app, spec_of, tell_of) = (self.clone(), spec.clone(), tell.clone());
            let has: Option<Booked> = booked.take();
            let turn_of = turn.clone();
            // A caller that leaves must not leave the work half done.
            let run = Box::pin(async move {
                // What its turn gave it is its own until the container has it.
                let done = app.run_in_turn(&spec_of, tell_of, &turn_of).await;
                drop(has);
                done
            });
            let refused = match self.tasks.to_the_end(run).await {
                Err(error) if queues && waits_for(&error) => error,
                done => {
                    let outcome = Outcome { cuda, ..done? };
                    self.tell_cuda(&outcome).await;
                    return Ok(outcome);
                }
            };
            let ticket = match &mut ticket {
                Some(ticket) => ticket,
                none => none.insert(self.join_gpu_queue(&spec, deadline)?),
            };
            booked = self.wait_for_gpus(&spec, ticket, &turn, &tell, refused).await?;
            if let Some(newer) = turn.overtaken() {
                let outcome = self.leave_gpu_queue(&spec, newer).await?;
                return Ok(Outcome { cuda, ..outcome });
            }
        }
    }

    /// The quick answer from memory: it runs, and nothing differs.
    pub(super) fn already_runs(&self, spec: &RunSpec) -> Option<Outcome> {
        let refresh = spec.assets.iter().any(|asset| asset.given.refresh);
        if refresh || spec.pull_policy == PullPolicy::Always || !self.view.freshness().synced {
            return None;
        }
        let image_id = self.images.known(&spec.image)?;
        let hash = spec.spec_hash();
        let found = self.view.named(&spec.engine_name()).into_iter().next()?;
        let same = self.is_ours(&found)
            && found.spec_hash() == hash
            && found.image_id == image_id
            && found.name() == spec.engine_name()
            && found.is_running()
            && self.assets.are_there(&found, spec)
            && self.store.is_recorded(&spec.key(), &found.id)
            // Whoever works on it may be about to change all that.
            && !self.locks.is_held(found.key());
        same.then(|| outcome(Action::Unchanged, spec, &found))
    }

    async fn run_in_turn(
        self: &Arc<Self>,
        spec: &RunSpec,
        tell: Teller,
        turn: &Turn,
    ) -> Result<Outcome> {
        self.view.require_synced()?;
        self.require_gpus(spec).await?;
        let mut last = false;
        let outcome = loop {
            // Before the name is locked: a stop must not wait for a long download.
            let fetching = async {
                let claim = self.ensure_image(spec, &tell).await?;
                Ok((Some(claim), self.ensure_assets(spec, &tell).await?))
            };
            let (_claim, assets) = tokio::select! {
                fetched = Box::pin(fetching) => fetched?,
                // They will not be needed.
                () = turn.lost() => (None, InPlace::default()),
            };
            let mut names: Vec<String> =
                spec.names.iter().map(|name| format!("name:{name}")).collect();
            names.push(spec.key());
            let _guards = self.locks.take(names).await;
            self.view.require_synced()?;
            self.recover_key(&spec.key()).await?;
            if let Some(newer) = turn.overtaken() {
                return self.give_way(spec, newer).await;
            }
            match Box::pin(self.run_alone(spec, assets, tell.clone())).await {
                Err(error) if error.reason() == "IMAGE_GONE" && !last => last = true,
                done => break done?,
            }
        };
        self.turns.overtake(&spec.key(), turn.number, Newer::Run);
        Ok(outcome)
    }

    /// Leaves what a newer request did as it is, which may be just what was wanted.
    pub(super) async fn give_way(&self, spec: &RunSpec, newer: Newer) -> Result<Outcome> {
        let name = spec.engine_name();
        // What a newer run of the same began may have ended by now, as it would have for us.
        let same = self.refresh_named(&name).await?.filter(|have| {
            let began = have.is_running() || newer == Newer::Run;
            self.is_ours(have) && began && have.spec_hash() == spec.spec_hash()
        });
        let same = same.filter(|have| self.store.is_recorded(&spec.key(), &have.id));
        let same = same.map(|have| outcome(Action::Unchanged, spec, &have));
        same.ok_or_else(|| turns::overtaken(&name, newer))
    }

    /// Does it, with the locks of its names held.
    async fn run_alone(
        self: &Arc<Self>,
        spec: &RunSpec,
        assets: InPlace,
        tell: Teller,
    ) -> Result<Outcome> {
        let name = spec.engine_name();
        let existing = self.refresh_named(&name).await?;
        self.refuse_taken_names(spec, existing.as_ref()).await?;
        let now = self.image_now(spec).await?;
        let (image_id, _claim) = now.ok_or_else(|| image_gone(&spec.image))?;
        let ready = Ready { image_id, assets, tell };

        let Some(existing) = existing else {
            return self.create_new(spec, &ready).await;
        };
        let differences = self.differences(&existing, spec, &ready).await?;
        if !differences.is_empty() {
            return self.replace(spec, &ready, &existing, differences, Lost::default()).await;
        }
        if existing.is_running() {
            if !self.store.is_recorded(&spec.key(), &existing.id) {
                return self.finish_unrecorded(spec, &existing).await;
            }
            return Ok(outcome(Action::Unchanged, spec, &existing));
        }
        ready.tell.tell(Step::Starting);
        let Some(_booked) = self.book_again(spec, &existing).await? else {
            // Others have its GPUs now: only a new container can have others.
            let fields = vec!["gpus".to_owned()];
            return self.replace(spec, &ready, &existing, fields, Lost::default()).await;
        };
        match self.engine.start(&existing.id).await {
            Ok(()) => {
                let ports = asked_ports(spec, &existing);
                let (action, what) = match self.store.is_recorded(&spec.key(), &existing.id) {
                    true => (Action::Started, What::Started),
                    // A crash came before its first start: whoever asked was not told.
                    false => (Action::Created, self.untold(spec).await?),
                };
                self.finish(spec, &existing.id, &ports, action, what).await
            }
            // A chosen port was taken while it did not run: only a new
            // container can have another.
            Err(error) if error.reason() == PORT_IN_USE => {
                let (had, mut lost) = (asked_ports(spec, &existing), Lost::default());
                self.try_again(spec, &error, &had, &mut lost, &existing.id)?;
                self.replace(spec, &ready, &existing, vec!["ports".to_owned()], lost).await
            }
            Err(error) => Err(does_not_start(&name, &error)),
        }
    }

    async fn refresh_named(&self, name: &str) -> Result<Option<Container>> {
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
    async fn refuse_taken_names(&self, spec: &RunSpec, existing: Option<&Container>) -> Result<()> {
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

    async fn differences(
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

    async fn create_new(self: &Arc<Self>, spec: &RunSpec, ready: &Ready) -> Result<Outcome> {
        let name = spec.engine_name();
        let mut lost = Lost::default();
        let booked = self.book_gpus(spec, None).await?;
        loop {
            let chosen = self.choose_ports(&spec.ports, None, &lost)?;
            let id = self.create(spec, &name, ready, &chosen, &booked).await?;
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

    pub(super) async fn create(
        &self,
        spec: &RunSpec,
        name: &str,
        ready: &Ready,
        chosen: &Chosen<'_>,
        booked: &Booked,
    ) -> Result<String> {
        ready.tell.tell(Step::Creating);
        let network = self.settings.network.as_str();
        self.engine.ensure_network(network, &self.settings.node_id).await?;
        self.join_network().await;
        let keeps = self.ensure_keeps(spec).await?;
        self.engine
            .create(NewContainer {
                name,
                spec,
                image_id: &ready.image_id,
                host_ports: &chosen.host_ports,
                labels: self.labels(spec, booked),
                network,
                log_files: self.settings.log_files,
                keeps,
                assets: ready.assets.sources(),
                gpus: &booked.gpus,
                gpu_access: booked.access,
                mps: booked.mps.as_deref(),
            })
            .await
    }

    fn labels(&self, spec: &RunSpec, booked: &Booked) -> HashMap<String, String> {
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
        ];
        let some = some.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let ours = ours.into_iter().chain(some).map(|(key, value)| (key.to_owned(), value));
        labels::sealed(spec.labels.clone().into_iter().chain(ours).collect())
    }

    /// A crash came between the start of this container and its record: what was not
    /// told then is told now.
    async fn finish_unrecorded(&self, spec: &RunSpec, existing: &Container) -> Result<Outcome> {
        let (what, ports) = (self.untold(spec).await?, asked_ports(spec, existing));
        self.finish(spec, &existing.id, &ports, Action::Unchanged, what).await
    }

    /// What made a container that has no record.
    async fn untold(&self, spec: &RunSpec) -> Result<What> {
        Ok(match self.store.find_record(&spec.key()).await? {
            Some(before) => What::Replaced {
                fields: differing(&before.spec, &spec.canonical()),
                predecessor: before.container_id,
            },
            None => What::Created,
        })
    }

    pub(super) async fn discard(&self, id: &str) {
        match self.engine.remove(id).await {
            Ok(()) => self.view.remove(id),
            Err(error) => tracing::warn!(?error, id, "a container that failed is left behind"),
        }
    }

    /// Records what runs now and takes it into the view.
    pub(super) async fn finish(
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
        let record = Record {
            key: spec.key(),
            name: spec.engine_name(),
            container_id: id.to_owned(),
            spec_hash: spec.spec_hash(),
            spec: spec.canonical(),
            host_ports: host_ports.to_vec(),
            wanted: true,
        };
        let event = events::now(Subject::container(&container), what);
        tracing::info!(name = container.name(), id, event = event.message(), "run");
        // The record comes last: without it, the next run does all of this again.
        self.used_keeps(spec).await?;
        self.used_assets(spec).await?;
        self.put_record(record, event).await?;
        Ok(outcome(action, spec, &container))
    }
}

fn image_gone(image: &ImageRef) -> Error {
    let why = format!(
        "the image \"{image}\" was removed from the node while this run was under way; run again"
    );
    Error::new(Kind::Aborted, "IMAGE_GONE", why)
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

pub(super) fn does_not_start(name: &str, error: &Error) -> Error {
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

/// The host ports that an existing container has, in the spec's order.
fn asked_ports(spec: &RunSpec, existing: &Container) -> Vec<u16> {
    let host = |internal, protocol| {
        existing.ports.iter().find(|have| have.internal == internal && have.protocol == protocol)
    };
    spec.ports
        .iter()
        .map(|port| host(port.internal, port.protocol).map_or(port.host, |have| have.host))
        .collect()
}

/// Ports in the order of the request, with what the caller set and no more.
fn outcome(action: Action, spec: &RunSpec, container: &Container) -> Outcome {
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
