//! Follows one container's log through the engine's API, each piece exactly once.
//!
//! The engine gives no position in a log. It is found again by its end: the last
//! so many pieces are asked for, and what comes up to and with the piece that was
//! taken last is skipped. When that piece is not among them, more are asked for,
//! at last the whole log; when it is not there either, the engine has thrown it
//! away, and all that is left is new.
//!
//! The engine could also be asked for what was written since a time. But clocks
//! jump back, and what was written under such a clock would be left out; so would
//! the later pieces of a line, which have the time of its first. And the engine
//! would read its whole log for that answer, where the end of it is read quickly.
//!
//! ```text
//!                                           found; its end
//!   ------> search (follow=0, tail=n) ---------------------> follow (follow=1)
//!            ^  |  |  not found: n grows           |  |
//!            |  |  +---- not in the whole log:     |  +--> a last search --> ended
//!            |  |        a gap, all is new ------> |
//!            |  +-- n grows                        |
//!            +- not found, doubtful, silent, error +
//! ```
//!
//! A search does not follow, because a log that is shorter than asked for tells
//! its end only so. Following begins with the end of the log once more and finds
//! what the search took last.
//!
//! What the engine tells a follower is not all true: when it rotates a log it
//! tells pieces twice, or nothing any more, and when a container ends it may leave
//! out the last ones. So a piece that looks like one that was told before is looked
//! up by a search, so is a silence, and the last thing that is done is a search.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::Progress;
use crate::{
    domain::{
        Result,
        logs::{
            Batch, Checkpoint, Decoder, Found, FrameError, Frames, GapReason, Piece, Place, Seek,
        },
    },
    engine::{Engine, body::Body, errors},
};

/// How many pieces are asked for at the end of a log, one after the other; then
/// all. The first is enough for a short break, and each costs as much as all
/// before it.
const TAILS: [u64; 3] = [1 << 10, 1 << 15, 1 << 20];
/// Place in `TAILS` that means the whole log.
const WHOLE: usize = TAILS.len();
/// After how long a silence it is looked whether it is one: at first, and at most,
/// as each look doubles it.
const SILENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How often a piece is looked for that the whole log lacks, and how long before
/// each: while the engine rotates and packs files, it does not tell all of them.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

type Opening = Pin<Box<dyn Future<Output = Result<Body>> + Send>>;

/// The connection at hand.
enum Link {
    Opening(Opening),
    Open(Box<Body>),
    Ended,
}

/// One container's log. Holds one piece, the bytes that were read ahead, and what
/// the decoder holds back.
pub struct EngineLog {
    address: String,
    /// Path of the container's log, before the query's last parts.
    path: String,
    tty: bool,
    timeout: Duration,
    link: Link,
    /// The connection goes on with what is written from now on.
    follow: bool,
    /// How much of the log the connection tells, as a place in `TAILS`.
    tail: usize,
    /// Pieces that the connection told.
    told: u64,
    /// The engine has ended following; only what it left out is still to come.
    ending: bool,
    /// The search is the first, of a log of which nothing was taken.
    first: bool,
    /// How often the whole log lacked what is looked for.
    missed: u32,
    /// How long the next silence may last before it is looked into, and its end.
    silence: (Duration, Pin<Box<Sleep>>),
    frames: Frames,
    seek: Seek,
    decoder: Decoder,
    /// Ends when the engine has kept us waiting for too long.
    patience: Pin<Box<Sleep>>,
    /// The last read came to its end; the time since then is not the engine's.
    rested: bool,
}

