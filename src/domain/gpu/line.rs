//! Who waits for GPUs, in the order in which they came.
//!
//! Nobody is passed on the units that could be theirs: what a waiting run may have, those
//! that came later do not get, whether they wait or not. So each is served when enough of
//! those who have something end, and one that wants other units need not wait behind it.

use std::collections::BTreeMap;

use super::{
    Inventory, Wish,
    placement::{Promise, candidates},
};

/// Most runs that wait.
pub const LONGEST: usize = 64;

/// The line.
#[derive(Debug, Default)]
pub struct Line {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Names of the container, the engine's first.
    names: Vec<String>,
    /// Hash of what shall run.
    spec_hash: String,
    wish: Wish,
    /// It has what it waited for, and is about to run.
    served: bool,
    /// Why it need not wait any more.
    ended: Option<Ended>,
}

/// Why a run leaves the line without GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its name was stopped or removed.
    Stopped,
    /// A later run described its name otherwise.
    Overtaken,
}

impl Line {
    /// Joins at the end; its number. `None` when the line is full.
    pub fn join(&mut self, names: Vec<String>, spec_hash: String, wish: Wish) -> Option<u64> {
        if self.waiting.len() >= LONGEST {
            return None;
        }
        self.last += 1;
        let one = Waiting { names, spec_hash, wish, served: false, ended: None };
        self.waiting.insert(self.last, one);
        Some(self.last)
    }

