//! Finds again, in a new read of the same log, the piece that was taken last.
//!
//! A piece is known by its time, its number among the pieces of its stream with
//! exactly that time, one after the other, and a digest. The order is always the
//! log's, never the clock's: clocks jump back. The number is needed because all
//! pieces of one line have one time, and a coarse clock gives one to many lines.

use sha2::{Digest as _, Sha256};

use super::{Piece, Place, Stream};

/// Streams write their pieces into the log a little later than they stamp them.
const SKEW_NS: i64 = 10_000_000;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was taken before, or it may have been.
    Old,
    /// It is the next one.
    New,
    /// It is the next one, but its number cannot be known in this read, so it
    /// could not be found again: more of the log must be read.
    Unclear,
}

/// Where the last piece that was taken stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// Nothing was taken yet.
    Start,
    /// As a checkpoint says it.
    Known { time: i64, seen: u64, digest: String },
    /// In this read; its text is in `Seek::text`.
    Taken { stream: Stream, time: i64, seen: u64 },
}

/// Pieces of one stream with one time, one after the other.
#[derive(Debug, Clone, Copy)]
struct Run {
    time: i64,
    count: u64,
    /// Its first piece is known to be its first.
    begun: bool,
}

/// Tells old pieces from new ones in one read of a log.
#[derive(Debug)]
pub struct Seek {
    mark: Mark,
    found: bool,
    /// The read began with the log's first piece.
    whole: bool,
    /// Time of the first piece of the read.
    first: Option<i64>,
    stdout: Option<Run>,
    stderr: Option<Run>,
    /// Text of the last piece that was taken; kept for its digest.
    text: Vec<u8>,
}

impl Seek {
    /// In a read of the whole log, of which nothing was taken.
    pub fn all() -> Self {
        Self::of(Mark::Start, true)
    }

    /// Behind this place. `whole` says that the read begins with the first piece
    /// that the log has.
    pub fn behind(place: &Place, whole: bool) -> Self {
        match place {
            Place::Engine { time, seen, digest } if *seen > 0 => {
                Self::of(Mark::Known { time: *time, seen: *seen, digest: digest.clone() }, whole)
            }
            Place::Engine { .. } | Place::Files { .. } => Self::all(),
        }
    }

    fn of(mark: Mark, whole: bool) -> Self {
        let found = mark == Mark::Start;
        Self { mark, found, whole, first: None, stdout: None, stderr: None, text: Vec::new() }
    }

    /// True when nothing was taken yet.
    pub fn at_start(&self) -> bool {
        self.mark == Mark::Start
    }

    /// True when all that comes now is new.
    pub fn found(&self) -> bool {
        self.found
    }

    /// True when the next piece looks like one that was taken before: it is of the
    /// same time and text as the one before it, or earlier than that of its stream.
    /// Only a read that does not follow can tell whether it is another.
    pub fn doubts(&self, piece: &Piece<'_>) -> bool {
        let run = match piece.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        let Some(run) = run.filter(|_| self.found) else { return false };
        let same = match &self.mark {
            Mark::Start => false,
            Mark::Known { time, digest, .. } => {
                *time == piece.time && *digest == digest_of(piece.stream, *time, piece.text)
            }
            Mark::Taken { stream, time, .. } => {
                (*stream, *time, self.text.as_slice()) == (piece.stream, piece.time, piece.text)
            }
        };
        same || piece.time < run.time
    }

    /// Looks at the next piece of the read. A new one counts as taken.
    pub fn next(&mut self, piece: &Piece<'_>) -> Found {
        let run = self.run(piece);
        if self.found {
            if !run.begun {
                return Found::Unclear;
            }
            let (stream, time, seen) = (piece.stream, piece.time, run.count);
            self.mark = Mark::Taken { stream, time, seen };
            self.text.clear();
            self.text.extend_from_slice(piece.text);
            return Found::New;
        }
        if let Mark::Known { time, seen, digest } = &self.mark {
            self.found = run.begun
                && *time == piece.time
                && *seen == run.count
                && *digest == digest_of(piece.stream, piece.time, piece.text);
        }
        Found::Old
    }

    /// Counts the piece into its run.
    fn run(&mut self, piece: &Piece<'_>) -> Run {
        let time = piece.time;
        let first = *self.first.get_or_insert(time);
        let slot = match piece.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let run = match *slot {
            Some(run) if run.time == time => Run { count: run.count.saturating_add(1), ..run },
            Some(_) => Run { time, count: 1, begun: true },
            // Pieces of the run may stand before the read. Not so when the run
            // is later than the read's beginning: they would be later too.
            None => {
                let begun = self.whole || time > first.saturating_add(SKEW_NS);
                Run { time, count: 1, begun }
            }
        };
        *slot = Some(run);
        run
    }

