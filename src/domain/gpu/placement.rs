//! Which GPUs a container gets: a pure choice among what is there and what is booked.
//!
//! A whole GPU, or one MIG instance of a GPU that is cut, is a unit. A unit fits when
//! it can be used, when nobody has it for themselves, and when memory and computing
//! power are left. What a container has in use counts where it is more than it booked;
//! so does what processes outside of our containers use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Device, Instance, Inventory, Memory, Wish};
use crate::domain::gpu::request::Which;

const MIB: u64 = 1 << 20;

/// One unit that a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Booking {
    /// Name of the container.
    pub holder: String,
    /// Its engine id; empty while it is being made.
    pub container_id: String,
    /// UUID of the GPU or the instance.
    pub device: String,
    /// MiB of memory.
    pub memory_mb: u64,
    /// Percent of the computing power.
    pub compute: u32,
    /// Nobody else may use it.
    pub exclusive: bool,
    /// NVIDIA's MPS keeps its holder within what it booked.
    pub enforced: bool,
}

/// A unit that somebody may have who waits and came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// Name of the container that is to be.
    pub holder: String,
    /// UUID of the GPU or the instance.
    pub device: String,
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// This node can never grant it: the field and why.
    Never {
        /// Field below `gpus`, in JSON names.
        field: &'static str,
        /// What was asked for and what the node has.
        why: String,
    },
    /// Not now.
    Now {
        /// Each unit that does not fit, and why.
        units: Vec<String>,
        /// Names of the containers that hold what is missing, each once.
        holders: Vec<String>,
        /// Names of those that came before and wait for it, each once.
        waiting: Vec<String>,
    },
}

impl Booking {
    /// True for a share of a whole GPU, which MPS can hold its holder to. An instance
    /// (MIG) keeps it within by itself.
    pub fn is_share(&self) -> bool {
        let booked = self.memory_mb > 0 || self.compute > 0;
        booked && !self.exclusive && !self.is_instance()
    }

    /// True for a MIG instance.
    pub fn is_instance(&self) -> bool {
        self.device.starts_with("MIG-")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never { why, .. } => f.write_str(why),
            Self::Now { units, .. } => f.write_str(&units.join("; ")),
        }
    }
}

/// What can be given: a whole GPU, or an instance of one.
struct Unit<'a> {
    device: &'a Device,
    instance: Option<&'a Instance>,
    /// MiB that containers can have.
    capacity: Option<u64>,
    /// MiB that are left.
    left: Option<u64>,
    /// Percent that are left.
    compute: u32,
    /// MiB that are used without a booking.
    strangers: u64,
    holders: Vec<&'a Booking>,
    /// Who waits for it and came before.
    waits: Option<&'a str>,
}

/// Chooses units for a container, with a booking for each. `booked` are the bookings
/// of all others; `before` are the units that it had, which it keeps where they fit.
pub fn place(
    wish: &Wish,
    holder: &str,
    node: &Inventory,
    booked: &[Booking],
    before: &[String],
) -> Result<Vec<Booking>, Refusal> {
    place_in_turn(wish, holder, node, booked, before, &[])
}

