//! What a run may ask of the node's GPUs, checked and with its defaults made explicit.

use std::{collections::BTreeMap, time::Duration};

use super::{overrun::OnOverrun, placement::Booking};
use crate::domain::spec::RawDuration;

/// The variable by which NVIDIA's runtime, and callers, name GPUs.
pub const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// The variable by which a container knows the pipes of MPS.
pub const MPS_PIPES: &str = "CUDA_MPS_PIPE_DIRECTORY";

const MOST: usize = 64;

/// How long a run waits for GPUs where it does not say, and how long at most.
const WAIT: Duration = Duration::from_secs(600);
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Which GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that can be used.
    All,
    /// So many, whichever fit.
    Count(u32),
    /// Just these: indices, UUIDs, or unambiguous beginnings of UUIDs.
    Ids(Vec<String>),
}

/// What a container shall have of GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Which.
    pub which: Which,
    /// MiB of memory on each; 0 books none.
    pub memory_mb: u64,
    /// Percent of the computing power of each; 0 books none.
    pub compute: u32,
    /// Nobody else may use them.
    pub exclusive: bool,
    /// Instances of this MIG profile, in place of whole GPUs.
    pub profile: String,
    /// The emptiest first, in place of the fullest that fit. Not part of the hash.
    pub spread: bool,
    /// How long it waits for its turn where it does not fit now; `None` is not at all.
    /// Not part of the hash.
    pub queue: Option<Duration>,
    /// What is done when it uses more memory than it booked; `None` is the configured.
    pub on_overrun: Option<OnOverrun>,
}

/// The same as it came.
#[derive(Debug, Clone, Default)]
pub struct RawWish {
    /// All, where it says neither how many nor which.
    pub all: bool,
    /// How many; 0 is one, or as many as are named.
    pub count: i64,
    /// Indices or UUIDs.
    pub ids: Vec<String>,
    /// MiB on each.
    pub memory_mb: i64,
    /// Percent of each.
    pub compute: i64,
    /// Nobody else may use them.
    pub exclusive: bool,
    /// Others may use them too.
    pub shared: bool,
    /// MIG profile.
    pub profile: String,
    /// The emptiest first.
    pub spread: bool,
    /// It waits for its turn.
    pub queue: bool,
    /// How long at most.
    pub queue_timeout: RawDuration,
    /// What is done when it uses more than it booked.
    pub on_overrun: Option<OnOverrun>,
}

impl Wish {
    /// What the older field asks for: all GPUs, shared, but for what the environment
    /// says. A caller that sends the variable empty means all, too.
    pub fn enabled(envs: &BTreeMap<String, String>) -> Option<Self> {
        let which = match envs.get(VISIBLE).map(|value| value.trim()) {
            None | Some("" | "all") => Which::All,
            Some("none" | "void") => return None,
            Some(list) => Which::Ids(list.split(',').map(|id| id.trim().to_owned()).collect()),
        };
        Some(Self {
            which,
            memory_mb: 0,
            compute: 0,
            exclusive: false,
            profile: String::new(),
            spread: false,
            queue: None,
            on_overrun: None,
        })
    }

