//! Unpacks an archive that becomes a build context into a folder of its own.
//!
//! Every folder on the way to an entry is opened without following a link, so whatever
//! the archive says, nothing is written outside. Links are made as they are.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write as _},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use super::kept::{BESIDE, Kept, LONGEST};
use crate::domain::{
    Error, Kind, Result,
    archive::{self, Checker, Entry, Part, Sort},
    source::{MOST_ENTRIES, too_large},
};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// Most folders inside each other, as the walk takes them.
const DEEPEST: usize = 200;
/// Bytes after which the disk is looked at again.
const LOOK: u64 = 16 << 20;
/// Bytes that are read behind the end of an archive: what fills its last record.
const BEHIND: u64 = 1 << 20;
/// Folders that are held open.
const HELD: usize = 32;
/// The largest window of zstd, 8 MiB: a decoder must hold that much of what it read.
const WINDOW_LOG: u32 = 23;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What an archive may take.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Most bytes of all its files, and of the archive itself, unpacked.
    pub bytes: u64,
    /// Bytes that stay free on the disk.
    pub min_free: u64,
}

/// Reads an archive, plain or compressed by gzip or zstd, and makes what it holds below
/// a folder; answers with the bytes of its files. `wanted` is asked often.
///
/// INVALID_ARGUMENT for what is no archive, is not whole or would lead out of the
/// folder, RESOURCE_EXHAUSTED for more than the limits allow.
pub fn unpack(
    archive: impl Read,
    folder: &Path,
    limits: UnpackLimits,
    wanted: &dyn Fn() -> bool,
) -> Result<u64> {
    let root = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, root, Mode::empty()).map_err(lost)?;
    let mut unpack = Unpack {
        root,
        limits,
        bytes: 0,
        entries: 0,
        looked: 0,
        file: None,
        held: HashMap::new(),
        folders: HashMap::new(),
        kept: Kept::default(),
    };
    let (mut passed, mut behind) = (0, 0);
    let mut checker = Checker::of_any_links();
    let mut archive = plain(archive)?;
    let mut buffer = vec![0; PIECE];
    loop {
        go_on(wanted)?;
        match archive.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) if checker.has_ended() => {
                behind += read as u64;
                // Whoever sends more of it would keep a thread busy with nothing.
                if behind > BEHIND {
                    break;
                }
            }
            Ok(read) => {
                // Headers have a price too.
                passed += read as u64;
                if passed > limits.bytes {
                    return Err(over(passed, limits.bytes));
                }
                checker.read(&buffer[..read], &mut |part| match part {
                    Part::Entry(entry) => unpack.entry(&entry),
                    Part::Data(data) => unpack.data(data),
                })?;
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(unread(why)),
        }
    }
    checker.finish()?;
    unpack.end(wanted)
}

fn go_on(wanted: &dyn Fn() -> bool) -> Result<()> {
    match wanted() {
        true => Ok(()),
        false => Err(Error::new(Kind::Cancelled, "GIVEN_UP", "nobody wants the context")),
    }
}