impl Engine {
    /// Follows the log of a container from its first line, or from a checkpoint of
    /// such a log. NOT_FOUND when there is no such container.
    pub async fn follow_log(
        &self,
        id: &str,
        tty: bool,
        from: Option<&Checkpoint>,
    ) -> Result<EngineLog> {
        let decoder = from.map(|from| from.decoder.clone()).unwrap_or_default();
        let (seek, decoder) = match from.map(|from| &from.place) {
            None => (Seek::all(), decoder),
            Some(place @ Place::Engine { .. }) => (Seek::behind(place, false), decoder),
            // It was read from its files before; what is known of it is passed over.
            Some(Place::Files { .. }) => (Seek::all(), decoder.over_again()),
        };
        let version = self.docker().await?.client_version();
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        let mut log = EngineLog {
            address: self.address.clone(),
            path: format!(
                "/v{}.{}/containers/{id}/logs?stdout=1&stderr=1&timestamps=1",
                version.major_version, version.minor_version
            ),
            tty,
            timeout: self.timeout,
            link: Link::Ended,
            follow: false,
            tail: 0,
            told: 0,
            ending: false,
            first: false,
            missed: 0,
            silence: (SILENCE.0, Box::pin(tokio::time::sleep(SILENCE.0))),
            frames: Frames::new(tty),
            seek,
            decoder,
            patience: Box::pin(tokio::time::sleep(self.timeout)),
            rested: true,
        };
        log.search(0);
        poll_fn(|cx| log.poll_open(cx)).await?;
        Ok(log)
    }
}

impl EngineLog {
    /// Waits for new lines, then takes all that is ready, up to about `limit` bytes
    /// of the engine's answer. May be dropped and called again at any time, after
    /// an error too: it then goes on behind what was taken, which is in `out`
    /// whatever became of the call.
    pub async fn read(&mut self, limit: usize, out: &mut Batch) -> Result<Progress> {
        if self.rested || self.patience.is_elapsed() {
            self.rested = false;
            self.be_patient();
        }
        let read = poll_fn(|cx| self.poll_read(limit, out, cx)).await;
        self.rested = true;
        if read.is_err() {
            self.search(0);
        }
        read
    }