    /// Checks a wish; `wrong` takes each field and what is wrong with it.
    pub fn resolve(
        raw: RawWish,
        envs: &BTreeMap<String, String>,
        wrong: &mut impl FnMut(String, String),
    ) -> Self {
        let mut add = |field: &str, why: String| wrong(format!("gpus.{field}"), why);
        if raw.ids.len() > MOST {
            add("ids", format!("{} entries are too many; at most {MOST}", raw.ids.len()));
        }
        for (at, id) in raw.ids.iter().enumerate() {
            if id.is_empty() || id.chars().any(|c| c.is_control() || c == ',') {
                add(&format!("ids[{at}]"), format!("{id:?} is neither an index nor a UUID"));
            } else if raw.ids[..at].contains(id) {
                add(&format!("ids[{at}]"), format!("\"{id}\" is there twice; remove one"));
            }
        }
        let named = i64::try_from(raw.ids.len()).unwrap_or(i64::MAX);
        let count = u32::try_from(raw.count).ok().filter(|count| *count <= 64);
        if count.is_none() {
            add("count", format!("{} is out of range; use 1 to {MOST}", raw.count));
        } else if raw.count != 0 && named != 0 && raw.count != named {
            let why = format!("is {}, but {named} GPUs are named; leave one out", raw.count);
            add("count", why);
        }
        if raw.memory_mb < 0 {
            add("memoryMB", format!("{} is negative; 0 books no memory", raw.memory_mb));
        }
        let compute = u32::try_from(raw.compute).ok().filter(|percent| *percent <= 100);
        if compute.is_none() {
            add("computePercent", format!("{} is out of range; use 1 to 100", raw.compute));
        }
        if raw.exclusive && raw.shared {
            add("exclusive", "cannot be set together with shared; leave one out".to_owned());
        } else if raw.exclusive && raw.compute != 0 {
            let why = "cannot be set together with computePercent, which shares a GPU";
            add("exclusive", why.to_owned());
        }
        if raw.profile.len() > 32 || raw.profile.chars().any(char::is_control) {
            add("migProfile", format!("{:?} is no MIG profile, as 1g.5gb is", raw.profile));
        }
        let queue = match raw.queue_timeout {
            None => WAIT,
            Some(_) if !raw.queue => {
                add("queueTimeout", "is of no use without queue; set both".to_owned());
                WAIT
            }
            Some(Ok(wait)) if (Duration::from_secs(1)..=LONGEST_WAIT).contains(&wait) => wait,
            Some(Ok(wait)) => {
                let millis = wait.as_millis();
                add("queueTimeout", format!("{millis} ms is out of range; use 1s to 86400s"));
                WAIT
            }
            Some(Err(why)) => {
                add("queueTimeout", why);
                WAIT
            }
        };
        let all = raw.all && raw.count == 0 && named == 0;
        let visible = envs.get(VISIBLE).map(String::as_str);
        if visible.is_some_and(|value| !matches!(value, "" | "all")) {
            let why = format!("{VISIBLE} chooses GPUs, and so does gpus; leave one out");
            wrong("envs".to_owned(), why);
        }
        Self {
            // One that asks for no share of a GPU gets it whole.
            exclusive: raw.exclusive
                || !(raw.shared || all || raw.memory_mb > 0 || raw.compute > 0),
            which: match raw.ids.is_empty() {
                true if all => Which::All,
                true => Which::Count(count.unwrap_or(1).max(1)),
                false => Which::Ids(raw.ids),
            },
            memory_mb: u64::try_from(raw.memory_mb).unwrap_or(0),
            compute: compute.unwrap_or(0),
            profile: raw.profile,
            spread: raw.spread,
            queue: raw.queue.then_some(queue),
            on_overrun: raw.on_overrun,
        }
    }

    /// The texts by which it goes into the hash: only what changes what a container
    /// has. Where it is placed does not.
    pub fn canonical(&self) -> Vec<String> {
        let mut texts = match &self.which {
            Which::All => vec!["all".to_owned()],
            Which::Count(count) => vec![format!("count={count}")],
            Which::Ids(ids) => {
                let mut ids: Vec<String> = ids.iter().map(|id| format!("id={id}")).collect();
                ids.sort();
                ids
            }
        };
        if self.memory_mb > 0 {
            texts.push(format!("memoryMB={}", self.memory_mb));
        }
        if self.compute > 0 {
            texts.push(format!("computePercent={}", self.compute));
        }
        if self.exclusive {
            texts.push("exclusive".to_owned());
        }
        if !self.profile.is_empty() {
            texts.push(format!("migProfile={}", self.profile));
        }
        if let Some(action) = self.on_overrun {
            texts.push(format!("onOverrun={}", action.word()));
        }
        texts
    }
}