    /// The place behind the last piece that was taken.
    pub fn place(&self) -> Place {
        let (time, seen, digest) = match &self.mark {
            Mark::Start => (0, 0, String::new()),
            Mark::Known { time, seen, digest } => (*time, *seen, digest.clone()),
            Mark::Taken { stream, time, seen } => {
                (*time, *seen, digest_of(*stream, *time, &self.text))
            }
        };
        Place::Engine { time, seen, digest }
    }
}

fn digest_of(stream: Stream, time: i64, text: &[u8]) -> String {
    let number = match stream {
        Stream::Stdout => [1u8],
        Stream::Stderr => [2u8],
    };
    let digest = Sha256::new().chain_update(number).chain_update(time.to_be_bytes());
    format!("{:x}", digest.chain_update(text).finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Log = Vec<(bool, i64, u8)>;

    /// Reads the log from `begin` and takes at most `most` new pieces.
    fn read(log: &Log, begin: usize, seek: &mut Seek, most: usize) -> (Log, bool) {
        let mut taken = Vec::new();
        for (out, time, text) in log.iter().skip(begin) {
            if taken.len() == most {
                break;
            }
            let stream = if *out { Stream::Stdout } else { Stream::Stderr };
            match seek.next(&Piece { stream, time: *time, text: &[*text] }) {
                Found::Old => {}
                Found::New => taken.push((*out, *time, *text)),
                Found::Unclear => return (taken, false),
            }
        }
        (taken, seek.found())
    }

    /// Few times that jump back and forth, and few texts: much looks alike.
    /// A jump never comes back to a time exactly, as no clock of nanoseconds does.
    fn log() -> impl Strategy<Value = Log> {
        let step = (any::<bool>(), prop_oneof![3 => Just(0i64), 1 => -5..5i64], 0u8..2);
        proptest::collection::vec(step, 0..80).prop_map(|steps| {
            let (mut time, mut unique) = (0, 0);
            steps
                .into_iter()
                .map(|(out, jump, text)| {
                    if jump != 0 {
                        unique += 1;
                        time = jump * 1_000_000_000 + unique;
                    }
                    (out, time, text)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_restarts_lose_nothing_and_repeat_nothing(
            log in log(), stops in proptest::collection::vec(0usize..9, 1..20),
        ) {
            let (mut taken, mut place) = (Log::new(), Seek::all().place());
            for most in stops.iter().chain(&[log.len()]) {
                let mut seek = Seek::behind(&place, true);
                taken.extend(read(&log, 0, &mut seek, *most).0);
                place = seek.place();
            }
            prop_assert_eq!(taken, log);
        }

        #[test]
        fn the_log_of_its_end_alone_never_misleads(
            log in log(), stop in any::<prop::sample::Index>(), begin in any::<prop::sample::Index>(),
        ) {
            let stop = stop.index(log.len() + 1);
            let mut seek = Seek::all();
            let (mut taken, _) = read(&log, 0, &mut seek, stop);
            // What could not be found, or numbered, is read again from the start.
            let mut end = Seek::behind(&seek.place(), false);
            let (more, _) = read(&log, begin.index(log.len() + 1), &mut end, log.len());
            if stop > 0 {
                prop_assert_eq!(&more[..], &log[stop..stop + more.len()]);
                taken.extend(more);
                let mut whole = Seek::behind(&end.place(), true);
                taken.extend(read(&log, 0, &mut whole, log.len()).0);
                prop_assert_eq!(taken, log);
            }
        }
    }

    #[test]
    fn what_was_told_before_is_doubted_and_what_is_new_is_not() {
        let mut seek = Seek::all();
        let piece = |time, text| Piece { stream: Stream::Stdout, time, text };
        let error = |time| Piece { stream: Stream::Stderr, time, text: b"e\n" };
        for (piece, doubted) in [
            (piece(5, b"a\n"), false),
            (piece(5, b"a\n"), true),
            (piece(5, b"b\n"), false),
            (error(3), false),
            (piece(4, b"c\n"), true),
            (piece(6, b"b\n"), false),
            (error(2), true),
        ] {
            assert_eq!(seek.doubts(&piece), doubted, "{piece:?}");
            if !doubted {
                assert_eq!(seek.next(&piece), Found::New);
            }
        }
    }

    #[test]
    fn what_was_rotated_away_is_not_found() {
        let log: Log = (0..9).map(|n| (true, n, 0)).collect();
        let mut seek = Seek::all();
        read(&log, 0, &mut seek, 3);
        let mut again = Seek::behind(&seek.place(), true);
        assert_eq!(read(&log, 4, &mut again, 9), (Log::new(), false));
        assert_eq!(again.place(), seek.place());
    }
}