    /// The place behind what was taken.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { place: self.seek.place(), decoder: self.decoder.clone() }
    }

    /// Ends what is open, when nothing can follow any more.
    pub fn finish(&mut self, out: &mut Batch) {
        self.decoder.finish(out);
    }

    fn poll_read(
        &mut self,
        limit: usize,
        out: &mut Batch,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Progress>> {
        let (mut bytes, mut news) = (0, 0);
        while bytes < limit.max(1) {
            let (told, amid) = (self.told, self.frames.holds_back());
            let step = self.poll_step(out, &mut news, cx);
            if news > 0 {
                self.expect_silence(SILENCE.0);
            }
            let Poll::Ready(step) = step else {
                return match (news > 0, self.follow && self.seek.found()) {
                    (true, true) => Poll::Ready(Ok(Progress::CaughtUp)),
                    (true, false) => Poll::Ready(Ok(Progress::More)),
                    (false, _) => self.poll_patience(cx),
                };
            };
            match step? {
                Some(length) if news > 0 => bytes += length,
                // What was taken before is no news, and there may be much of it.
                Some(_) => {}
                None => return Poll::Ready(Ok(Progress::Ended)),
            }
            if self.told != told || !amid {
                self.be_patient();
            }
        }
        Poll::Ready(Ok(Progress::More))
    }

    /// Moves on by one chunk, and tells its length; `None` at the end.
    fn poll_step(
        &mut self,
        out: &mut Batch,
        news: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<usize>>> {
        let Link::Open(body) = &mut self.link else {
            let open = ready!(self.poll_open(cx))?;
            return Poll::Ready(Ok(open.then_some(0)));
        };
        let chunk = ready!(body.poll_chunk(cx))?;
        self.take(chunk.as_ref(), out, news)?;
        Poll::Ready(Ok(Some(chunk.map_or(0, |chunk| chunk.len()))))
    }

    /// Waits for the connection; false when there is to be none any more.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        if let Link::Opening(opening) = &mut self.link {
            let body = ready!(opening.as_mut().poll(cx));
            self.link = Link::Ended;
            self.link = Link::Open(Box::new(body?));
            self.be_patient();
        }
        Poll::Ready(Ok(matches!(self.link, Link::Open(_))))
    }

    /// Takes the next bytes; `None` is the end of the answer.
    fn take(&mut self, chunk: Option<&Bytes>, out: &mut Batch, news: &mut u64) -> Result<()> {
        let Self { frames, seek, decoder, told, follow, .. } = self;
        let (mut unclear, mut doubtful) = (false, false);
        let each = |piece: Piece<'_>| {
            doubtful |= *follow && seek.doubts(&piece);
            if unclear || doubtful {
                return;
            }
            *told += 1;
            match seek.next(&piece) {
                Found::Old => {}
                Found::New => {
                    decoder.piece(piece.stream, piece.time, piece.text, out);
                    *news += 1;
                }
                Found::Unclear => unclear = true,
            }
        };
        let cut = match chunk {
            Some(chunk) => frames.push(chunk, each),
            None => frames.finish(each),
        };
        cut.map_err(|error| match error {
            FrameError::Engine(text) => errors::answered(500, &text),
            other => errors::garbled(&self.address).because(other),
        })?;
        let told_all = TAILS.get(self.tail).is_some_and(|most| self.told >= *most);
        if doubtful {
            self.search(0);
        } else if unclear || (self.follow && !self.seek.found() && told_all) {
            self.search(self.tail + 1);
        } else if chunk.is_none() {
            self.ended(out);
        }
        Ok(())
    }

    /// What comes after an answer that was told to its end.
    fn ended(&mut self, out: &mut Batch) {
        let told_all = TAILS.get(self.tail).is_some_and(|most| self.told >= *most);
        if self.seek.found() {
            self.missed = 0;
        }
        match (self.follow, self.seek.found()) {
            (true, true) => {
                self.ending = true;
                self.search(0);
            }
            (true, false) => self.search(0),
            (false, true) if self.ending => self.link = Link::Ended,
            (false, true) if self.seek.at_start() => self.open(true, WHOLE),
            // All was read for the first time; its end is enough to go on from.
            (false, true) if self.first => {
                self.first = false;
                self.open(true, 0);
            }
            // The log grows in the meantime; so a little more of it is told.
            (false, true) => self.open(true, self.tail + 1),
            (false, false) if self.tail == WHOLE && self.missed + 1 < LOOKS => {
                self.missed += 1;
                self.search(WHOLE);
            }
            (false, false) if self.tail == WHOLE => {
                self.missed = 0;
                self.decoder.missing(GapReason::Rotated, out);
                self.seek = Seek::all();
                self.search(0);
            }
            (false, false) => self.search(if told_all { self.tail + 1 } else { WHOLE }),
        }
    }

    /// Looks for the piece that was taken last; when none was, all is new.
    fn search(&mut self, tail: usize) {
        self.first = self.seek.at_start();
        self.open(false, if self.first { WHOLE } else { tail });
    }

    /// Asks anew, on another connection.
    fn open(&mut self, follow: bool, tail: usize) {
        let tail = tail.min(WHOLE);
        let pieces = TAILS.get(tail).map_or_else(|| "all".to_owned(), u64::to_string);
        let path = format!("{}&follow={}&tail={pieces}", self.path, u8::from(follow));
        (self.follow, self.tail, self.told) = (follow, tail, 0);
        self.frames = Frames::new(self.tty);
        self.seek = Seek::behind(&self.seek.place(), tail == WHOLE);
        let (address, timeout, again) = (self.address.clone(), self.timeout, self.missed > 0);
        self.link = Link::Opening(Box::pin(async move {
            if again {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            Body::get(address, path, timeout).await
        }));
    }

    fn expect_silence(&mut self, time: Duration) {
        self.silence.0 = time;
        self.silence.1.as_mut().reset(Instant::now() + time);
    }

    fn be_patient(&mut self) {
        self.patience.as_mut().reset(Instant::now() + self.timeout);
    }

    /// A log may be silent for ever; but the engine also falls silent about one that
    /// it rotates, so now and then a search looks. What the engine has already, it
    /// must tell piece by piece within its time. On a terminal, last words have no end
    /// while the container runs.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Result<Progress>> {
        let live = self.follow && self.seek.found();
        let opening = matches!(self.link, Link::Opening(_));
        if live && !opening && !self.frames.holds_back() {
            ready!(self.silence.1.as_mut().poll(cx));
            self.expect_silence((self.silence.0 * 2).min(SILENCE.1));
            self.search(0);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if opening || (live && self.tty) {
            return Poll::Pending;
        }
        ready!(self.patience.as_mut().poll(cx));
        if live || !self.follow {
            return Poll::Ready(Err(errors::timeout(&self.address, self.timeout)));
        }
        // The log is shorter than was asked for, and lacks what is looked for.
        self.search(0);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
