//! Bookings of GPUs. The label of a container says what it has; what runs has it. So
//! a booking outlives the service, and ends with its container, by itself. Reserved
//! here is only what a run in progress is about to have.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::watch;

use super::super::App;
use crate::{
    domain::{
        Error, Kind, Result,
        container::{Container, State as Life},
        gpu::{
            Booking, Inventory, Wish, label,
            line::Line,
            placement::{Promise, Refusal, place_in_turn, units_of},
            request::{MPS_PIPES, Which},
        },
        spec::RunSpec,
    },
    engine::GpuAccess,
};

/// MPS is not there that a container was made to be kept by.
const NO_MPS: &str = "NO_MPS";
/// There is no GPU, or the driver does not answer.
const NO_GPU: &str = "NO_GPU";

/// What runs in progress are about to have, and who waits. One lock for both, so that
/// between a choice and its reservation nobody else chooses.
#[derive(Debug, Clone, Default)]
pub(in crate::app) struct Reserved(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when a reservation ends or somebody leaves the line.
    news: watch::Sender<()>,
    /// The control daemon of MPS was there at the last look.
    mps: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    last: u64,
    /// Each under the number of its run.
    bookings: Vec<(u64, Booking)>,
    pub(super) line: Line,
}

/// The GPUs of one run; its reservations end when it is dropped, and the container
/// has them then, if it runs.
#[derive(Debug)]
pub(in crate::app) struct Booked {
    reserved: Reserved,
    number: u64,
    /// What the container gets; empty for one without GPUs.
    pub(in crate::app) gpus: Vec<Booking>,
    /// How the engine gives it.
    pub(in crate::app) access: GpuAccess,
    /// Directory by which it reaches MPS, where that keeps it within.
    pub(in crate::app) mps: Option<String>,
}

impl Drop for Booked {
    fn drop(&mut self) {
        self.reserved.lock().bookings.retain(|(number, _)| *number != self.number);
        self.reserved.tell();
    }
}

impl Reserved {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who waits for GPUs.
    pub(super) fn tell(&self) {
        self.0.news.send_replace(());
    }

    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }
}

impl State {
    fn push<'a>(&mut self, bookings: impl Iterator<Item = &'a Booking>) -> u64 {
        self.last += 1;
        let number = self.last;
        self.bookings.extend(bookings.map(|booking| (number, booking.clone())));
        number
    }

    /// Units that are reserved for this name, as its turn has come.
    fn own(&self, name: &str) -> Vec<String> {
        let own = self.bookings.iter().filter(|(_, one)| own(&one.holder) == name);
        own.map(|(_, one)| one.device.clone()).collect()
    }

    /// What those may have that wait, but for what this name has already.
    fn promised(&self, name: &str, own: &[String], node: &Inventory) -> Vec<Promise> {
        let mut promised = self.line.before(None, name, node, Instant::now());
        promised.retain(|promise| !own.contains(&promise.device));
        promised
    }
}

/// True when a run that waits for its turn may fit later: others have the GPUs or wait for
/// them, or they are lost or drained.
pub(in crate::app) fn waits_for(refusal: &Error) -> bool {
    matches!(refusal.reason(), "GPUS_TAKEN" | "GPUS_UNUSABLE")
}

/// The same for one that waits already: a driver that is away for a while ends no wait.
pub(super) fn goes_on_waiting(refusal: &Error) -> bool {
    waits_for(refusal) || refusal.reason() == NO_GPU
}

impl App {
    /// What containers of ours have of GPUs, or are about to have.
    pub fn gpu_bookings(&self) -> Vec<Booking> {
        self.all_gpus(&self.gpus_reserved.lock())
    }

    fn held_gpus(&self) -> Vec<Booking> {
        let all = self.view.all();
        let holding = all.iter().filter(|it| self.is_ours(it) && holds(it));
        holding.flat_map(|it| label::read(it)).collect()
    }

    /// Says what the node has beside a wish for GPUs that makes no sense.
    pub(in crate::app) fn with_gpus_of_node(&self, error: Error) -> Error {
        if !error.violations().iter().any(|wrong| wrong.field == "gpus.exclusive") {
            return error;
        }
        error.and(&format!("the node has {}", units_of(&self.gpus.last())))
    }

    /// FAILED_PRECONDITION when GPUs are asked for where none can be given; what is
    /// missing and how to get it is in the message. Nothing is touched before it.
    pub(in crate::app) async fn require_gpus(&self, spec: &RunSpec) -> Result<()> {
        match &spec.gpus {
            Some(_) => self.gpu_access().await.map(drop),
            None => Ok(()),
        }
    }

    async fn usable_gpus(&self) -> Result<Arc<Inventory>> {
        let node = self.gpus.look().await;
        match &node.missing {
            None => Ok(node),
            Some(why) => {
                let message = format!("there is no GPU on this node: {why}");
                Err(Error::precondition(NO_GPU, message))
            }
        }
    }

