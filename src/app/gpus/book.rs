//! Bookings of GPUs. The label of a container says what it has; what runs has it. So
//! a booking outlives the service, and ends with its container, by itself. Reserved
//! here is only what a run in progress is about to have.

use std::sync::{Mutex, PoisonError};

use super::super::App;
use crate::{
    domain::{
        Error, Kind, Result,
        container::{Container, State},
        gpu::{
            Booking, Wish, label,
            placement::{Refusal, place},
            request::Which,
        },
        spec::RunSpec,
    },
    engine::GpuAccess,
};

/// What runs in progress are about to have, each under a number.
#[derive(Debug, Default)]
pub(in crate::app) struct Reserved(Mutex<(u64, Vec<(u64, Booking)>)>);

/// The GPUs of one run; its reservations end when it is dropped, and the container
/// has them then, if it runs.
#[derive(Debug)]
pub(in crate::app) struct Booked<'a> {
    reserved: &'a Reserved,
    number: u64,
    /// What the container gets; empty for one without GPUs.
    pub(in crate::app) gpus: Vec<Booking>,
    /// How the engine gives it.
    pub(in crate::app) access: GpuAccess,
}

impl Drop for Booked<'_> {
    fn drop(&mut self) {
        self.reserved.lock().1.retain(|(number, _)| *number != self.number);
    }
}

impl Reserved {
    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Vec<(u64, Booking)>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// What containers of ours have of GPUs, or are about to have.
    pub fn gpu_bookings(&self) -> Vec<Booking> {
        self.all_gpus(&self.gpus_reserved.lock().1)
    }

    fn held_gpus(&self) -> Vec<Booking> {
        let all = self.view.all();
        let holding = all.iter().filter(|it| self.is_ours(it) && holds(it));
        holding.flat_map(|it| label::read(it)).collect()
    }

    /// FAILED_PRECONDITION when GPUs are asked for where none can be given; what is
    /// missing and how to get it is in the message. Nothing is touched before it.
    pub(in crate::app) async fn require_gpus(&self, spec: &RunSpec) -> Result<()> {
        match &spec.gpus {
            Some(_) => self.gpu_access().await.map(drop),
            None => Ok(()),
        }
    }

    async fn gpu_access(&self) -> Result<GpuAccess> {
        if let Some(why) = &self.gpus.look().await.missing {
            let message = format!("there is no GPU on this node: {why}");
            return Err(Error::precondition("NO_GPU", message));
        }
        self.engine.gpu_access().await?.ok_or_else(|| {
            Error::precondition(
                "NO_GPU_RUNTIME",
                "the Docker engine cannot give GPUs to containers, as it has no runtime \
                 \"nvidia\"; install the NVIDIA Container Toolkit, run `nvidia-ctk runtime \
                 configure --runtime=docker`, and restart the engine",
            )
        })
    }

