//! Reads the engine's json-file log straight from its files, across rotations.
//!
//! The engine writes it about as fast as a disk takes it, and serves it through
//! its API ten times slower and at a high cost. The reader keeps the file that it
//! reads open, so that it can end it after the engine renamed or removed it.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    Progress,
    rotation::{Body, Sibling, digest, is_damage, let_rotate, siblings},
};
use crate::domain::logs::{Batch, Checkpoint, Decoder, GapReason, Place};

mod open;

use open::{Open, intact, read_at};

/// Most bytes that are read at once; also the longest record. The engine's
/// longest has 16 KiB of text, each byte written with at most six.
const CHUNK: usize = 256 << 10;
/// How often a file may vanish while it is being opened.
const TRIES: usize = 8;

/// The log of one container.
#[derive(Debug)]
pub struct LogFiles {
    path: PathBuf,
    /// How many files the engine keeps, when it throws any away.
    kept: Option<usize>,
    /// Where to go on, until the file is found.
    resume: Option<Checkpoint>,
    open: Option<Open>,
    /// The end of the file before the open one.
    before: Option<Place>,
    decoder: Decoder,
}

impl LogFiles {
    /// The log at a path, from its first record or from a checkpoint on. Nothing is
    /// opened yet.
    pub fn new(path: &Path, from: Option<Checkpoint>) -> Self {
        let (resume, decoder) = match from {
            Some(from) => match from.place {
                Place::Files { .. } => (Some(from.clone()), from.decoder),
                Place::Engine { .. } => (None, from.decoder.over_again()),
            },
            None => (None, Decoder::default()),
        };
        Self { path: path.to_owned(), kept: None, resume, open: None, before: None, decoder }
    }

    /// Says how many files the engine keeps before it throws the oldest away.
    #[must_use]
    pub fn keeping(self, kept: Option<usize>) -> Self {
        Self { kept, ..self }
    }

    /// False when the log is not there or may not be read here. Any other trouble
    /// passes.
    pub fn readable(path: &Path) -> bool {
        let never = [ErrorKind::NotFound, ErrorKind::PermissionDenied];
        File::open(path).map_or_else(|error| !never.contains(&error.kind()), |_| true)
    }

