//! What is written of a context, given on in pieces to whoever reads it.

use std::{
    fs::File,
    io::{self, Read as _},
};

use bytes::Bytes;

use super::walk::{Result, Stop, unusable};

/// Bytes of one piece.
pub(super) const PIECE: usize = 256 << 10;

/// Where a context is written to.
pub(super) struct Pieces<'a> {
    /// What comes next.
    pub(super) buffer: Vec<u8>,
    /// Takes a piece; false when nobody wants it.
    take: &'a mut dyn FnMut(Bytes) -> bool,
    /// Takes what should be told.
    tell: &'a mut dyn FnMut(String),
    /// False when nobody wants more of it.
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(
        take: &'a mut dyn FnMut(Bytes) -> bool,
        tell: &'a mut dyn FnMut(String),
        wanted: &'a dyn Fn() -> bool,
    ) -> Self {
        Self { buffer: Vec::with_capacity(PIECE), take, tell, wanted }
    }

    pub(super) fn tell(&mut self, warning: String) {
        (self.tell)(warning);
    }

    /// Ends the work that nobody wants any more, also where nothing is written.
    pub(super) fn go_on(&self) -> Result<()> {
        if (self.wanted)() { Ok(()) } else { Err(Stop::Unread) }
    }

    /// Gives on what is there when it is so much.
    pub(super) fn flush(&mut self, least: usize) -> Result<()> {
        if self.buffer.len() < least.max(1) {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        if (self.take)(piece.into()) { Ok(()) } else { Err(Stop::Unread) }
    }
}

/// Appends the next bytes of a file: so many, neither more nor less. How many are still
/// to come, and how many there should be, are for the error.
pub(super) fn read(
    mut file: &File,
    wanted: u64,
    (left, size): (u64, u64),
    path: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let read = io::Read::by_ref(&mut file).take(wanted).read_to_end(out);
    let read = read.map_err(|why| unusable(path, "cannot be read", Some(why)))? as u64;
    if read == wanted {
        return Ok(());
    }
    let why = format!(
        "became shorter while it was read, by {} of {size} bytes: build again when nobody writes \
         to it, or leave it out in .dockerignore",
        left - read
    );
    Err(unusable(path, &why, None))
}