    /// Chooses and reserves the GPUs of a new container. A predecessor that runs keeps
    /// its own until its successor runs, and hands down what fits.
    pub(in crate::app) async fn book_gpus(
        &self,
        spec: &RunSpec,
        predecessor: Option<&Container>,
    ) -> Result<Booked<'_>> {
        let had = predecessor.map(label::read).unwrap_or_default();
        // One that does not run has nothing any more; others may have it by now.
        let keeps = if predecessor.is_some_and(holds) { had.as_slice() } else { &[] };
        let Some(wish) = &spec.gpus else {
            return Ok(self.keep(keeps));
        };
        let access = self.gpu_access().await?;
        let node = self.gpus.look().await;
        let name = spec.engine_name();
        // Between the choice and the reservation nobody else may choose.
        let mut reserved = self.gpus_reserved.lock();
        let others = self.others(&reserved.1, &name);
        let before: Vec<String> = had.iter().map(|booking| booking.device.clone()).collect();
        let gpus = place(wish, &name, &node, &others, &before).map_err(refused)?;
        let number = push(&mut reserved, gpus.iter().chain(keeps));
        drop(reserved);
        Ok(Booked { reserved: &self.gpus_reserved, number, gpus, access })
    }

    /// Reserves what a stopped container had. `None` when others have it now.
    pub(in crate::app) async fn book_again(
        &self,
        spec: &RunSpec,
        existing: &Container,
    ) -> Result<Option<Booked<'_>>> {
        let had = label::read(existing);
        let Some(wish) = spec.gpus.as_ref().filter(|_| !had.is_empty()) else {
            return Ok(Some(self.keep(&[])));
        };
        Ok(self.book_same(&spec.engine_name(), &had, wish).await)
    }

    /// The same for a restart, which knows only what the container has.
    pub(in crate::app) async fn book_as_before(&self, existing: &Container) -> Option<Booked<'_>> {
        let had = label::read(existing);
        let Some(first) = had.first() else { return Some(self.keep(&[])) };
        let wish = Wish {
            which: Which::All,
            memory_mb: first.memory_mb,
            compute: first.compute,
            exclusive: first.exclusive,
            profile: String::new(),
            spread: false,
        };
        self.book_same(existing.plain_name(), &had, &wish).await
    }

    async fn book_same(&self, name: &str, had: &[Booking], wish: &Wish) -> Option<Booked<'_>> {
        let node = self.gpus.look().await;
        let ids = had.iter().map(|booking| booking.device.clone()).collect();
        let same = Wish { which: Which::Ids(ids), ..wish.clone() };
        let mut reserved = self.gpus_reserved.lock();
        let others = self.others(&reserved.1, name);
        let gpus = place(&same, name, &node, &others, &[]).ok()?;
        let number = push(&mut reserved, gpus.iter());
        drop(reserved);
        let access = GpuAccess::default();
        Some(Booked { reserved: &self.gpus_reserved, number, gpus, access })
    }

    /// What everybody else has; the names of a run are locked, so its own is known.
    fn others(&self, reserved: &[(u64, Booking)], name: &str) -> Vec<Booking> {
        let mut all = self.all_gpus(reserved);
        all.retain(|booking| own(&booking.holder) != name);
        all
    }

    fn all_gpus(&self, reserved: &[(u64, Booking)]) -> Vec<Booking> {
        let mut all = self.held_gpus();
        for (_, booking) in reserved {
            let same =
                |have: &Booking| (&have.holder, &have.device) == (&booking.holder, &booking.device);
            // One that has just begun to run is in both.
            if !all.iter().any(same) {
                all.push(booking.clone());
            }
        }
        all
    }

    /// No GPUs for the new container; its predecessor keeps its own meanwhile.
    fn keep(&self, had: &[Booking]) -> Booked<'_> {
        let number = push(&mut self.gpus_reserved.lock(), had.iter());
        let access = GpuAccess::default();
        Booked { reserved: &self.gpus_reserved, number, gpus: Vec::new(), access }
    }
}

/// True while a container has what its label says.
fn holds(container: &Container) -> bool {
    container.is_running() || container.state == State::Restarting
}

fn push<'a>(
    reserved: &mut (u64, Vec<(u64, Booking)>),
    bookings: impl Iterator<Item = &'a Booking>,
) -> u64 {
    reserved.0 += 1;
    let number = reserved.0;
    reserved.1.extend(bookings.map(|booking| (number, booking.clone())));
    number
}

/// The name without what a replacement adds for its time.
fn own(holder: &str) -> &str {
    use super::super::replace::{predecessor, successor};
    let holder = holder.strip_suffix(&successor("")).unwrap_or(holder);
    holder.strip_suffix(&predecessor("")).unwrap_or(holder)
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Never { field, why } => Error::field(format!("gpus.{field}"), why),
        Refusal::Now { units, holders } if holders.is_empty() => Error::precondition(
            "GPUS_UNUSABLE",
            format!("no GPUs that fit can be used now: {}", units.join("; ")),
        ),
        Refusal::Now { units, holders } => Error::new(
            Kind::ResourceExhausted,
            "GPUS_TAKEN",
            format!(
                "the GPUs are taken: {}; stop one of {}, or ask for less",
                units.join("; "),
                holders.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
            ),
        )
        .with("holders", holders.join(",")),
    }
}