/// The same while others wait who came before: what is promised to them it does not get.
pub fn place_in_turn(
    wish: &Wish,
    holder: &str,
    node: &Inventory,
    booked: &[Booking],
    before: &[String],
    promised: &[Promise],
) -> Result<Vec<Booking>, Refusal> {
    let mut units = units(node, booked);
    for unit in &mut units {
        let promise = promised.iter().find(|promise| promise.device == unit.uuid());
        unit.waits = promise.map(|promise| promise.holder.as_str());
    }
    let wanted = wanted(wish, &units)?;
    let ever = ever(wish, &wanted);
    let (count, named) = match &wish.which {
        Which::All | Which::Ids(_) => (wanted.len(), true),
        Which::Count(count) => (usize::try_from(*count).unwrap_or(wanted.len()), false),
    };
    let large = wanted.iter().filter(|unit| ever(unit)).count();
    if large < count {
        let most = wanted.iter().filter_map(|unit| unit.capacity).max().unwrap_or(0);
        let why = match named {
            true => "not all of the GPUs have so much",
            false if large == 0 => "no GPU has so much",
            false => "too few GPUs have so much",
        };
        return Err(Refusal::Never {
            field: "memoryMB",
            why: format!(
                "{} MiB are too many: {why}; the largest has {most} MiB, without what the driver \
                 keeps",
                wish.memory_mb
            ),
        });
    }
    let mut fitting: Vec<&Unit<'_>> = Vec::new();
    let (mut refused, mut holders, mut waiting) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for unit in wanted {
        match unit.refuses(wish) {
            None => fitting.push(unit),
            Some(why) => {
                refused.push(format!("{}: {why}", unit.label()));
                // Whoever has one that cannot be used has nothing to give.
                if unit.device.lost.is_none() && unit.device.drained.is_none() {
                    holders.extend(unit.holders.iter().map(|booking| booking.holder.clone()));
                    waiting.extend(unit.waits.map(str::to_owned));
                }
            }
        }
    }
    // For "all", what is lost is left out; what others hold is not.
    let lost_only = matches!(wish.which, Which::All) && holders.is_empty() && waiting.is_empty();
    let enough = if lost_only { !fitting.is_empty() } else { fitting.len() >= count };
    if !enough {
        let (holders, waiting) = (holders.into_iter().collect(), waiting.into_iter().collect());
        return Err(Refusal::Now { units: refused, holders, waiting });
    }
    let keeps = |unit: &Unit<'_>| before.iter().any(|uuid| uuid == unit.uuid());
    fitting.sort_by_key(|unit| {
        let left = unit.left.unwrap_or(0);
        let room = if wish.spread { u64::MAX - left } else { left };
        // One for itself is rather one that nobody uses, also nobody without a booking.
        let strangers = if wish.exclusive { unit.strangers } else { 0 };
        (!keeps(unit), strangers, room, unit.device.index)
    });
    if !named {
        fitting.truncate(count);
    }
    fitting.sort_by_key(|unit| (unit.device.index, unit.instance.map(|part| &part.uuid)));
    let bookings = fitting.into_iter().map(|unit| Booking {
        holder: holder.to_owned(),
        container_id: String::new(),
        device: unit.uuid().to_owned(),
        memory_mb: wish.memory_mb,
        compute: wish.compute,
        exclusive: wish.exclusive,
        enforced: false,
    });
    Ok(bookings.collect())
}

/// What a node has, in words.
pub fn units_of(node: &Inventory) -> String {
    listed(&units(node, &[]))
}

