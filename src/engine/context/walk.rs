//! Walks a build context and writes it as a tar archive, piece by piece.
//!
//! Every folder is opened from the one that it is in, and nothing is followed. So
//! whatever happens to the tree meanwhile, nothing outside of it is read.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    vec::IntoIter,
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::tar::{self, Entry, Sort};
use crate::domain::{
    Error,
    ignore::{Ignore, Verdict},
};

/// Bytes of one piece.
const PIECE: usize = 256 << 10;
/// Most folders inside each other.
const DEEPEST: usize = 200;
/// Most of these that are held open; one further up is opened again when its turn comes.
const HELD: usize = 16;
/// Most entries, of which names and hard links are held in memory.
const MOST: usize = 2_000_000;

/// The attribute that a program has its capabilities in, and room for it.
const CAPABILITY: &str = "security.capability";
const LONGEST_CAPABILITY: usize = 64;

/// Why a walk ended early.
pub(super) enum Stop {
    /// Nobody reads any more.
    Unread,
    /// The tree cannot be sent.
    Failed(Error),
}

type Result<T, E = Stop> = std::result::Result<T, E>;

/// Where a walk writes to.
pub(super) struct Archive<'a> {
    buffer: Vec<u8>,
    /// Takes a piece; false when nobody wants it.
    take: &'a mut dyn FnMut(Bytes) -> bool,
    /// Takes what should be told.
    tell: &'a mut dyn FnMut(String),
    /// False when nobody wants the archive any more.
    wanted: &'a dyn Fn() -> bool,
}

struct Walk<'a, 'b> {
    ignore: &'a Ignore,
    /// Path that is written by somebody else, and whether it was met.
    apart: Option<&'a str>,
    met: bool,
    archive: &'a mut Archive<'b>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: usize,
}

/// A folder whose entries are being written.
struct Level {
    /// `None` while it is not held open, or in use.
    folder: Option<OwnedFd>,
    /// Which one it was.
    identity: (u64, u64),
    names: IntoIter<(Vec<u8>, FileType)>,
    /// Empty, or with a slash at its end.
    path: Vec<u8>,
    verdict: Option<Verdict>,
}

/// Writes a tree. The path `apart` is left out; answers whether it was met and not
/// ignored.
pub(super) fn write(
    folder: OwnedFd,
    ignore: &Ignore,
    apart: Option<&str>,
    archive: &mut Archive<'_>,
) -> Result<bool> {
    let mut walk = Walk { ignore, apart, met: false, archive, links: HashMap::new(), entries: 0 };
    let mut levels = vec![walk.enter(folder, Vec::new(), None)?];
    while let Some(mut level) = levels.pop() {
        let Some((name, sort)) = level.names.next() else { continue };
        let held = level.folder.take().or_else(|| again(levels.first(), &level));
        let Some(folder) = held else {
            walk.vanished(&level.path);
            continue;
        };
        let below = walk.entry(&folder, &level, &name, sort)?;
        level.folder = Some(folder);
        levels.push(level);
        let Some(below) = below else { continue };
        if levels.len() >= DEEPEST {
            let why = format!("has more than {DEEPEST} folders inside each other");
            return Err(unusable(&below.path, &why, None));
        }
        levels.push(below);
        // The first stays: from there the others are found.
        let far = levels.len().checked_sub(HELD + 1).filter(|far| *far > 0);
        if let Some(far) = far.and_then(|far| levels.get_mut(far)) {
            far.folder = None;
        }
    }
    Ok(walk.met)
}

impl<'a> Archive<'a> {
    pub(super) fn new(
        take: &'a mut dyn FnMut(Bytes) -> bool,
        tell: &'a mut dyn FnMut(String),
        wanted: &'a dyn Fn() -> bool,
    ) -> Self {
        Self { buffer: Vec::with_capacity(PIECE), take, tell, wanted }
    }

