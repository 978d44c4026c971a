//! Placement, by example and for any history.

use proptest::prelude::*;

use super::*;
use crate::domain::gpu::Process;

const GIB: u64 = 1 << 30;

/// A GPU of 16 GiB, of which the driver keeps one.
fn device(index: u32) -> Device {
    let memory = Memory { total: 16 * GIB, free: 15 * GIB, used: 0, reserved: GIB };
    let uuid = format!("GPU-{index}");
    Device { index, uuid, name: "T4".into(), memory: Some(memory), ..Device::default() }
}

fn node(count: u32) -> Inventory {
    Inventory { devices: (0..count).map(device).collect(), ..Inventory::default() }
}

fn wish(which: Which) -> Wish {
    Wish {
        which,
        memory_mb: 0,
        compute: 0,
        exclusive: false,
        profile: String::new(),
        spread: false,
        queue: None,
        on_overrun: None,
    }
}

fn memory(count: u32, memory_mb: u64) -> Wish {
    Wish { memory_mb, ..wish(Which::Count(count)) }
}

fn ids(ids: &[&str]) -> Which {
    Which::Ids(ids.iter().map(|id| (*id).to_owned()).collect())
}

fn booking(holder: &str, device: &str, memory_mb: u64) -> Booking {
    let (holder, device) = (holder.to_owned(), device.to_owned());
    Booking { container_id: holder.clone(), holder, device, memory_mb, ..Booking::default() }
}

/// Units that it gets.
fn gets(wish: &Wish, node: &Inventory, booked: &[Booking]) -> Vec<String> {
    let placed = place(wish, "x", node, booked, &[]).expect("it fits");
    placed.into_iter().map(|booking| booking.device).collect()
}

fn refused(wish: &Wish, node: &Inventory, booked: &[Booking]) -> Refusal {
    place(wish, "x", node, booked, &[]).expect_err("it does not fit")
}

#[test]
fn packing_fills_one_gpu_and_spreading_takes_the_emptiest() {
    let booked = [booking("a", "GPU-1", 4096)];
    assert_eq!(gets(&memory(1, 1024), &node(3), &booked), ["GPU-1"]);
    let spread = Wish { spread: true, ..memory(1, 1024) };
    assert_eq!(gets(&spread, &node(3), &booked), ["GPU-0"]);
    assert_eq!(gets(&memory(1, 12_000), &node(3), &booked), ["GPU-0"], "it does not fit beside a");
}

#[test]
fn the_drivers_reserve_is_not_given_away() {
    assert_eq!(gets(&memory(1, 15 * 1024), &node(1), &[]), ["GPU-0"]);
    let Refusal::Never { field, why } = refused(&memory(1, 15 * 1024 + 1), &node(1), &[]) else {
        panic!("it never fits")
    };
    assert!(field == "memoryMB" && why.contains("15360 MiB"), "{why}");
}

#[test]
fn what_is_used_counts_where_it_is_more_than_what_is_booked() {
    let mut node = node(1);
    let process = |container: Option<&str>, mib: u64| Process {
        pid: 1,
        memory: Some(mib << 20),
        container_id: container.map(str::to_owned),
        instance: None,
    };
    let booked = [booking("a", "GPU-0", 1024)];
    node.devices[0].processes = vec![process(Some("a"), 512)];
    assert_eq!(gets(&memory(1, 14 * 1024), &node, &booked), ["GPU-0"]);
    node.devices[0].processes = vec![process(Some("a"), 2048)];
    let Refusal::Now { units, holders, .. } = refused(&memory(1, 14 * 1024), &node, &booked) else {
        panic!("it fits later")
    };
    assert!(units[0].contains("13312 of 15360 MiB are left, the rest has a"), "{units:?}");
    assert_eq!(holders, ["a"]);
    node.devices[0].processes = vec![process(None, 1025)];
    assert!(matches!(refused(&memory(1, 14 * 1024), &node, &[]), Refusal::Now { .. }));
}

#[test]
fn who_has_a_gpu_alone_shares_it_with_nobody() {
    let alone = Wish { exclusive: true, ..wish(Which::Count(1)) };
    let mut held = booking("a", "GPU-0", 0);
    assert!(matches!(refused(&alone, &node(1), &[held.clone()]), Refusal::Now { .. }));
    held.exclusive = true;
    let Refusal::Now { units, holders, .. } = refused(&wish(Which::All), &node(2), &[held]) else {
        panic!("it fits later")
    };
    assert_eq!((units.len(), holders), (1, vec!["a".to_owned()]));
}

#[test]
fn a_wish_for_what_the_node_lacks_says_what_it_has() {
    for (wish, field, words) in [
        (wish(ids(&["GPU-7"])), "ids", "the node has GPU 0 (GPU-0, T4), GPU 1"),
        (wish(ids(&["7"])), "ids", "\"7\""),
        (wish(ids(&["0", "GPU-0"])), "ids", "named before"),
        (wish(Which::Count(3)), "count", "the node has 2"),
        (
            Wish { profile: "1g.5gb".into(), ..wish(Which::Count(1)) },
            "migProfile",
            "no GPU that is cut",
        ),
        (memory(2, 20_000), "memoryMB", "no GPU has so much"),
    ] {
        let Refusal::Never { field: told, why } = refused(&wish, &node(2), &[]) else {
            panic!("it never fits: {wish:?}")
        };
        assert!(told == field && why.contains(words), "{field}: {why}");
    }
}