fn listed(units: &[Unit<'_>]) -> String {
    let have: Vec<String> = units.iter().map(Unit::label).collect();
    if have.is_empty() { "none".to_owned() } else { have.join(", ") }
}

/// Units that a wish may have, now or later.
pub fn candidates(wish: &Wish, node: &Inventory) -> Vec<String> {
    let units = units(node, &[]);
    let wanted = wanted(wish, &units).unwrap_or_default();
    let ever = ever(wish, &wanted);
    wanted.iter().copied().filter(ever).map(|unit| unit.uuid().to_owned()).collect()
}

/// Tells which units are large enough. One that was lost does not tell its memory; the
/// others do.
fn ever(wish: &Wish, wanted: &[&Unit<'_>]) -> impl Fn(&&Unit<'_>) -> bool + use<> {
    let known = wanted.iter().any(|unit| unit.capacity.is_some());
    let memory_mb = wish.memory_mb;
    move |unit| match unit.capacity {
        Some(capacity) => memory_mb <= capacity,
        None => memory_mb == 0 || !known,
    }
}

/// What a container has in use on a unit, in bytes.
pub fn used_by(node: &Inventory, container_id: &str, unit: &str) -> Option<u64> {
    let device = node.devices.iter().find(|device| {
        device.uuid == unit || device.instances.iter().any(|part| part.uuid == unit)
    })?;
    let here = device.processes.iter().filter(|process| {
        process.container_id.as_deref() == Some(container_id)
            && process.instance.as_deref().is_none_or(|part| part == unit || device.uuid == unit)
    });
    let mut all = here.map(|process| process.memory.unwrap_or(0)).peekable();
    all.peek()?;
    Some(all.sum())
}

fn units<'a>(node: &'a Inventory, booked: &'a [Booking]) -> Vec<Unit<'a>> {
    let mut units = Vec::new();
    for device in &node.devices {
        if device.mig == Some(true) {
            for part in &device.instances {
                units.push(Unit::new(device, Some(part), part.memory, node, booked));
            }
        } else {
            units.push(Unit::new(device, None, device.memory, node, booked));
        }
    }
    units
}

/// The units that a wish may have, whether they fit or not.
fn wanted<'a, 'b>(wish: &Wish, units: &'b [Unit<'a>]) -> Result<Vec<&'b Unit<'a>>, Refusal> {
    let of_profile = |unit: &&Unit<'_>| match wish.profile.as_str() {
        "" => true,
        profile => unit.instance.is_some_and(|part| part.profile == profile),
    };
    if !wish.profile.is_empty() && !units.iter().any(|unit| of_profile(&unit)) {
        let have: BTreeSet<&str> =
            units.iter().filter_map(|unit| Some(unit.instance?.profile.as_str())).collect();
        let have: Vec<&str> = have.into_iter().collect();
        let have = if have.is_empty() { "no GPU that is cut".to_owned() } else { have.join(", ") };
        let why = format!("no instance is cut as {}; the node has {have}", wish.profile);
        return Err(Refusal::Never { field: "migProfile", why });
    }
    match &wish.which {
        Which::All => Ok(units.iter().filter(of_profile).collect()),
        Which::Ids(ids) => {
            let mut found: Vec<&Unit<'_>> = Vec::new();
            for id in ids {
                let unit = named(id, units)?;
                if !of_profile(&unit) {
                    let why = format!("GPU {id} is no instance of the profile {}", wish.profile);
                    return Err(Refusal::Never { field: "ids", why });
                }
                if found.iter().any(|have| have.uuid() == unit.uuid()) {
                    let why = format!("{id} names a GPU that is named before; leave one out");
                    return Err(Refusal::Never { field: "ids", why });
                }
                found.push(unit);
            }
            Ok(found)
        }
        Which::Count(count) => {
            // A whole GPU is never an instance by accident.
            let whole = |unit: &&Unit<'_>| !wish.profile.is_empty() || unit.instance.is_none();
            let found: Vec<_> = units.iter().filter(of_profile).filter(whole).collect();
            let enough = usize::try_from(*count).is_ok_and(|count| count <= found.len());
            if !enough {
                let what = match wish.profile.as_str() {
                    "" => "whole GPUs".to_owned(),
                    profile => format!("instances of the profile {profile}"),
                };
                let why = format!("{count} {what} are too many; the node has {}", found.len());
                return Err(Refusal::Never { field: "count", why });
            }
            Ok(found)
        }
    }
}

/// The unit of an index, a UUID, or the only one whose UUID begins so.
fn named<'a, 'b>(id: &str, units: &'b [Unit<'a>]) -> Result<&'b Unit<'a>, Refusal> {
    let index = id.parse::<u32>().ok();
    let exact = units.iter().find(|unit| {
        unit.uuid() == id || (unit.instance.is_none() && index == Some(unit.device.index))
    });
    let begins = id.starts_with("GPU-") || id.starts_with("MIG-");
    let mut some = units.iter().filter(|unit| begins && unit.uuid().starts_with(id));
    let only = match (some.next(), some.next()) {
        (Some(unit), None) => Some(unit),
        _ => None,
    };
    exact.or(only).ok_or_else(|| {
        let have = listed(units);
        Refusal::Never { field: "ids", why: format!("no GPU is \"{id}\"; the node has {have}") }
    })
}

