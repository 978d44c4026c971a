//! A file of the log while it is read: how far, and whether it is still the same.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::Path,
};

use super::super::rotation::{ANCHOR, Body, digest};
use crate::domain::logs::Place;

/// A file of the log that is read.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) body: Body,
    pub(super) inode: u64,
    /// Bytes that were read, always up to the end of a record.
    pub(super) offset: u64,
    /// The last of them.
    pub(super) tail: Vec<u8>,
    /// The engine has gone on to another file: what is here is all.
    pub(super) left: bool,
    /// It is a copy of one that was then cut to nothing.
    pub(super) copy: bool,
}

impl Open {
    pub(super) fn new(body: Body, inode: u64) -> Self {
        Self { body, inode, offset: 0, tail: Vec::new(), left: false, copy: false }
    }

    /// `None` when nothing was read of it.
    pub(super) fn place(&self) -> Option<Place> {
        let Self { inode, offset, tail, copy, .. } = self;
        let (anchor, copy) = (digest(tail), *copy);
        (*offset > 0).then_some(Place::Files { inode: *inode, offset: *offset, anchor, copy })
    }

    /// Goes on at an offset up to which the file was proven to be the right one.
    pub(super) fn seek(&mut self, offset: u64, path: &Path) -> io::Result<()> {
        self.offset = offset;
        let length = offset.min(ANCHOR as u64);
        self.tail = vec![0; usize::try_from(length).unwrap_or(ANCHOR)];
        match &self.body {
            Body::Plain(file) => file.read_exact_at(&mut self.tail, offset - length),
            Body::Packed { .. } => {
                let mut whole =
                    flate2::bufread::MultiGzDecoder::new(io::BufReader::new(File::open(path)?));
                io::copy(&mut whole.by_ref().take(offset - length), &mut io::sink())?;
                whole.read_exact(&mut self.tail)
            }
        }
    }

    /// True when this is, or was when it was removed, the file that the engine wrote
    /// to. The kernel keeps the last name of an open file.
    pub(super) fn was_current(&self, path: &Path) -> bool {
        let Body::Plain(file) = &self.body else { return false };
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        link.is_ok_and(|link| {
            let link = link.to_string_lossy();
            Path::new(link.strip_suffix(" (deleted)").unwrap_or(&link)).file_name()
                == path.file_name()
        })
    }

    pub(super) fn took(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(ANCHOR)..]);
        self.tail.drain(..self.tail.len().saturating_sub(ANCHOR));
        if let Body::Packed { ahead, .. } = &mut self.body {
            ahead.drain(..bytes.len());
        }
    }
}

/// True when what stands before an offset is still what was read there.
pub(super) fn intact(file: &File, offset: u64, tail: &[u8], size: u64) -> io::Result<bool> {
    if size < offset {
        return Ok(false);
    }
    let mut bytes = vec![0; tail.len()];
    match file.read_exact_at(&mut bytes, offset - tail.len() as u64) {
        Ok(()) => Ok(bytes == tail),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