    async fn gpu_access(&self) -> Result<GpuAccess> {
        self.usable_gpus().await?;
        self.engine.gpu_access().await?.ok_or_else(|| {
            Error::precondition(
                "NO_GPU_RUNTIME",
                "the Docker engine cannot give GPUs to containers, as it has no runtime \
                 \"nvidia\"; install the NVIDIA Container Toolkit, run `nvidia-ctk runtime \
                 configure --runtime=docker`, and restart the engine",
            )
        })
    }

    /// The directory of MPS, while its control daemon is there.
    pub(super) async fn mps(&self) -> Option<String> {
        let directory = &self.settings.gpus.mps_directory;
        let there = tokio::fs::try_exists(directory.join("control")).await.unwrap_or(false);
        self.gpus_reserved.0.mps.store(there, Ordering::Relaxed);
        there.then(|| directory.display().to_string())
    }

    /// Whether MPS keeps a container within its shares, as of the last look at its daemon.
    /// Without that, what its programs get is no less than a GPU.
    pub fn is_kept_by_mps(&self, container: &Container) -> bool {
        let directory = &self.settings.gpus.mps_directory;
        let there = self.gpus_reserved.0.mps.load(Ordering::Relaxed);
        there && container.envs.get(MPS_PIPES).is_some_and(|own| Path::new(own) == directory)
    }

    /// What a container was made to be kept within must be there when it starts: its
    /// programs would run all the same, and take what they want.
    async fn require_mps(&self, existing: &Container, had: &[Booking]) -> Result<()> {
        if !had.iter().any(|one| one.is_share() && one.enforced) {
            return Ok(());
        }
        let now = self.mps().await;
        let made_for = existing.envs.get(MPS_PIPES).map_or("", String::as_str);
        if now.as_deref() == Some(made_for) {
            return Ok(());
        }
        Err(Error::precondition(
            NO_MPS,
            format!(
                "NVIDIA's MPS keeps it within its share of a GPU, and its control daemon is not \
                 at {made_for}; start it there, or run the container again without it"
            ),
        ))
    }

    /// Chooses and reserves the GPUs of a new container. A predecessor that runs keeps
    /// its own until its successor runs, and hands down what fits.
    pub(in crate::app) async fn book_gpus(
        &self,
        spec: &RunSpec,
        predecessor: Option<&Container>,
    ) -> Result<Booked> {
        let had = predecessor.map(label::read).unwrap_or_default();
        // One that does not run has nothing any more; others may have it by now.
        let keeps = if predecessor.is_some_and(holds) { had.as_slice() } else { &[] };
        let Some(wish) = &spec.gpus else {
            return Ok(self.keep(keeps));
        };
        let access = self.gpu_access().await?;
        let mps = self.mps().await;
        let node = self.gpus.look().await;
        let name = spec.engine_name();
        let mut reserved = self.gpus_reserved.lock();
        let others = self.others(&reserved, &name);
        let devices =
            |all: &[Booking]| all.iter().map(|one| one.device.clone()).collect::<Vec<_>>();
        let mut before = [reserved.own(&name), devices(keeps)].concat();
        let promised = reserved.promised(&name, &before, &node);
        before.extend(devices(&had));
        let mut gpus =
            place_in_turn(wish, &name, &node, &others, &before, &promised).map_err(refused)?;
        for share in gpus.iter_mut().filter(|one| one.is_share()) {
            share.enforced = mps.is_some();
        }
        let number = reserved.push(gpus.iter().chain(keeps));
        drop(reserved);
        Ok(Booked { reserved: self.gpus_reserved.clone(), number, gpus, access, mps })
    }

    /// Reserves GPUs for a run that waits for its turn, if that has come.
    /// The engine is not asked; it was before, and is when the container is made.
    pub(super) async fn book_in_turn(&self, spec: &RunSpec, number: u64) -> Result<Booked> {
        let access = GpuAccess::default();
        let node = self.usable_gpus().await?;
        let (name, wish) = (spec.engine_name(), spec.gpus.as_ref());
        let wish = wish.ok_or_else(|| Error::internal("a run without GPUs waits for some"))?;
        let mut reserved = self.gpus_reserved.lock();
        let others = self.others(&reserved, &name);
        let promised = reserved.line.before(Some(number), &name, &node, Instant::now());
        let gpus = place_in_turn(wish, &name, &node, &others, &[], &promised).map_err(refused)?;
        reserved.line.serve(number, true);
        let number = reserved.push(gpus.iter());
        drop(reserved);
        Ok(Booked { reserved: self.gpus_reserved.clone(), number, gpus, access, mps: None })
    }