/// Undoes the compression, if there is one.
fn plain<'a>(mut archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    archive.by_ref().take(4).read_to_end(&mut head).map_err(unread)?;
    let compressed = (head.starts_with(GZIP), head == ZSTD);
    let whole = io::Cursor::new(head).chain(archive);
    Ok(match compressed {
        (true, _) => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        (_, true) => {
            let mut decoder = zstd::stream::read::Decoder::new(whole).map_err(unread)?;
            decoder.window_log_max(WINDOW_LOG).map_err(unread)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

struct Unpack {
    root: OwnedFd,
    limits: UnpackLimits,
    bytes: u64,
    entries: u64,
    looked: u64,
    /// The file that is being written, its mode and its time.
    file: Option<(File, u32, u64, Vec<u8>)>,
    /// Folders by their paths.
    held: HashMap<Vec<u8>, OwnedFd>,
    /// Modes and times of folders, which are set last: one may be closed to its owner.
    folders: HashMap<Vec<u8>, (u32, u64)>,
    kept: Kept,
}

impl Unpack {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.close()?;
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            return Err(too_large(&format!("has more than {MOST_ENTRIES} entries")));
        }
        let parts: Vec<&[u8]> = parts(entry.path).collect();
        if parts.len() > DEEPEST {
            let why = format!("has more than {DEEPEST} folders inside each other");
            return Err(refused(entry.path, &why));
        }
        let Some((name, above)) = parts.split_last() else {
            return Ok(()); // The folder itself.
        };
        let path = parts.join(&b'/');
        if path.len() > LONGEST {
            let why = format!("has a path of {} bytes; at most {LONGEST} are taken", path.len());
            return Err(refused(entry.path, &why));
        }
        let failed = |why: Errno| unusable(entry.path, why.into());
        self.room(entry.size)?;
        if entry.sort == Sort::Folder {
            self.folder(&parts, entry.path)?;
            if !self.folders.contains_key(&path) && !self.kept.take(path.len() + BESIDE) {
                return Err(too_large("has folders whose paths are too long together"));
            }
            self.folders.insert(path, (entry.mode, entry.mtime));
            return Ok(());
        }
        let link = match entry.sort {
            Sort::HardLink => Some(self.linked(entry)?),
            _ => None,
        };
        let folder = self.folder(above, entry.path)?;
        // As tar does: the later of two of one name counts.
        match rustix::fs::unlinkat(folder, *name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => return Err(failed(why)),
        }
        match entry.sort {
            Sort::Symlink => rustix::fs::symlinkat(entry.target, folder, *name).map_err(failed),
            Sort::Fifo => {
                let mode = Mode::from_raw_mode(entry.mode);
                rustix::fs::mknodat(folder, *name, FileType::Fifo, mode, 0).map_err(failed)
            }
            Sort::HardLink => {
                let (from, target) = link.ok_or_else(|| Error::internal("a link has no target"))?;
                rustix::fs::linkat(from, &target[..], folder, *name, AtFlags::empty())
                    .map_err(failed)
            }
            Sort::File | Sort::Folder => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(folder, *name, flags, Mode::from_raw_mode(0o600));
                let file = File::from(file.map_err(failed)?);
                self.file = Some((file, entry.mode, entry.mtime, path));
                Ok(())
            }
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<()> {
        self.bytes += data.len() as u64;
        if self.bytes - self.looked >= LOOK {
            self.looked = self.bytes;
            self.room(0)?;
        }
        match &mut self.file {
            Some((file, _, _, path)) => file.write_all(data).map_err(|why| unusable(path, why)),
            None => Ok(()),
        }
    }

    /// Ends the file at hand.
    fn close(&mut self) -> Result<()> {
        let Some((file, mode, mtime, path)) = self.file.take() else { return Ok(()) };
        let failed = |why: Errno| unusable(&path, why.into());
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
        rustix::fs::futimens(&file, &times(mtime)).map_err(failed)
    }

    fn end(mut self, wanted: &dyn Fn() -> bool) -> Result<u64> {
        self.close()?;
        let mut folders: Vec<_> = std::mem::take(&mut self.folders).into_iter().collect();
        // What is deepest first: the folders above must stay open to us.
        folders.sort_by_key(|(path, ..)| std::cmp::Reverse(parts(path).count()));
        for (path, (mode, mtime)) in folders {
            go_on(wanted)?;
            let steps: Vec<&[u8]> = parts(&path).collect();
            let failed = |why: Errno| unusable(&path, why.into());
            // It may have become something else since.
            let Ok(folder) = self.folder(&steps, &path) else { continue };
            rustix::fs::fchmod(folder, Mode::from_raw_mode(mode)).map_err(failed)?;
            rustix::fs::futimens(folder, &times(mtime)).map_err(failed)?;
            self.held.clear();
        }
        Ok(self.bytes)
    }

    /// The folder of the entry that a hard link names, and its name there.
    fn linked(&mut self, entry: &Entry<'_>) -> Result<(OwnedFd, Vec<u8>)> {
        let steps: Vec<&[u8]> = parts(entry.target).collect();
        let (name, above) =
            steps.split_last().ok_or_else(|| refused(entry.path, "links to no entry"))?;
        let from = self.folder(above, entry.path)?;
        let from = from.try_clone().map_err(lost)?;
        Ok((from, name.to_vec()))
    }

    /// Opens a folder, and makes it and those above where they are missing.
    fn folder(&mut self, steps: &[&[u8]], of: &[u8]) -> Result<&OwnedFd> {
        if steps.is_empty() {
            return Ok(&self.root);
        }
        let path = steps.join(&b'/');
        if !self.held.contains_key(&path) {
            if self.held.len() >= HELD {
                self.held.clear();
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut folder: Option<OwnedFd> = None;
            for step in steps {
                let at = folder.as_ref().unwrap_or(&self.root);
                let open = || rustix::fs::openat(at, *step, flags, Mode::empty());
                let opened = match open() {
                    Err(Errno::NOENT) => {
                        let made = rustix::fs::mkdirat(at, *step, Mode::from_raw_mode(0o755));
                        made.and_then(|()| open())
                    }
                    opened => opened,
                };
                let opened = opened.map_err(|why| match why {
                    Errno::NOTDIR | Errno::LOOP => {
                        refused(of, "leads through an entry that is no folder")
                    }
                    why => unusable(of, why.into()),
                })?;
                folder = Some(opened);
            }
            self.held.extend(folder.map(|folder| (path.clone(), folder)));
        }
        self.held.get(&path).ok_or_else(|| Error::internal("a folder is lost"))
    }

    /// Refuses what is too much, for the limit or for the disk.
    fn room(&self, more: u64) -> Result<()> {
        let bytes = self.bytes.saturating_add(more);
        if bytes > self.limits.bytes {
            return Err(over(bytes, self.limits.bytes));
        }
        let disk = rustix::fs::fstatvfs(&self.root).map_err(lost)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match free < more.saturating_add(self.limits.min_free) {
            true => Err(disk_full()),
            false => Ok(()),
        }
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn refused(path: &[u8], why: &str) -> Error {
    let path = archive::shown(path);
    Error::new(Kind::InvalidArgument, "ARCHIVE_REFUSED", format!("the entry \"{path}\" {why}"))
}

fn over(bytes: u64, most: u64) -> Error {
    too_large(&format!(
        "unpacks to {bytes} bytes or more; at most {most} are taken, which \
         build_source_max_bytes decides"
    ))
}

fn disk_full() -> Error {
    let told = "there is no room for the build context on the disk of data_dir, or less would \
                be free than asset_min_free_bytes; make room";
    Error::new(Kind::ResourceExhausted, "DISK_FULL", told)
}

/// What comes is broken; a caller that leaves is an error of its own.
fn unread(why: io::Error) -> Error {
    match why.downcast::<Error>() {
        Ok(error) => error,
        Err(why) => {
            // As the decoder says of a window that is larger than it may be.
            let told = match why.to_string().contains("too much memory") {
                true => "the archive needs a window of more than 8 MiB to be read; compress it \
                         by zstd without --long and --ultra"
                    .to_owned(),
                false => format!("the archive cannot be read: {why}; send all of it"),
            };
            Error::new(Kind::InvalidArgument, "ARCHIVE_REFUSED", told).because(why)
        }
    }
}

/// What an archive asks for and the disk does not do; what it says is the caller's doing.
fn unusable(path: &[u8], why: io::Error) -> Error {
    match Errno::from_io_error(&why) {
        Some(Errno::NOSPC | Errno::DQUOT) => disk_full().because(why),
        Some(
            Errno::NOENT
            | Errno::EXIST
            | Errno::ISDIR
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::MLINK
            | Errno::NAMETOOLONG
            // Names that this disk takes not: not in its encoding, or reserved.
            | Errno::ILSEQ
            | Errno::INVAL
            | Errno::ACCESS
            | Errno::PERM
            | Errno::OPNOTSUPP
            | Errno::FBIG,
        ) => refused(path, &format!("cannot be made: {why}; leave it out")).because(why),
        _ => lost(why),
    }
}

/// What is wrong with the folder itself, or with this machine.
fn lost(why: impl Into<io::Error>) -> Error {
    Error::internal("a build context cannot be unpacked").because(why.into())
}

#[cfg(test)]
mod tests;