#[test]
fn a_gpu_is_named_by_index_uuid_or_beginning() {
    for id in ["1", "GPU-1"] {
        assert_eq!(gets(&wish(ids(&[id])), &node(2), &[]), ["GPU-1"]);
    }
    assert!(matches!(refused(&wish(ids(&["GPU-"])), &node(2), &[]), Refusal::Never { .. }));
    assert_eq!(gets(&wish(ids(&["GPU-"])), &node(1), &[]), ["GPU-0"]);
}

#[test]
fn a_lost_gpu_is_given_to_nobody() {
    let mut node = node(2);
    node.devices[0].lost = Some("it fell off".into());
    assert_eq!(gets(&wish(Which::All), &node, &[]), ["GPU-1"]);
    assert_eq!(gets(&wish(Which::Count(1)), &node, &[]), ["GPU-1"]);
    for wish in [wish(Which::Count(2)), wish(ids(&["0"]))] {
        let Refusal::Now { units, .. } = refused(&wish, &node, &[]) else { panic!("later") };
        assert!(units[0].contains("it fell off"), "{units:?}");
    }
    node.devices[1].lost = Some("it too".into());
    assert!(matches!(refused(&wish(Which::All), &node, &[]), Refusal::Now { .. }));
}

#[test]
fn a_gpu_that_told_that_it_is_broken_is_given_to_nobody() {
    let mut node = node(2);
    node.devices[0].drained = Some("XID 48".into());
    assert_eq!(gets(&wish(Which::All), &node, &[]), ["GPU-1"]);
    assert_eq!(gets(&wish(Which::Count(1)), &node, &[]), ["GPU-1"]);
    let Refusal::Now { units, .. } = refused(&wish(ids(&["0"])), &node, &[]) else { panic!() };
    assert!(units[0].contains("XID 48"), "{units:?}");
}

#[test]
fn instances_are_units_of_their_own() {
    let mut node = node(2);
    node.devices[0].mig = Some(true);
    node.devices[1].mig = Some(false);
    let part = |uuid: &str, profile: &str| {
        let memory = Memory { total: 5 * GIB, free: 5 * GIB, ..Memory::default() };
        Instance { uuid: uuid.into(), profile: profile.into(), memory: Some(memory) }
    };
    node.devices[0].instances =
        vec![part("MIG-a", "1g.5gb"), part("MIG-b", "1g.5gb"), part("MIG-c", "2g.5gb")];
    let cut = |count| Wish { profile: "1g.5gb".into(), ..wish(Which::Count(count)) };
    assert_eq!(gets(&cut(2), &node, &[]), ["MIG-a", "MIG-b"]);
    let held = Booking { exclusive: true, ..booking("a", "MIG-a", 0) };
    assert_eq!(gets(&cut(1), &node, &[held]), ["MIG-b"]);
    assert_eq!(gets(&wish(Which::Count(1)), &node, &[]), ["GPU-1"], "no instance by accident");
    assert!(matches!(refused(&cut(3), &node, &[]), Refusal::Never { field: "count", .. }));
    assert_eq!(gets(&wish(ids(&["MIG-c"])), &node, &[]), ["MIG-c"]);
    assert_eq!(gets(&wish(Which::All), &node, &[]), ["MIG-a", "MIG-b", "MIG-c", "GPU-1"]);
}

#[test]
fn a_successor_keeps_the_gpus_of_its_predecessor() {
    let before = ["GPU-2".to_owned()];
    let placed = place(&memory(1, 100), "x", &node(3), &[], &before).expect("it fits");
    assert_eq!(placed[0].device, "GPU-2");
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let which = prop_oneof![
        Just(Which::All),
        (1_u32..5).prop_map(Which::Count),
        proptest::collection::btree_set(0_u32..5, 1..4)
            .prop_map(|all| Which::Ids(all.into_iter().map(|it| it.to_string()).collect())),
    ];
    (which, 0_u64..16_000, 0_u32..=100, any::<bool>(), any::<bool>()).prop_map(
        |(which, memory_mb, compute, exclusive, spread)| Wish {
            memory_mb,
            compute: if exclusive { 0 } else { compute },
            exclusive,
            spread,
            ..wish(which)
        },
    )
}

proptest! {
    /// Whatever is asked for, in whatever order, and whoever leaves in between.
    #[test]
    fn nothing_is_ever_booked_twice(
        steps in proptest::collection::vec((any_wish(), any::<proptest::sample::Index>(), any::<bool>()), 1..60),
    ) {
        let node = node(4);
        let mut booked: Vec<Booking> = Vec::new();
        for (at, (wish, leaves, leave)) in steps.into_iter().enumerate() {
            if leave && !booked.is_empty() {
                let gone = booked[leaves.index(booked.len())].holder.clone();
                booked.retain(|booking| booking.holder != gone);
            }
            match place(&wish, &format!("c{at}"), &node, &booked, &[]) {
                Ok(placed) => {
                    let count = match &wish.which {
                        Which::All => 4,
                        Which::Count(count) => *count as usize,
                        Which::Ids(ids) => ids.len(),
                    };
                    prop_assert_eq!(placed.len(), count);
                    booked.extend(placed);
                }
                Err(Refusal::Never { why, .. }) => prop_assert!(!why.is_empty()),
                Err(Refusal::Now { units, holders, .. }) => {
                    prop_assert!(!units.is_empty() && !holders.is_empty());
                }
            }
            for device in &node.devices {
                let here: Vec<_> = booked.iter().filter(|it| it.device == device.uuid).collect();
                let memory: u64 = here.iter().map(|it| it.memory_mb).sum();
                let compute: u32 = here.iter().map(|it| it.compute).sum();
                prop_assert!(memory <= 15 * 1024 && compute <= 100);
                prop_assert!(here.len() <= 1 || here.iter().all(|it| !it.exclusive));
            }
        }
    }
}
