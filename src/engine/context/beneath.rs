//! Opens what lies beneath a folder and follows no link on the way.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::domain::ignore;

/// Most links on the way to something, as the kernel follows them.
const LINKS: u32 = 40;

/// Folders in which builds may read, as they are and as they are configured.
pub(super) struct Roots(Vec<(PathBuf, PathBuf)>);

/// Where something is: the root, and the real path beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) path: PathBuf,
}

/// Why a path is of no use.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Nothing is told about it, not even whether it is there.
    Outside,
    /// A link on it leads out of the roots.
    LeadsOut,
    /// The system says why.
    Io(io::Error),
}

impl Roots {
    /// One that is not there is no root.
    pub(super) fn new(roots: &[PathBuf]) -> Self {
        let real = |root: &PathBuf| Some((root.clone(), root.canonicalize().ok()?));
        Self(roots.iter().filter_map(real).collect())
    }

    /// Finds a path beneath one of them.
    pub(super) fn find(&self, path: &Path) -> Result<Place, Unusable> {
        // Asking the disk about a path outside would tell what is there.
        let text = path.to_str().ok_or(Unusable::Outside)?;
        let path = PathBuf::from(ignore::shortest(text));
        let inside =
            |(given, real): &(PathBuf, PathBuf)| path.starts_with(given) || path.starts_with(real);
        if !path.is_absolute() || !self.0.iter().any(inside) {
            return Err(Unusable::Outside);
        }
        let path = self.follow(path)?;
        let root = self.root_of(&path).ok_or(Unusable::LeadsOut)?;
        Ok(Place { root: root.to_owned(), path })
    }

    /// Follows the links of a path, step by step. What lies outside is not asked about
    /// there either: a path that a link leads out goes on as text, and may come back in.
    fn follow(&self, path: PathBuf) -> Result<PathBuf, Unusable> {
        let (mut at, mut left, mut links) = (PathBuf::new(), path, 0);
        loop {
            let mut parts = left.components();
            let Some(part) = parts.next() else { return Ok(at) };
            let mut rest = parts.as_path().to_owned();
            match part {
                Component::CurDir => {}
                Component::ParentDir => drop(at.pop()),
                Component::Normal(name) if self.root_of(&at).is_some() => {
                    at.push(name);
                    match fs::read_link(&at) {
                        Ok(target) => {
                            links += 1;
                            if links > LINKS {
                                return Err(Unusable::Io(Errno::LOOP.into()));
                            }
                            at.pop();
                            rest = target.join(rest);
                        }
                        // It is there, and no link.
                        Err(why) if why.kind() == io::ErrorKind::InvalidInput => {}
                        Err(why) => return Err(Unusable::Io(why)),
                    }
                }
                Component::Normal(_) | Component::RootDir | Component::Prefix(_) => at.push(part),
            }
            if let Some((_, real)) = self.0.iter().find(|(given, _)| *given == at) {
                at.clone_from(real);
            }
            left = rest;
        }
    }

    fn root_of(&self, path: &Path) -> Option<&Path> {
        self.0.iter().map(|(_, real)| real.as_path()).find(|real| path.starts_with(real))
    }
}

impl Place {
    /// Opens a folder.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        self.open(OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Reads a file, so many bytes at most.
    pub(super) fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        let file = File::from(self.open(OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(bytes)
    }

    /// Step by step, so that a link that was put there since fails.
    fn open(&self, last: OFlags) -> io::Result<OwnedFd> {
        let always = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let step = OFlags::PATH | OFlags::DIRECTORY | always;
        let beneath = self.path.strip_prefix(&self.root).map_err(io::Error::other)?;
        let mut names: Vec<_> = beneath
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let Some(name) = names.pop() else {
            return Ok(rustix::fs::open(&self.root, last | OFlags::CLOEXEC, Mode::empty())?);
        };
        let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open(&self.root, root, Mode::empty())?;
        for name in names {
            folder = rustix::fs::openat(&folder, name, step, Mode::empty())?;
        }
        // Opening a device may do something, so it is looked at first.
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile | FileType::Directory => {}
            _ => return Err(io::Error::other("it is neither a file nor a folder")),
        }
        Ok(rustix::fs::openat(&folder, name, last | always, Mode::empty())?)
    }
}