    /// Where the reader stands; `None` when it has read nothing yet.
    ///
    /// Nothing proves which file it is of which nothing was read, so until then
    /// the place is the end of the one before.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let Some(open) = &self.open else { return self.resume.clone() };
        let place = open.place().or_else(|| self.before.clone())?;
        Some(Checkpoint { place, decoder: self.decoder.clone() })
    }

    /// Reads until the batch has about `limit` bytes or nothing is left. Blocks for
    /// the disk only.
    pub fn read(&mut self, limit: usize, out: &mut Batch) -> io::Result<Progress> {
        let mut buffer = Vec::new();
        while out.text().len() < limit {
            if self.open.is_none() && !self.find(out)? {
                return Ok(Progress::CaughtUp);
            }
            if self.chunk(&mut buffer, out)? {
                continue;
            }
            if !self.advance(out)? {
                return Ok(Progress::CaughtUp);
            }
        }
        Ok(Progress::More)
    }

    /// Ends what is open, after all was read and nothing can follow any more. When
    /// the log may have been removed before that, and was, a gap says so.
    pub fn finish(&mut self, removed: bool, out: &mut Batch) {
        if removed && !self.open.as_ref().is_some_and(|open| open.was_current(&self.path)) {
            self.decoder.missing(GapReason::Removed, out);
        }
        self.decoder.finish(out);
    }

    /// Reads one piece of the open file; false when there was nothing.
    fn chunk(&mut self, buffer: &mut Vec<u8>, out: &mut Batch) -> io::Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let full = match &mut open.body {
            Body::Plain(file) => {
                let size = file.metadata()?.len();
                let length = size.saturating_sub(open.offset).min(CHUNK as u64);
                buffer.resize(usize::try_from(length).unwrap_or(CHUNK), 0);
                let read = read_at(file, buffer, open.offset)?;
                buffer.truncate(read);
                // Looked at after the read: were it cut and written anew in between,
                // these bytes would not be the old ones any more.
                if !intact(file, open.offset, &open.tail, size)? {
                    self.cut_short(out)?;
                    return Ok(true);
                }
                // The engine cuts a single file to nothing when it is full. Before
                // anything was read nobody can know whether it did.
                let first = read > 0 && self.decoder.last_time().is_none();
                if first && self.kept == Some(1) {
                    self.decoder.missing(GapReason::Rotated, out);
                }
                read == CHUNK
            }
            Body::Packed { decoder, ahead } => {
                let have = ahead.len();
                let room = (CHUNK - have) as u64;
                match decoder.by_ref().take(room).read_to_end(ahead) {
                    // The engine was killed as it packed it.
                    Err(error) if is_damage(&error) && ahead.len() == have => {
                        self.decoder.missing(GapReason::Damaged, out);
                        open.left = true;
                        return Ok(false);
                    }
                    Err(error) if !is_damage(&error) => return Err(error),
                    _ => {}
                }
                buffer.clone_from(ahead);
                ahead.len() == CHUNK
            }
        };
        let mut taken = self.decoder.records(buffer, out);
        if taken == 0 && full {
            // No record is so long: the file is damaged here.
            self.decoder.missing(GapReason::Damaged, out);
            taken = buffer.len();
        }
        open.took(&buffer[..taken]);
        Ok(taken > 0)
    }

    /// At the end of a file: goes on to the next one; false when there is none yet.
    fn advance(&mut self, out: &mut Batch) -> io::Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        if !open.left {
            let now = match fs::metadata(&self.path) {
                Ok(meta) => Some(meta.ino()),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let current = matches!(open.body, Body::Plain(_)) && now == Some(open.inode);
            // Without a current file the engine is between two, or the log is gone.
            if current || now.is_none() {
                return Ok(false);
            }
            // What was written between our last read and its rename is still to come.
            open.left = true;
            return Ok(true);
        }
        let inode = open.inode;
        for _ in 0..TRIES {
            let files = siblings(&self.path)?;
            let own = match files.iter().position(|file| file.inode == inode) {
                Some(at) => Some((at, None)),
                // Compressed, it has another inode.
                None => self.find_copy(&files)?.map(|(at, copy)| (at, Some(copy))),
            };
            let next = match &own {
                Some((at, _)) => files.get(at + 1),
                None => files.first(),
            };
            let Some(next) = next else {
                if settled(&files, &self.path)? {
                    return Ok(false);
                }
                continue;
            };
            let Some(body) = Body::open(next)? else { continue };
            // A new file gets the inode of one that was removed: what was opened may
            // be a later one than was listed. While both are open neither inode is
            // given away, and where both stand as before, nothing lies between them.
            if !settled(&files, &self.path)? {
                continue;
            }
            if own.is_none() {
                self.decoder.missing(GapReason::Rotated, out);
            }
            self.go_on_with(Open::new(body, next.inode), out);
            return Ok(true);
        }
        // The engine renames faster than its files can be listed. Only of the current
        // one is it certain that nothing of it was read.
        let files = siblings(&self.path)?;
        let Some(last) = files.last() else { return Ok(false) };
        let Some(body) = Body::open(last)? else { return Ok(true) };
        self.decoder.missing(GapReason::Rotated, out);
        self.go_on_with(Open::new(body, last.inode), out);
        Ok(true)
    }

    fn go_on_with(&mut self, next: Open, out: &mut Batch) {
        let left = self.open.replace(next);
        if left.as_ref().is_some_and(|left| left.copy) {
            self.decoder.missing(GapReason::Truncated, out);
        }
        self.before = left.and_then(|left| left.place()).or(self.before.take());
    }

    /// The open file was cut to nothing. What was not read of it may be in a copy.
    fn cut_short(&mut self, out: &mut Batch) -> io::Result<()> {
        let files = siblings(&self.path)?;
        let copy = self.find_copy(&files)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        match copy {
            Some((at, body)) => {
                open.body = body;
                open.inode = files[at].inode;
                (open.left, open.copy) = (true, true);
            }
            None => {
                self.decoder.missing(GapReason::Truncated, out);
                self.before = open.place();
                open.offset = 0;
                open.tail.clear();
            }
        }
        Ok(())
    }

    /// Another file that holds what was read of the open one up to its offset.
    fn find_copy(&self, files: &[Sibling]) -> io::Result<Option<(usize, Body)>> {
        let Some(open) = self.open.as_ref().filter(|open| open.offset > 0) else {
            return Ok(None);
        };
        let anchor = digest(&open.tail);
        for (at, file) in files.iter().enumerate().filter(|(_, f)| f.inode != open.inode) {
            if let Some(mut body) = Body::open(file)?
                && body.holds(open.offset, &anchor)?
            {
                return Ok(Some((at, body)));
            }
        }
        Ok(None)
    }

    /// True when, at the first look, there are as many files as the engine keeps: it
    /// may have thrown some away, and nobody can know. Of a single file it is not
    /// known before something of it was read.
    fn may_lack_its_beginning(&self, files: &[Sibling]) -> io::Result<bool> {
        let full = self.kept.is_some_and(|kept| kept > 1 && files.len() >= kept);
        if !full || self.decoder.last_time().is_some() {
            return Ok(false);
        }
        match fs::metadata(&files[0].path) {
            Ok(meta) => Ok(meta.len() > 0),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// True when, at the first look, there is one file less than the engine keeps, as there
    /// is for a moment while it rotates: the oldest may have been thrown away just now.
    fn may_be_rotated(&self, files: &[Sibling]) -> bool {
        let first = self.resume.is_none() && self.decoder.last_time().is_none();
        let less = self.kept.is_some_and(|kept| kept > 1 && files.len() + 1 == kept);
        first && less && files.iter().any(|file| file.size > 0)
    }

    /// Opens the file in which to begin; false when there is none.
    fn find(&mut self, out: &mut Batch) -> io::Result<bool> {
        for _ in 0..TRIES {
            let files = match siblings(&self.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                other => other?,
            };
            if files.is_empty() {
                return Ok(false);
            }
            let mut begin = 0;
            if let Some(Checkpoint {
                place: Place::Files { inode, offset, anchor, copy }, ..
            }) = &self.resume
            {
                // Its own inode first, then any file: it may have been copied or packed.
                let mut ordered: Vec<_> = files.iter().collect();
                ordered.sort_by_key(|file| file.inode != *inode);
                for file in ordered {
                    if let Some(mut body) = Body::open(file)?
                        && body.holds(*offset, anchor)?
                    {
                        let mut open = Open::new(body, file.inode);
                        open.seek(*offset, &file.path)?;
                        // The engine renames and packs; only others copy.
                        open.copy = *copy || (file.inode != *inode && !file.compressed);
                        self.open = Some(open);
                        self.resume = None;
                        return Ok(true);
                    }
                }
                // It was cut: what is older was read, and is not read once more.
                let cut = |file: &Sibling| file.inode == *inode && file.size < *offset;
                begin = files.iter().position(cut).unwrap_or(0);
            }
            let Some(body) = Body::open(&files[begin])? else { continue };
            if self.may_be_rotated(&files) {
                let_rotate();
            }
            // As in `advance`.
            if !settled(&files, &self.path)? {
                continue;
            }
            if let Some(resume) = self.resume.take() {
                self.before = Some(resume.place);
                self.decoder.missing(GapReason::Rotated, out);
            } else if self.may_lack_its_beginning(&files)? {
                self.decoder.missing(GapReason::Rotated, out);
            }
            self.open = Some(Open::new(body, files[begin].inode));
            return Ok(true);
        }
        Ok(false)
    }
}

/// False when the engine renamed since its files were listed: one may be left out.
fn settled(files: &[Sibling], path: &Path) -> io::Result<bool> {
    let again = siblings(path)?;
    let inodes = |files: &[Sibling]| files.iter().map(|f| (f.age, f.inode)).collect::<Vec<_>>();
    Ok(inodes(files) == inodes(&again))
}