    /// Leaves the line.
    pub fn leave(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// Notes whether it has what it waited for. One that could not run with it stands
    /// where it stood before.
    pub fn serve(&mut self, number: u64, served: bool) {
        if let Some(one) = self.waiting.get_mut(&number) {
            one.served = served;
        }
    }

    /// Ends the waiting of a name; `true` when somebody waited for it. Who waits for
    /// the same description goes on.
    pub fn end(&mut self, name: &str, why: Ended, same: Option<&str>) -> bool {
        let mut found = false;
        for one in self.waiting.values_mut().filter(|one| one.waits()) {
            if one.names.iter().any(|own| own == name) && same != Some(one.spec_hash.as_str()) {
                one.ended = Some(why);
                found = true;
            }
        }
        found
    }

    /// Why it need not wait any more.
    pub fn ended(&self, number: u64) -> Option<Ended> {
        self.waiting.get(&number).and_then(|one| one.ended)
    }

    /// Its place, from 1, and how many wait.
    pub fn place(&self, number: u64) -> (usize, usize) {
        let all = || self.waiting.iter().filter(|(_, one)| one.waits());
        (1 + all().filter(|(other, _)| **other < number).count(), all().count())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.values().filter(|one| one.waits()).count()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What those may have that came before; `None` is one that came after all.
    pub fn before(&self, number: Option<u64>, own: &str, node: &Inventory) -> Vec<Promise> {
        let earlier = self.waiting.iter().filter(|(other, one)| {
            number.is_none_or(|number| **other < number)
                && one.waits()
                && one.names.first().is_none_or(|name| name != own)
        });
        let of = |one: &Waiting| {
            let holder = one.names.first().cloned().unwrap_or_default();
            let units = candidates(&one.wish, node).into_iter();
            units.map(move |device| Promise { holder: holder.clone(), device }).collect::<Vec<_>>()
        };
        earlier.flat_map(|(_, one)| of(one)).collect()
    }
}

impl Waiting {
    fn waits(&self) -> bool {
        !self.served && self.ended.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::gpu::{
        Booking, Device, Memory,
        placement::{Refusal, place_in_turn},
        request::Which,
    };

    fn node(count: u32) -> Inventory {
        let memory = Memory { total: 16 << 30, free: 16 << 30, ..Memory::default() };
        let device = |index: u32| {
            let uuid = format!("GPU-{index}");
            Device { index, uuid, memory: Some(memory), ..Device::default() }
        };
        Inventory { devices: (0..count).map(device).collect(), ..Inventory::default() }
    }

    fn alone(count: u32) -> Wish {
        Wish { exclusive: true, ..shared(count, 0) }
    }

    fn shared(count: u32, memory_mb: u64) -> Wish {
        Wish {
            which: Which::Count(count),
            memory_mb,
            compute: 0,
            exclusive: false,
            profile: String::new(),
            spread: false,
            queue: None,
            on_overrun: None,
        }
    }

    fn join(line: &mut Line, name: &str, wish: &Wish) -> u64 {
        line.join(vec![name.to_owned()], name.to_owned(), wish.clone()).expect("there is room")
    }

    #[test]
    fn a_place_in_the_line_gets_better_as_those_before_leave_or_are_served() {
        let mut line = Line::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| join(&mut line, name, &alone(1)));
        assert_eq!((line.place(a), line.place(c)), ((1, 3), (3, 3)));
        line.leave(a);
        assert_eq!(line.place(c), (2, 2));
        line.serve(b, true);
        assert_eq!(line.place(c), (1, 1));
        // It could not run after all.
        line.serve(b, false);
        assert_eq!(line.place(c), (2, 2));
    }

    #[test]
    fn the_line_has_an_end() {
        let mut line = Line::default();
        for at in 0..LONGEST {
            join(&mut line, &at.to_string(), &alone(1));
        }
        assert_eq!(line.join(vec!["x".into()], String::new(), alone(1)), None);
    }

    #[test]
    fn a_name_waits_no_longer_when_it_is_stopped_or_described_otherwise() {
        let mut line = Line::default();
        let a = line.join(vec!["a".into(), "alias".into()], "v1".into(), alone(1)).expect("room");
        assert!(!line.end("a", Ended::Overtaken, Some("v1")), "the same description");
        assert!(!line.end("b", Ended::Stopped, None));
        assert!(line.end("alias", Ended::Stopped, None));
        assert_eq!(line.ended(a), Some(Ended::Stopped));
        assert!(line.is_empty() && !line.end("a", Ended::Stopped, None));
    }

    #[test]
    fn who_wants_other_units_need_not_wait() {
        let mut line = Line::default();
        let wish = Wish { which: Which::Ids(vec!["GPU-0".into()]), ..alone(1) };
        join(&mut line, "a", &wish);
        let promised = line.before(None, "x", &node(2));
        let placed = place_in_turn(&alone(1), "x", &node(2), &[], &[], &promised).expect("free");
        assert_eq!(placed[0].device, "GPU-1");
        let refused = place_in_turn(&alone(2), "x", &node(2), &[], &[], &promised);
        let Err(Refusal::Now { units, waiting, .. }) = refused else { panic!("{refused:?}") };
        assert!(units[0].contains("\"a\" waits for it"), "{units:?}");
        assert_eq!(waiting, ["a"]);
        // What it has already nobody waits before it for.
        assert_eq!(line.before(None, "a", &node(2)), []);
    }

    proptest! {
        /// However large a wish is and however many small ones keep coming, it is served
        /// by the time that all who came before it have ended.
        #[test]
        fn nobody_starves(
            sizes in proptest::collection::vec((1_u32..=4, any::<bool>(), 1_u64..16_000), 2..30),
            leaves in proptest::collection::vec(any::<proptest::sample::Index>(), 200),
        ) {
            let (node, mut line) = (node(4), Line::default());
            let mut waiting: Vec<(u64, String, Wish)> = Vec::new();
            let mut booked: Vec<Booking> = Vec::new();
            let mut served: Vec<u64> = Vec::new();
            let mut sizes = sizes.into_iter().enumerate();
            for leave in leaves {
                if let Some((at, (count, whole, memory))) = sizes.next() {
                    let wish = if whole { alone(count) } else { shared(count, memory) };
                    let name = format!("c{at}");
                    waiting.push((join(&mut line, &name, &wish), name, wish));
                } else if !booked.is_empty() {
                    let gone = booked[leave.index(booked.len())].holder.clone();
                    booked.retain(|booking| booking.holder != gone);
                }
                waiting.retain(|(number, name, wish)| {
                    let promised = line.before(Some(*number), name, &node);
                    match place_in_turn(wish, name, &node, &booked, &[], &promised) {
                        Ok(placed) => {
                            booked.extend(placed);
                            line.leave(*number);
                            served.push(*number);
                            false
                        }
                        Err(_) => true,
                    }
                });
            }
            // All want the same units, so they are served as they came.
            prop_assert!(waiting.is_empty(), "{waiting:?}");
            prop_assert!(served.is_sorted(), "{served:?}");
        }
    }
}