impl<'a> Unit<'a> {
    fn new(
        device: &'a Device,
        instance: Option<&'a Instance>,
        memory: Option<Memory>,
        node: &Inventory,
        booked: &'a [Booking],
    ) -> Self {
        let uuid = instance.map_or(&device.uuid, |part| &part.uuid);
        let holders: Vec<&Booking> =
            booked.iter().filter(|booking| &booking.device == uuid).collect();
        let capacity = memory.map(|memory| memory.total.saturating_sub(memory.reserved) / MIB);
        // By container: the larger of what it booked and what it uses.
        let mut held: BTreeMap<&str, u64> = BTreeMap::new();
        for process in &device.processes {
            let here = instance.is_none_or(|part| process.instance.as_deref() == Some(&part.uuid));
            if here {
                let container = process.container_id.as_deref().unwrap_or_default();
                *held.entry(container).or_default() += process.memory.unwrap_or(0).div_ceil(MIB);
            }
        }
        let mut taken: u64 = 0;
        for booking in &holders {
            let used = used_by(node, &booking.container_id, uuid).unwrap_or(0).div_ceil(MIB);
            held.remove(booking.container_id.as_str()).unwrap_or_default();
            taken = taken.saturating_add(booking.memory_mb.max(used));
        }
        let strangers = held.values().fold(0_u64, |sum, used| sum.saturating_add(*used));
        taken = taken.saturating_add(strangers);
        let computed: u32 = holders.iter().map(|booking| booking.compute.min(100)).sum();
        Self {
            device,
            instance,
            capacity,
            left: capacity.map(|capacity| capacity.saturating_sub(taken)),
            compute: 100_u32.saturating_sub(computed),
            strangers,
            holders,
            waits: None,
        }
    }

    fn uuid(&self) -> &str {
        self.instance.map_or(&self.device.uuid, |part| &part.uuid)
    }

    fn label(&self) -> String {
        let Self { device, instance, .. } = self;
        match instance {
            Some(part) => format!("{} ({} of GPU {})", part.uuid, part.profile, device.index),
            None if device.uuid.is_empty() => format!("GPU {}", device.index),
            None => format!("GPU {} ({}, {})", device.index, device.uuid, device.name),
        }
    }

    /// Why it cannot be given to such a wish now.
    fn refuses(&self, wish: &Wish) -> Option<String> {
        if let Some(why) = &self.device.lost {
            return Some(format!("cannot be used: {why}"));
        }
        if let Some(why) = &self.device.drained {
            return Some(format!("is given to nobody for now: {why}"));
        }
        if self.uuid().is_empty() {
            return Some("does not tell its UUID".to_owned());
        }
        if let Some(name) = self.waits {
            return Some(format!("\"{name}\" waits for it and came before"));
        }
        if let Some(owner) = self.holders.iter().find(|booking| booking.exclusive) {
            return Some(format!("container \"{}\" has it for itself", owner.holder));
        }
        let names = || {
            let names: BTreeSet<&str> =
                self.holders.iter().map(|booking| booking.holder.as_str()).collect();
            match names.is_empty() {
                true => "processes that are not ours".to_owned(),
                false => names.into_iter().collect::<Vec<_>>().join(", "),
            }
        };
        if wish.exclusive && !self.holders.is_empty() {
            return Some(format!("it is used by {}", names()));
        }
        if wish.compute > self.compute {
            let left = self.compute;
            return Some(format!(
                "{left} % of its computing power are left, the rest has {}",
                names()
            ));
        }
        let (Some(left), Some(all)) = (self.left, self.capacity) else {
            let unknown = wish.memory_mb > 0;
            return unknown.then(|| "does not tell its memory".to_owned());
        };
        if wish.memory_mb > all {
            return Some(format!("it has {all} MiB, without what the driver keeps"));
        }
        if wish.memory_mb > left {
            return Some(format!("{left} of {all} MiB are left, the rest has {}", names()));
        }
        None
    }
}

#[cfg(test)]
mod tests;