    /// Adds a file that is not on the disk.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let size = content.len() as u64;
        let entry = Entry {
            sort: Sort::File,
            path: path.as_bytes(),
            link: b"",
            mode: 0o600,
            size,
            mtime: 0,
            capability: b"",
        };
        entry.write(&mut self.buffer);
        self.buffer.extend_from_slice(content);
        tar::pad(&mut self.buffer, size);
        self.flush(PIECE)
    }

    /// Ends the archive.
    pub(super) fn end(mut self) -> Result<()> {
        self.buffer.extend_from_slice(&tar::END);
        self.flush(0)
    }

    /// Ends the work that nobody wants any more, also where nothing is written.
    fn go_on(&self) -> Result<()> {
        if (self.wanted)() { Ok(()) } else { Err(Stop::Unread) }
    }

    /// Gives on what is there when it is so much.
    fn flush(&mut self, least: usize) -> Result<()> {
        if self.buffer.len() < least {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        if (self.take)(piece.into()) { Ok(()) } else { Err(Stop::Unread) }
    }

    /// Copies a file, of which the header is written: so many bytes, neither more
    /// nor less.
    fn copy(&mut self, mut file: &File, size: u64, path: &[u8]) -> Result<()> {
        let mut left = size;
        while left > 0 {
            self.flush(PIECE)?;
            let room = (PIECE - self.buffer.len()) as u64;
            let wanted = left.min(room);
            let read = Read::by_ref(&mut file).take(wanted).read_to_end(&mut self.buffer);
            let read = read.map_err(|why| unusable(path, "cannot be read", Some(why)))? as u64;
            if read < wanted {
                let why = format!(
                    "became shorter while it was read, by {} of {size} bytes: build again when \
                     nobody writes to it, or leave it out in .dockerignore",
                    left - read
                );
                return Err(unusable(path, &why, None));
            }
            left -= read;
        }
        tar::pad(&mut self.buffer, size);
        self.flush(PIECE)
    }
}