    /// Reserves what a stopped container had. `None` when it cannot have that now, as
    /// others have it, or as MPS is gone that kept it within its share.
    pub(in crate::app) async fn book_again(
        &self,
        spec: &RunSpec,
        existing: &Container,
    ) -> Result<Option<Booked>> {
        let had = label::read(existing);
        let Some(wish) = spec.gpus.as_ref().filter(|_| !had.is_empty()) else {
            return Ok(Some(self.keep(&[])));
        };
        if self.require_mps(existing, &had).await.is_err() {
            return Ok(None);
        }
        Ok(self.book_same(&spec.engine_name(), &had, wish, true).await.ok())
    }

    /// The same for a restart, which knows only what the container has; an error says why
    /// it cannot have that.
    pub(in crate::app) async fn book_as_before(&self, existing: &Container) -> Result<Booked> {
        let had = label::read(existing);
        let Some(first) = had.first() else { return Ok(self.keep(&[])) };
        self.require_mps(existing, &had).await?;
        let wish = Wish {
            which: Which::All,
            memory_mb: first.memory_mb,
            compute: first.compute,
            exclusive: first.exclusive,
            profile: String::new(),
            spread: false,
            queue: None,
            on_overrun: None,
        };
        self.book_same(existing.plain_name(), &had, &wish, false).await
    }

    async fn book_same(
        &self,
        name: &str,
        had: &[Booking],
        wish: &Wish,
        in_turn: bool,
    ) -> Result<Booked> {
        let node = self.gpus.look().await;
        let ids = had.iter().map(|booking| booking.device.clone()).collect();
        let same = Wish { which: Which::Ids(ids), ..wish.clone() };
        let mut reserved = self.gpus_reserved.lock();
        let others = self.others(&reserved, name);
        let promised = match in_turn {
            true => reserved.promised(name, &reserved.own(name), &node),
            false => Vec::new(),
        };
        let gpus = place_in_turn(&same, name, &node, &others, &[], &promised).map_err(refused)?;
        let number = reserved.push(gpus.iter());
        drop(reserved);
        let access = GpuAccess::default();
        Ok(Booked { reserved: self.gpus_reserved.clone(), number, gpus, access, mps: None })
    }

    /// What everybody else has; the names of a run are locked, so its own is known.
    fn others(&self, reserved: &State, name: &str) -> Vec<Booking> {
        let mut all = self.all_gpus(reserved);
        all.retain(|booking| own(&booking.holder) != name);
        all
    }

    fn all_gpus(&self, reserved: &State) -> Vec<Booking> {
        let mut all = self.held_gpus();
        for (_, booking) in &reserved.bookings {
            let same = |have: &&mut Booking| {
                (own(&have.holder), &have.device) == (own(&booking.holder), &booking.device)
            };
            // One that has just begun to run is in both; a successor may have booked more.
            match all.iter_mut().find(same) {
                Some(have) => {
                    have.memory_mb = have.memory_mb.max(booking.memory_mb);
                    have.compute = have.compute.max(booking.compute);
                    have.exclusive |= booking.exclusive;
                }
                None => all.push(booking.clone()),
            }
        }
        all
    }

    /// No GPUs for the new container; its predecessor keeps its own meanwhile.
    fn keep(&self, had: &[Booking]) -> Booked {
        let number = self.gpus_reserved.lock().push(had.iter());
        let access = GpuAccess::default();
        Booked { reserved: self.gpus_reserved.clone(), number, gpus: Vec::new(), access, mps: None }
    }
}

/// True while a container has what its label says.
fn holds(container: &Container) -> bool {
    container.is_running() || container.state == Life::Restarting
}

/// The name without what a replacement adds for its time.
fn own(holder: &str) -> &str {
    use super::super::replace::{predecessor, successor};
    let holder = holder.strip_suffix(&successor("")).unwrap_or(holder);
    holder.strip_suffix(&predecessor("")).unwrap_or(holder)
}

fn refused(refusal: Refusal) -> Error {
    let list = |names: &[String]| {
        names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    match refusal {
        Refusal::Never { field, why } => Error::field(format!("gpus.{field}"), why),
        Refusal::Now { units, holders, waiting } if holders.is_empty() && waiting.is_empty() => {
            Error::precondition(
                "GPUS_UNUSABLE",
                format!("no GPUs that fit can be used now: {}", units.join("; ")),
            )
        }
        Refusal::Now { units, holders, waiting } => {
            let remedy = match holders.is_empty() {
                true => "set queue to wait too, or ask for less".to_owned(),
                false => format!("stop one of {}, ask for less, or set queue", list(&holders)),
            };
            Error::new(
                Kind::ResourceExhausted,
                "GPUS_TAKEN",
                format!("the GPUs are taken: {}; {remedy}", units.join("; ")),
            )
            .with("holders", holders.join(","))
            .with("waiting", waiting.join(","))
        }
    }
}
