//! XIDs, the errors that GPUs report: which tell that a GPU is broken, and for how long
//! it is given to nobody then.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// An error that a GPU reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    /// Its number in NVIDIA's catalogue.
    pub code: u64,
    /// When it was seen.
    pub at: Timestamp,
}

impl Xid {
    /// What is broken, by NVIDIA's catalogue. `None` for errors of programs, as bad
    /// accesses (13, 31, 43, 45), and for what the GPU mended by itself.
    pub fn fatal(&self) -> Option<&'static str> {
        Some(match self.code {
            46 => "it stopped working",
            48 | 95 | 140 => "its memory has an error that cannot be corrected",
            54 => "its power cable is not attached",
            61 | 62 => "its microcontroller stopped",
            64 => "its memory has no room to mend errors",
            74 => "its NVLink has an error",
            79 => "it fell off the bus",
            110 => "it has a security fault",
            119 | 120 => "its system processor does not answer",
            143 => "it cannot be initialized",
            _ => return None,
        })
    }

    /// True when another one is worth telling after this one: another error, or the same
    /// so long after it.
    pub fn is_news(&self, next: &Self, apart: Duration) -> bool {
        let since = Duration::try_from(next.at.duration_since(self.at)).unwrap_or_default();
        next.code != self.code || (next.at > self.at && since >= apart)
    }
}

/// GPUs that are given to nobody, by UUID.
#[derive(Debug, Default)]
pub struct Drains(BTreeMap<String, Xid>);

impl Drains {
    /// Notes an error; those of programs do not count.
    pub fn note(&mut self, uuid: &str, xid: Xid) {
        if xid.fatal().is_some() {
            let last = self.0.entry(uuid.to_owned()).or_insert(xid);
            if last.at <= xid.at {
                *last = xid;
            }
        }
    }

    /// Ends the drain of a GPU that has been well for so long. One that is lost is not
    /// well: its time begins anew.
    pub fn settle(&mut self, uuid: &str, lost: bool, now: Timestamp, quiet: Duration) {
        let Some(xid) = self.0.get_mut(uuid) else { return };
        if lost {
            xid.at = now;
        }
        // A clock that was put back must not keep it drained for ever.
        if now.duration_since(xid.at).unsigned_abs() >= quiet {
            self.0.remove(uuid);
        }
    }

    /// The error for which a GPU is drained.
    pub fn of(&self, uuid: &str) -> Option<Xid> {
        self.0.get(uuid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn errors_of_programs_drain_nothing_and_those_of_the_gpu_do() {
        let mut drains = Drains::default();
        for code in [13, 31, 43, 45, 63, 92, 94] {
            drains.note("GPU-0", Xid { code, at: at(0) });
            assert_eq!(drains.of("GPU-0"), None, "{code}");
        }
        drains.note("GPU-0", Xid { code: 48, at: at(0) });
        assert_eq!(drains.of("GPU-0").map(|xid| xid.code), Some(48));
        assert_eq!(drains.of("GPU-1"), None);
    }

    #[test]
    fn the_same_error_is_news_again_after_a_while() {
        let (told, apart) = (Xid { code: 48, at: at(100) }, Duration::from_secs(60));
        let news = |code, second| told.is_news(&Xid { code, at: at(second) }, apart);
        assert_eq!(
            [news(48, 100), news(48, 159), news(48, 160), news(79, 101)],
            [false, false, true, true]
        );
        assert!(!news(48, 10), "what was known before");
        assert!(!told.is_news(&told, Duration::ZERO));
    }

    #[test]
    fn a_gpu_returns_when_it_was_well_for_long_enough() {
        let mut drains = Drains::default();
        drains.note("GPU-0", Xid { code: 48, at: at(0) });
        drains.settle("GPU-0", false, at(599), QUIET);
        assert!(drains.of("GPU-0").is_some());
        // The same again, and then it is lost for a while.
        drains.note("GPU-0", Xid { code: 48, at: at(599) });
        drains.settle("GPU-0", true, at(1000), QUIET);
        drains.settle("GPU-0", false, at(1599), QUIET);
        assert!(drains.of("GPU-0").is_some());
        drains.settle("GPU-0", false, at(1600), QUIET);
        assert_eq!(drains.of("GPU-0"), None);
    }
}
