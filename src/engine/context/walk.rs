//! Walks a build context and says what is in it, entry by entry.
//!
//! Every folder is opened from the one that it is in, and nothing is followed. So
//! whatever happens to the tree meanwhile, nothing outside of it is read.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    vec::IntoIter,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    kept::{BESIDE, Kept, LONGEST},
    only::{Only, Way},
};
pub(super) use crate::domain::archive::Sort;
use crate::domain::{
    Error,
    ignore::{Ignore, Verdict},
};

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

pub(super) type Result<T, E = Stop> = std::result::Result<T, E>;

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) sort: Sort,
    /// From the context, without a slash at its ends.
    pub(super) path: &'a [u8],
    /// Target of a link.
    pub(super) link: &'a [u8],
    /// Permissions, and the bits of the kind.
    pub(super) mode: u32,
    /// Bytes of a file, and of one with several names under each of these.
    pub(super) size: u64,
    /// When it changed: seconds since 1970.
    pub(super) mtime: i64,
    /// And what comes on top of these.
    pub(super) nanos: u32,
    /// What a program may do beyond its user, as the kernel keeps it; empty is nothing.
    pub(super) capability: &'a [u8],
}

/// What takes the entries, in the order of their paths, part by part.
pub(super) trait Sink {
    /// Fails when nobody wants more.
    fn go_on(&self) -> Result<()>;
    /// Takes what should be told.
    fn tell(&mut self, warning: String);
    /// A folder; one that is not kept may have entries below it that are.
    fn folder(&mut self, entry: &Entry<'_>, kept: bool) -> Result<()>;
    /// An entry that has no content of its own.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()>;
    /// A file, opened.
    fn file(&mut self, entry: &Entry<'_>, file: &File) -> Result<()>;
}

/// What is walked.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// What stays out.
    pub(super) ignore: &'a Ignore,
    /// Of the rest, all but for these is of no use.
    pub(super) only: Option<&'a Only>,
    /// A path that somebody else writes.
    pub(super) apart: Option<&'a str>,
}

struct Walk<'a, S> {
    wanted: Wanted<'a>,
    /// Whether the path apart was met and not ignored.
    met: bool,
    sink: &'a mut S,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: usize,
    /// Of names and of these paths.
    kept: Kept,
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

/// Tells all entries of a tree; answers whether the path apart was met and not ignored.
pub(super) fn walk(folder: OwnedFd, wanted: Wanted<'_>, sink: &mut impl Sink) -> Result<bool> {
    let mut walk =
        Walk { wanted, met: false, sink, links: HashMap::new(), entries: 0, kept: Kept::default() };
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

impl<S: Sink> Walk<'_, S> {
    fn enter(&mut self, folder: OwnedFd, path: Vec<u8>, verdict: Option<Verdict>) -> Result<Level> {
        let failed = |why: Errno| unusable(&path, "cannot be listed", Some(why.into()));
        let mut names = Vec::new();
        let stat = rustix::fs::fstat(&folder).map_err(failed)?;
        let identity = (stat.st_dev, stat.st_ino);
        for entry in Dir::read_from(&folder).map_err(failed)? {
            self.sink.go_on()?;
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
            if !self.kept.take(name.len()) {
                return Err(too_long());
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
        self.sink.go_on()?;
        let mut path = level.path.clone();
        path.extend_from_slice(name);
        let way = self.wanted.only.map_or(Way::Wanted, |only| only.way(&path));
        if way == Way::Unwanted {
            return Ok(None);
        }
        let verdict = self.wanted.ignore.verdict(&path, level.verdict.as_ref());
        let certainly_no_folder = !matches!(sort, FileType::Directory | FileType::Unknown);
        if verdict.ignored
            && (certainly_no_folder || !self.wanted.ignore.has_exception_below(&path))
        {
            return Ok(None);
        }
        if self.wanted.apart.is_some_and(|apart| apart.as_bytes() == path) {
            self.met |= !verdict.ignored;
            return Ok(None);
        }
        if path.len() > LONGEST {
            let why =
                format!("has a path of more than {LONGEST} bytes; leave it out in .dockerignore");
            return Err(unusable(&path, &why, None));
        }
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(self.vanished(&path)),
            Err(why) => return Err(unusable(&path, "cannot be looked at", Some(why.into()))),
        };
        let plain = |sort| Entry {
            sort,
            path: &path,
            link: b"",
            mode: stat.st_mode,
            size: 0,
            mtime: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            capability: b"",
        };
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
                let kept = !verdict.ignored && way == Way::Wanted;
                self.sink.folder(&plain(Sort::Folder), kept)?;
                path.push(b'/');
                return self.enter(below, path, Some(verdict)).map(Some);
            }
            _ if verdict.ignored => {}
            FileType::RegularFile => self.file(folder, name, &path, &stat)?,
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                // Its text is kept, wherever it leads; the engine resolves it inside.
                Ok(link) => {
                    let link = link.into_bytes();
                    let mode = stat.st_mode | 0o777;
                    self.sink.entry(&Entry { link: &link, mode, ..plain(Sort::Symlink) })?;
                }
                Err(_) => return Ok(self.vanished(&path)),
            },
            FileType::Fifo => self.sink.entry(&plain(Sort::Fifo))?,
            FileType::Socket => {
                self.sink.tell(format!("the socket {} is left out", shown(&path)));
            }
            _ => {
                let why = "is a device, which no image may get from here: leave it out in \
                           .dockerignore";
                return Err(unusable(&path, why, None));
            }
        }
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
            nanos: nanos(&stat),
            capability: &capability,
        };
        if found.st_nlink > 1 {
            let first = self.links.entry((stat.st_dev, stat.st_ino));
            let first = match first {
                Slot::Occupied(first) => first.into_mut(),
                Slot::Vacant(_) if !self.kept.take(path.len() + BESIDE) => return Err(too_long()),
                Slot::Vacant(first) => first.insert(path.to_vec()),
            };
            if first != path {
                entry = Entry { sort: Sort::HardLink, link: first, ..entry };
                return self.sink.entry(&entry);
            }
        }
        self.sink.file(&entry, &file)
    }

    /// As if it had never been there; the caller learns of it.
    fn vanished(&mut self, path: &[u8]) -> Option<Level> {
        let path = shown(path);
        self.sink.tell(format!("{path} went away while the context was read; it is left out"));
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

/// The time of a file within its second, where what is below a millisecond depends on all
/// that changes with the content: BuildKit takes a file of the same size and time for the
/// same, also where somebody wrote another content and set the time back.
fn nanos(stat: &Stat) -> u32 {
    const MILLISECOND: u64 = 1_000_000;
    let mut hasher = DefaultHasher::new();
    let nanos = stat.st_mtime_nsec;
    (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec, nanos).hash(&mut hasher);
    let nanos = nanos / MILLISECOND * MILLISECOND + hasher.finish() % MILLISECOND;
    u32::try_from(nanos).unwrap_or(0)
}

/// Opens a folder again, step by step from the first; `None` when another one, or none,
/// stands there now.
fn again(first: Option<&Level>, level: &Level) -> Option<OwnedFd> {
    let folder = below(first?.folder.as_ref()?, &level.path).ok()?;
    let stat = rustix::fs::fstat(&folder).ok()?;
    ((stat.st_dev, stat.st_ino) == level.identity).then_some(folder)
}

/// Opens a folder below another one, and follows no link on the way.
pub(super) fn below(first: &OwnedFd, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = rustix::fs::openat(first, ".", flags, Mode::empty())?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        folder = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
    }
    Ok(folder)
}

/// More paths than memory is given for.
pub(super) fn too_long() -> Stop {
    let why = "has paths that are too long together; leave some out in .dockerignore";
    unusable(b"", why, None)
}

pub(super) fn shown(path: &[u8]) -> String {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let text = std::ffi::OsString::from_vec(path[..path.len().min(512)].to_vec());
    format!("{text:?}")
}

pub(super) fn unusable(path: &[u8], why: &str, cause: Option<std::io::Error>) -> Stop {
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
