//! The bytes of the engine's log API, cut into the pieces that containers wrote.

use super::{Stream, parse_time};

/// Longest text of one piece. The engine cuts at 16 KiB, some drivers at 256 KiB.
const MAX_TEXT: usize = 1 << 20;
/// Most bytes that are taken from a read while a piece is incomplete.
const STEP: usize = 16 * 1024;
/// Bytes before a frame: the stream, three zeros, the length in big endian.
const HEADER: usize = 8;
/// Longest time in front of a text, with the space after it.
const MAX_STAMP: usize = 40;
/// How the engine writes a time: `2026-01-01T00:00:00.000000000Z` and a space.
/// Source: `RFC3339NanoFixed` in moby's `pkg/jsonmessage`.
const STAMP: usize = 31;

/// What a container wrote at once, at most 16 KiB of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Where it was written.
    pub stream: Stream,
    /// Nanoseconds since 1970. All pieces of one line have the time of its first.
    pub time: i64,
    /// With the newline, when it ends a line.
    pub text: &'a [u8],
}

/// Bytes that are no log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// A frame of a stream that does not exist.
    Stream(u8),
    /// A frame, or a piece of a terminal's log, that is too long.
    Length(u64),
    /// A piece without a time; its first bytes.
    Time(String),
    /// The bytes end within a piece.
    Truncated,
    /// The engine's own words about what it cannot read.
    Engine(String),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(number) => write!(f, "a frame of the unknown stream {number}"),
            Self::Length(bytes) => write!(f, "a piece of {bytes} bytes"),
            Self::Time(begin) => write!(f, "a piece without a time: {begin:?}"),
            Self::Truncated => f.write_str("an end in the middle of a piece"),
            Self::Engine(text) => write!(f, "an error: {text}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Cuts the bytes, however they were split into reads. Holds at most one piece.
///
/// With a terminal there are no frames: a piece ends with its newline, or where
/// the next time stands. A text may hold times too; but a program can only print
/// one that has passed, and the engine stamps a text after it was printed. So a
/// time that is earlier than the piece's own is text, and any other, in the
/// engine's exact form, begins the next piece: one of the same line, or after the
/// last words of a run that ended without a newline.
#[derive(Debug)]
pub struct Frames {
    tty: bool,
    /// Bytes of a piece whose end was not read yet.
    held: Vec<u8>,
    /// How many of them were searched for an end.
    searched: usize,
}

impl Frames {
    /// For a container with or without a terminal.
    pub fn new(tty: bool) -> Self {
        Self { tty, held: Vec::new(), searched: 0 }
    }

    /// True when a piece was begun and not ended.
    pub fn holds_back(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next bytes and tells each piece that is whole.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Piece<'_>),
    ) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if self.held.is_empty() {
                // Most pieces come whole and need not be copied. What is left is
                // less than a piece.
                let taken = self.cut(bytes, &mut each)?;
                self.held.extend_from_slice(&bytes[taken..]);
                break;
            }
            let (now, later) = bytes.split_at(bytes.len().min(STEP));
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(now);
            let taken = self.cut(&held, &mut each)?;
            held.drain(..taken);
            self.held = held;
            bytes = later;
        }
        Ok(())
    }

    /// Nothing follows. The last words on a terminal need no newline.
    pub fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) -> Result<(), FrameError> {
        let held = std::mem::take(&mut self.held);
        self.searched = 0;
        if held.is_empty() {
            return Ok(());
        }
        if !self.tty {
            return Err(FrameError::Truncated);
        }
        let (time, text) = stamped(&held)?.ok_or(FrameError::Truncated)?;
        each(Piece { stream: Stream::Stdout, time, text: &held[text..] });
        Ok(())
    }

    /// Tells the whole pieces and answers how many bytes they took.
    fn cut(&mut self, bytes: &[u8], each: &mut impl FnMut(Piece<'_>)) -> Result<usize, FrameError> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let piece = if self.tty { self.line(rest)? } else { frame(rest)? };
            let Some((piece, length)) = piece else { return Ok(taken) };
            each(piece);
            taken += length;
        }
    }

    /// The first piece of a terminal's log and its length, when its end is there.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Piece<'a>, usize)>, FrameError> {
        let Some((time, begin)) = stamped(bytes)? else { return Ok(None) };
        let from = self.searched.max(begin);
        let newline = memchr::memchr(b'\n', &bytes[from..]).map(|at| from + at + 1);
        let whole = newline.unwrap_or(bytes.len());
        // A time may have been cut by the end of what was searched before.
        let earliest = from.saturating_sub(STAMP).max(begin);
        let next = next_time(&bytes[..whole], earliest, begin, time);
        let end = next.or(newline);
        let known = end.unwrap_or(bytes.len().saturating_sub(STAMP));
        if known.saturating_sub(begin) > MAX_TEXT {
            return Err(FrameError::Length((bytes.len() - begin) as u64));
        }
        self.searched = if end.is_some() { 0 } else { bytes.len() };
        let text = |end| Piece { stream: Stream::Stdout, time, text: &bytes[begin..end] };
        Ok(end.map(|end| (text(end), end)))
    }
}

/// Where, behind a text that is not empty, a time stands that is not earlier.
fn next_time(bytes: &[u8], earliest: usize, begin: usize, time: i64) -> Option<usize> {
    // The end of a time is rarer in texts than its beginning.
    memchr::memmem::find_iter(&bytes[earliest..], b"Z ").find_map(|at| {
        let at = (earliest + at + 2).checked_sub(STAMP).filter(|at| *at > begin)?;
        let stamp = &bytes[at..at + STAMP - 1];
        let fixed = stamp.get(19) == Some(&b'.');
        (fixed && parse_time(stamp)? >= time).then_some(at)
    })
}

/// The first frame as a piece, and its length, when it is there as a whole.
fn frame(bytes: &[u8]) -> Result<Option<(Piece<'_>, usize)>, FrameError> {
    let Some(number) = bytes.first() else { return Ok(None) };
    let stream = match number {
        // What came from the input is told with the output, as Docker's client does.
        0 | 1 => Stream::Stdout,
        2 | 3 => Stream::Stderr,
        other => return Err(FrameError::Stream(*other)),
    };
    let Some(Ok(length)) = bytes.get(4..HEADER).map(<[u8; 4]>::try_from) else { return Ok(None) };
    let length = u32::from_be_bytes(length);
    let text = usize::try_from(length).ok().filter(|length| *length <= MAX_TEXT + MAX_STAMP);
    let end = HEADER + text.ok_or(FrameError::Length(length.into()))?;
    let Some(payload) = bytes.get(HEADER..end) else { return Ok(None) };
    if *number == 3 {
        return Err(FrameError::Engine(shown(payload)));
    }
    let (time, begin) = stamped(payload)?.ok_or_else(|| FrameError::Time(shown(payload)))?;
    Ok(Some((Piece { stream, time, text: &payload[begin..] }, end)))
}

/// The time in front and where the text begins; `None` when more must be read.
fn stamped(bytes: &[u8]) -> Result<Option<(i64, usize)>, FrameError> {
    let head = &bytes[..bytes.len().min(MAX_STAMP)];
    match memchr::memchr(b' ', head) {
        Some(end) => match parse_time(&head[..end]) {
            Some(time) => Ok(Some((time, end + 1))),
            None => Err(FrameError::Time(shown(bytes))),
        },
        None if head.len() == MAX_STAMP => Err(FrameError::Time(shown(bytes))),
        None => Ok(None),
    }
}

/// The beginning of some bytes, for people.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim().to_owned()
}

#[cfg(test)]
mod tests;