/// The environment of a container with GPUs: the variable names those that it was
/// given, whatever its image says, and nothing makes the runtime's own libraries load
/// other code. `mps` is the directory by which it reaches MPS, which keeps it within
/// what it booked.
pub fn environment(envs: &mut BTreeMap<String, String>, bookings: &[Booking], mps: Option<&str>) {
    envs.retain(|key, _| !key.starts_with("LD_"));
    let given: Vec<&str> = bookings.iter().map(|booking| booking.device.as_str()).collect();
    envs.insert(VISIBLE.to_owned(), given.join(","));
    let Some((directory, first)) = mps.zip(bookings.iter().find(|one| one.enforced)) else {
        return;
    };
    // A limit of the caller's could be a wider one.
    envs.retain(|key, _| !key.starts_with("CUDA_MPS_"));
    envs.insert(MPS_PIPES.to_owned(), directory.to_owned());
    if first.compute > 0 {
        let percent = first.compute.to_string();
        envs.insert("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE".to_owned(), percent);
    }
    if first.memory_mb > 0 {
        // By their numbers in the container, where it has the same of each.
        let limits = (0..bookings.len()).map(|at| format!("{at}={}M", first.memory_mb));
        let limits = limits.collect::<Vec<_>>().join(",");
        envs.insert("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT".to_owned(), limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(VISIBLE.to_owned(), value.to_owned())])
    }

    fn wrong(raw: RawWish, envs: &BTreeMap<String, String>) -> Vec<String> {
        let mut fields = Vec::new();
        Wish::resolve(raw, envs, &mut |field, _| fields.push(field));
        fields
    }

    #[test]
    fn the_variable_chooses_and_an_empty_one_means_all() {
        let which = |envs: &_| Wish::enabled(envs).map(|wish| wish.which);
        for all in [BTreeMap::new(), visible(""), visible("all"), visible(" all ")] {
            assert_eq!(which(&all), Some(Which::All));
        }
        assert_eq!(which(&visible("none")), None);
        assert_eq!(which(&visible("void")), None);
        let ids = |ids: &[&str]| Some(Which::Ids(ids.iter().map(|id| (*id).to_owned()).collect()));
        assert_eq!(which(&visible("0, 2")), ids(&["0", "2"]));
        assert_eq!(which(&visible("GPU-a,MIG-b")), ids(&["GPU-a", "MIG-b"]));
    }

    #[test]
    fn who_asks_for_no_share_gets_a_gpu_whole() {
        let resolve = |raw| Wish::resolve(raw, &BTreeMap::new(), &mut |_, _| {});
        assert!(resolve(RawWish::default()).exclusive);
        assert_eq!(resolve(RawWish::default()).which, Which::Count(1));
        assert!(!resolve(RawWish { memory_mb: 1, ..RawWish::default() }).exclusive);
        assert!(!resolve(RawWish { compute: 1, ..RawWish::default() }).exclusive);
        assert!(!resolve(RawWish { shared: true, ..RawWish::default() }).exclusive);
        assert!(resolve(RawWish { exclusive: true, memory_mb: 1, ..RawWish::default() }).exclusive);
    }

    #[test]
    fn all_gpus_with_a_share_of_each_are_shared() {
        let resolve = |raw| Wish::resolve(raw, &BTreeMap::new(), &mut |_, _| {});
        let all = resolve(RawWish { all: true, queue: true, ..RawWish::default() });
        assert_eq!((all.which, all.exclusive), (Which::All, false));
        let two = resolve(RawWish { all: true, count: 2, ..RawWish::default() });
        assert_eq!((two.which, two.exclusive), (Which::Count(2), true));
    }

    #[test]
    fn waiting_does_not_change_what_runs_and_what_an_overrun_brings_does() {
        let resolve = |raw| Wish::resolve(raw, &BTreeMap::new(), &mut |_, _| {});
        let plain = resolve(RawWish::default());
        let waits = resolve(RawWish { queue: true, ..RawWish::default() });
        assert_eq!((waits.queue, plain.queue), (Some(WAIT), None));
        assert_eq!(waits.canonical(), plain.canonical());
        let stops = RawWish { on_overrun: Some(OnOverrun::Stop), ..RawWish::default() };
        assert_eq!(resolve(stops).canonical(), ["count=1", "exclusive", "onOverrun=stop"]);
    }

    #[test]
    fn a_wish_that_makes_no_sense_is_told_by_its_fields() {
        let none = BTreeMap::new();
        let id = |id: &str| vec![id.to_owned()];
        let twice = vec!["0".to_owned(), "0".to_owned()];
        let seconds = |count| Some(Ok(Duration::from_secs(count)));
        for (raw, field) in [
            (RawWish { count: -1, ..RawWish::default() }, "gpus.count"),
            (RawWish { count: 65, ..RawWish::default() }, "gpus.count"),
            (RawWish { count: 2, ids: id("0"), ..RawWish::default() }, "gpus.count"),
            (RawWish { ids: id(""), ..RawWish::default() }, "gpus.ids[0]"),
            (RawWish { ids: twice, ..RawWish::default() }, "gpus.ids[1]"),
            (RawWish { memory_mb: -1, ..RawWish::default() }, "gpus.memoryMB"),
            (RawWish { compute: 101, ..RawWish::default() }, "gpus.computePercent"),
            (RawWish { exclusive: true, shared: true, ..RawWish::default() }, "gpus.exclusive"),
            (RawWish { exclusive: true, compute: 5, ..RawWish::default() }, "gpus.exclusive"),
            (RawWish { profile: "x".repeat(33), ..RawWish::default() }, "gpus.migProfile"),
            (RawWish { queue_timeout: seconds(60), ..RawWish::default() }, "gpus.queueTimeout"),
            (
                RawWish { queue: true, queue_timeout: seconds(0), ..RawWish::default() },
                "gpus.queueTimeout",
            ),
            (
                RawWish { queue: true, queue_timeout: seconds(86_401), ..RawWish::default() },
                "gpus.queueTimeout",
            ),
        ] {
            assert_eq!(wrong(raw.clone(), &none), [field], "{raw:?}");
        }
        assert_eq!(wrong(RawWish::default(), &visible("0")), ["envs"]);
        assert_eq!(wrong(RawWish::default(), &visible("")), [""; 0]);
    }

    #[test]
    fn a_container_sees_what_it_was_given_and_loads_no_code_of_the_callers() {
        let mut envs = visible("all");
        envs.extend(["LD_PRELOAD", "LD_LIBRARY_PATH", "OLD_X"].map(|key| (key.into(), "x".into())));
        let booking = |device: &str| Booking { device: device.into(), ..Booking::default() };
        environment(&mut envs, &[booking("GPU-a"), booking("GPU-b")], Some("/mps"));
        assert_eq!(envs.keys().collect::<Vec<_>>(), [VISIBLE, "OLD_X"]);
        assert_eq!(envs[VISIBLE], "GPU-a,GPU-b");
    }

    #[test]
    fn mps_keeps_a_container_within_what_it_booked_whatever_the_caller_says() {
        let booking = |device: &str| Booking {
            device: device.into(),
            memory_mb: 4096,
            compute: 25,
            enforced: true,
            ..Booking::default()
        };
        let limit = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";
        let mut envs = visible("all");
        envs.insert(limit.to_owned(), "0=80G".to_owned());
        environment(&mut envs, &[booking("GPU-a"), booking("GPU-b")], Some("/mps"));
        assert_eq!(envs[limit], "0=4096M,1=4096M");
        assert_eq!(envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "25");
        assert_eq!(envs["CUDA_MPS_PIPE_DIRECTORY"], "/mps");
        let only = Booking { memory_mb: 0, ..booking("GPU-a") };
        let mut envs = visible("all");
        environment(&mut envs, &[only], Some("/mps"));
        assert!(!envs.contains_key(limit));
    }
}
