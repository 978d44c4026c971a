//! RunContainer: make sure that a container of this description runs.

mod create;
mod existing;
mod finish;
mod tell;

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    App,
    assets::InPlace,
    gpus::{Booked, CudaChoice, waits_for},
    ports::Lost,
    turns::{self, Newer, Turn},
};
use crate::{
    domain::{
        Error, Kind, Result,
        event::What,
        image::ImageRef,
        ports::PublishedPort,
        spec::{PullPolicy, RunRequest, RunSpec, derived_name, given_key},
    },
    engine::PORT_IN_USE,
};

pub(super) use create::does_not_start;
use finish::{asked_ports, outcome};
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
}

fn image_gone(image: &ImageRef) -> Error {
    let why = format!(
        "the image \"{image}\" was removed from the node while this run was under way; run again"
    );
    Error::new(Kind::Aborted, "IMAGE_GONE", why)
}