impl Walk<'_, '_> {
    fn enter(&mut self, folder: OwnedFd, path: Vec<u8>, verdict: Option<Verdict>) -> Result<Level> {
        let failed = |why: Errno| unusable(&path, "cannot be listed", Some(why.into()));
        let mut names = Vec::new();
        let stat = rustix::fs::fstat(&folder).map_err(failed)?;
        let identity = (stat.st_dev, stat.st_ino);
        for entry in Dir::read_from(&folder).map_err(failed)? {
            self.archive.go_on()?;
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > MOST {
                let why = format!("has more than {MOST} entries; leave some out in .dockerignore");
                return Err(unusable(b"", &why, None));
            }
            names.push((name.to_vec(), entry.file_type()));
        }
        // The order of a disk is not the same twice.
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Level { folder: Some(folder), identity, names: names.into_iter(), path, verdict })
    }

    /// Writes one entry; answers with the folder to go into, if it is one.
    fn entry(
        &mut self,
        folder: &OwnedFd,
        level: &Level,
        name: &[u8],
        sort: FileType,
    ) -> Result<Option<Level>> {
        self.archive.go_on()?;
        let mut path = level.path.clone();
        path.extend_from_slice(name);
        let text = String::from_utf8_lossy(&path);
        let verdict = self.ignore.verdict(&text, level.verdict.as_ref());
        let certainly_no_folder = !matches!(sort, FileType::Directory | FileType::Unknown);
        if verdict.ignored && (certainly_no_folder || !self.ignore.has_exception_below(&text)) {
            return Ok(None);
        }
        if self.apart == Some(&*text) {
            self.met |= !verdict.ignored;
            return Ok(None);
        }
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(self.vanished(&path)),
            Err(why) => return Err(unusable(&path, "cannot be looked at", Some(why.into()))),
        };
        let mtime = stat.st_mtime;
        let mode = stat.st_mode;
        let plain =
            |sort| Entry { sort, path: &path, link: b"", mode, size: 0, mtime, capability: b"" };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
                    Ok(below) => below,
                    // It was a folder a moment ago.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                        return Ok(self.vanished(&path));
                    }
                    Err(why) => return Err(unusable(&path, "cannot be opened", Some(why.into()))),
                };
                if !verdict.ignored {
                    plain(Sort::Folder).write(&mut self.archive.buffer);
                }
                path.push(b'/');
                return self.enter(below, path, Some(verdict)).map(Some);
            }
            _ if verdict.ignored => {}
            FileType::RegularFile => self.file(folder, name, &path, &stat)?,
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                // Its text is kept, wherever it leads; the engine resolves it inside.
                Ok(link) => {
                    let link = link.into_bytes();
                    Entry { link: &link, mode: 0o777, ..plain(Sort::Symlink) }
                        .write(&mut self.archive.buffer);
                }
                Err(_) => return Ok(self.vanished(&path)),
            },
            FileType::Fifo => plain(Sort::Fifo).write(&mut self.archive.buffer),
            FileType::Socket => {
                (self.archive.tell)(format!("the socket {} is left out", shown(&path)));
            }
            _ => {
                let why = "is a device, which no image may get from here: leave it out in \
                           .dockerignore";
                return Err(unusable(&path, why, None));
            }
        }
        self.archive.flush(PIECE)?;
        Ok(None)
    }

    fn file(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], found: &Stat) -> Result<()> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {
                self.vanished(path);
                return Ok(());
            }
            Err(why) => return Err(unusable(path, "cannot be opened", Some(why.into()))),
        };
        let stat = rustix::fs::fstat(&file)
            .map_err(|why| unusable(path, "cannot be looked at", Some(why.into())))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            self.vanished(path);
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let capability = capability_of(&file);
        let mut entry = Entry {
            sort: Sort::File,
            path,
            link: b"",
            mode: stat.st_mode,
            size,
            mtime: stat.st_mtime,
            capability: &capability,
        };
        if found.st_nlink > 1 {
            let first = self.links.entry((stat.st_dev, stat.st_ino));
            let first = first.or_insert_with(|| path.to_vec());
            if first != path {
                entry = Entry { sort: Sort::HardLink, link: first, size: 0, ..entry };
                entry.write(&mut self.archive.buffer);
                return Ok(());
            }
        }
        entry.write(&mut self.archive.buffer);
        self.archive.copy(&file, size, path)
    }

    /// As if it had never been there; the caller learns of it.
    fn vanished(&mut self, path: &[u8]) -> Option<Level> {
        let path = shown(path);
        (self.archive.tell)(format!("{path} went away while the context was read; it is left out"));
        None
    }
}

/// The one extended attribute that is sent, as by the docker command.
fn capability_of(file: &File) -> Vec<u8> {
    let mut value = [0; LONGEST_CAPABILITY];
    // Where a file system has none, there is nothing to send.
    let length = rustix::fs::fgetxattr(file, CAPABILITY, &mut value).unwrap_or(0);
    value[..length.min(LONGEST_CAPABILITY)].to_vec()
}

/// Opens a folder again, step by step from the first; `None` when another one, or none,
/// stands there now.
fn again(first: Option<&Level>, level: &Level) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder: Option<OwnedFd> = None;
    for name in level.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let from = folder.as_ref().or(first?.folder.as_ref())?;
        folder = Some(rustix::fs::openat(from, name, flags, Mode::empty()).ok()?);
    }
    let stat = rustix::fs::fstat(folder.as_ref()?).ok()?;
    folder.filter(|_| (stat.st_dev, stat.st_ino) == level.identity)
}

fn shown(path: &[u8]) -> String {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let text = std::ffi::OsString::from_vec(path[..path.len().min(512)].to_vec());
    format!("{text:?}")
}

fn unusable(path: &[u8], why: &str, cause: Option<std::io::Error>) -> Stop {
    let what = if path.is_empty() { "the build context".to_owned() } else { shown(path) };
    let told = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
    let error = Error::precondition(
        "CONTEXT_UNUSABLE",
        format!("the build context cannot be sent: {what} {why}{told}"),
    );
    let error = error.with("path", String::from_utf8_lossy(path));
    Stop::Failed(match cause {
        Some(cause) => error.because(cause),
        None => error,
    })
}
