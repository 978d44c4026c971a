//! Who waits for GPUs, in the order in which they came.
//!
//! Nobody is passed on the units that could be theirs: what a waiting run may have, those
//! that came later do not get, whether they wait or not. So each is served when enough of
//! those who have something end, and one that wants other units need not wait behind it.
//!
//! A place lasts until its time is over, whether or not its run looks at the clock: one
//! whose reader stalls stands still, and must hold up nobody. Times are passed in.

use std::{collections::BTreeMap, time::Instant};

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
    /// Name of the container that is to be.
    holder: String,
    wish: Wish,
    /// When its time is over.
    until: Instant,
    /// It has what it waited for, and is about to run.
    served: bool,
}

impl Line {
    /// Joins at the end, until then; its number. `None` when the line is full.
    pub fn join(
        &mut self,
        holder: String,
        wish: Wish,
        until: Instant,
        now: Instant,
    ) -> Option<u64> {
        self.waiting.retain(|_, one| one.served || one.until > now);
        if self.waiting.len() >= LONGEST {
            return None;
        }
        self.last += 1;
        self.waiting.insert(self.last, Waiting { holder, wish, until, served: false });
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

    /// Its place, from 1, and how many wait with it.
    pub fn place(&self, number: u64, now: Instant) -> (usize, usize) {
        let others = || self.waiting.iter().filter(|(at, one)| **at != number && one.waits(now));
        (1 + others().filter(|(other, _)| **other < number).count(), 1 + others().count())
    }

    /// How many wait.
    pub fn len(&self, now: Instant) -> usize {
        self.waiting.values().filter(|one| one.waits(now)).count()
    }

    /// What those may have that came before; `None` is one that came after all.
    pub fn before(
        &self,
        number: Option<u64>,
        own: &str,
        node: &Inventory,
        now: Instant,
    ) -> Vec<Promise> {
        let earlier = self.waiting.iter().filter(|(other, one)| {
            number.is_none_or(|number| **other < number) && one.waits(now) && one.holder != own
        });
        let of = |one: &Waiting| {
            let holder = one.holder.clone();
            let units = candidates(&one.wish, node).into_iter();
            units.map(move |device| Promise { holder: holder.clone(), device }).collect::<Vec<_>>()
        };
        earlier.flat_map(|(_, one)| of(one)).collect()
    }
}

impl Waiting {
    fn waits(&self, now: Instant) -> bool {
        !self.served && self.until > now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    fn join_until(line: &mut Line, name: &str, wish: &Wish, until: Instant) -> Option<u64> {
        line.join(name.to_owned(), wish.clone(), until, Instant::now())
    }

    fn join(line: &mut Line, name: &str, wish: &Wish) -> u64 {
        let until = Instant::now() + Duration::from_secs(3600);
        join_until(line, name, wish, until).expect("there is room")
    }

    fn place(line: &Line, number: u64) -> (usize, usize) {
        line.place(number, Instant::now())
    }

    #[test]
    fn a_place_in_the_line_gets_better_as_those_before_leave_or_are_served() {
        let mut line = Line::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| join(&mut line, name, &alone(1)));
        assert_eq!((place(&line, a), place(&line, c)), ((1, 3), (3, 3)));
        line.leave(a);
        assert_eq!(place(&line, c), (2, 2));
        line.serve(b, true);
        assert_eq!(place(&line, c), (1, 1));
        // It could not run after all.
        line.serve(b, false);
        assert_eq!(place(&line, c), (2, 2));
    }

    #[test]
    fn the_line_has_an_end() {
        let mut line = Line::default();
        for at in 0..LONGEST {
            join(&mut line, &at.to_string(), &alone(1));
        }
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(join_until(&mut line, "x", &alone(1), later), None);
    }

    #[test]
    fn a_place_ends_with_its_time_also_when_nobody_gives_it_up() {
        let mut line = Line::default();
        let now = Instant::now();
        for at in 0..LONGEST {
            let joined = line.join(at.to_string(), alone(1), now + Duration::from_secs(1), now);
            assert!(joined.is_some());
        }
        let after = now + Duration::from_secs(2);
        assert_eq!((line.len(now), line.len(after)), (LONGEST, 0));
        assert!(!line.before(None, "x", &node(1), now).is_empty());
        assert_eq!(line.before(None, "x", &node(1), after), []);
        let last = line.join("x".into(), alone(1), after + Duration::from_secs(1), after);
        let last = last.expect("there is room again");
        assert_eq!(line.place(last, after), (1, 1));
        // Who is late itself is still told where it stood.
        assert_eq!(line.place(last, after + Duration::from_secs(2)), (1, 1));
        // One that has what it waited for keeps that.
        line.serve(last, true);
        let late = after + Duration::from_secs(3);
        line.join("y".into(), alone(1), late + Duration::from_secs(1), late).expect("room");
        assert!(line.waiting.contains_key(&last));
    }

    #[test]
    fn who_wants_other_units_need_not_wait() {
        let mut line = Line::default();
        let wish = Wish { which: Which::Ids(vec!["GPU-0".into()]), ..alone(1) };
        join(&mut line, "a", &wish);
        let promised = line.before(None, "x", &node(2), Instant::now());
        let placed = place_in_turn(&alone(1), "x", &node(2), &[], &[], &promised).expect("free");
        assert_eq!(placed[0].device, "GPU-1");
        let refused = place_in_turn(&alone(2), "x", &node(2), &[], &[], &promised);
        let Err(Refusal::Now { units, waiting, .. }) = refused else { panic!("{refused:?}") };
        assert!(units[0].contains("\"a\" waits for it"), "{units:?}");
        assert_eq!(waiting, ["a"]);
        // What it has already nobody waits before it for.
        assert_eq!(line.before(None, "a", &node(2), Instant::now()), []);
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
                    let promised = line.before(Some(*number), name, &node, Instant::now());
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
