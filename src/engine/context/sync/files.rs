//! The files of a context that can be asked for, by their numbers.

use std::{fs::File, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::engine::context::{
    kept::{BESIDE, Kept},
    walk::{Result, below, too_long, unusable},
};

/// What was told of the files, kept short: there may be millions.
#[derive(Default)]
pub(super) struct Files {
    folders: Vec<Vec<u8>>,
    files: Vec<Told>,
    /// All their names, one behind the other.
    names: Vec<u8>,
    /// The folder that was opened last, since they are mostly asked for in their order.
    open: Option<(u32, OwnedFd)>,
    kept: Kept,
}

struct Told {
    id: u32,
    folder: u32,
    /// Where its name begins; it ends where the next one begins.
    name: u32,
    size: u64,
    asked: bool,
}

impl Files {
    /// Takes one down, after those of lower numbers.
    pub(super) fn push(&mut self, id: u32, path: &[u8], size: u64) -> Result<()> {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = match slash {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let another = self.folders.last().is_none_or(|last| last != folder);
        let more = if another { folder.len() + BESIDE } else { 0 };
        if !self.kept.take(name.len() + more) {
            return Err(too_long());
        }
        if another {
            self.folders.push(folder.to_vec());
        }
        // There are fewer entries than this holds, and their names are short.
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let told = Told {
            id,
            folder: number(self.folders.len() - 1),
            name: number(self.names.len()),
            size,
            asked: false,
        };
        self.files.push(told);
        self.names.extend_from_slice(name);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Asks for one, which can be done once.
    pub(super) fn ask(&mut self, id: u32) -> Option<usize> {
        let at = self.files.binary_search_by_key(&id, |told| told.id).ok()?;
        let told = self.files.get_mut(at)?;
        (!std::mem::replace(&mut told.asked, true)).then_some(at)
    }

    /// Its number, its path, and how many bytes it has by what was told.
    pub(super) fn told(&self, at: usize) -> Option<(u32, Vec<u8>, u64)> {
        let told = self.files.get(at)?;
        let end = self.files.get(at + 1).map_or(self.names.len(), |next| next.name as usize);
        let mut path = self.folders.get(told.folder as usize)?.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(self.names.get(told.name as usize..end)?);
        Some((told.id, path, told.size))
    }

    /// Opens one, from the context on and without following a link.
    pub(super) fn open(&mut self, context: &OwnedFd, at: usize, path: &[u8]) -> Result<File> {
        let changed = |why: Errno| {
            let told = match why {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => {
                    "went away while the context was sent: build again when nobody writes to it, \
                     or leave it out in .dockerignore"
                }
                _ => "cannot be opened",
            };
            unusable(path, told, Some(why.into()))
        };
        let Some(told) = self.files.get(at) else { return Err(changed(Errno::NOENT)) };
        let folder = match self.open.take() {
            Some((folder, open)) if folder == told.folder => open,
            _ => {
                let folder = self.folders.get(told.folder as usize).map(Vec::as_slice);
                below(context, folder.unwrap_or_default()).map_err(changed)?
            }
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        // Opening a device may do something, so it is looked at first.
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
        if !is_file(found.map_err(changed)?.st_mode) {
            return Err(changed(Errno::LOOP));
        }
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(changed)?;
        if !is_file(rustix::fs::fstat(&file).map_err(changed)?.st_mode) {
            return Err(changed(Errno::LOOP));
        }
        self.open = Some((told.folder, folder));
        Ok(file.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::context::walk::Stop;

    #[test]
    fn paths_take_no_more_memory_than_is_given_for_them() {
        let mut files = Files::default();
        let folders = ["a".repeat(3990), "b".repeat(3990)];
        let mut told = |at: u32| {
            let folder = &folders[at as usize % 2];
            files.push(at, format!("{folder}/x").as_bytes(), 1)
        };
        assert!((0..900).all(|at| told(at).is_ok()));
        let stop = (900..1100).map(told).find_map(Result::err);
        let Some(Stop::Failed(error)) = stop else { panic!("it is too much") };
        assert!(error.message().contains("too long together"), "{error}");
    }
}
