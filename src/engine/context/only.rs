//! Which part of a context a build needs: BuildKit names the sources of its steps.
//!
//! This may only leave out. What cannot be told from the names alone is taken for needed.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::domain::ignore;

/// Most sources that are looked at; of more, all is needed.
const MOST: usize = 1000;
/// What makes a name a pattern.
const SPECIAL: [u8; 5] = *b"*?[]\\";

/// The sources, each as its names from the context on.
#[derive(Debug)]
pub(super) struct Only(Vec<Vec<Name>>);

/// Whether something is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Unwanted,
    /// Only what may be below it.
    Passed,
    Wanted,
}

/// A name, or what it begins and ends with where it is a pattern.
#[derive(Debug)]
enum Name {
    Exact(Vec<u8>),
    Between(Vec<u8>, Vec<u8>),
}

impl Name {
    fn read(text: &str) -> Self {
        let bytes = text.as_bytes();
        let special = |byte: &u8| SPECIAL.contains(byte);
        match (bytes.iter().position(special), bytes.iter().rposition(special)) {
            (Some(first), Some(last)) => {
                Self::Between(bytes[..first].to_vec(), bytes[last + 1..].to_vec())
            }
            _ => Self::Exact(bytes.to_vec()),
        }
    }

    fn fits(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Between(begin, end) => name.starts_with(begin) && name.ends_with(end),
        }
    }
}

impl Only {
    /// Reads the sources; `None` when all may be needed. A link on the way to one leads
    /// anywhere.
    pub(super) fn read(context: &OwnedFd, sources: &[String]) -> Option<Self> {
        if sources.is_empty() || sources.len() > MOST {
            return None;
        }
        let mut all = Vec::new();
        for source in sources {
            let path = ignore::shortest(&format!("/{source}"));
            // Beyond such a pattern it may be at any depth.
            let names = path.split('/').take_while(|name| !name.contains("**"));
            let names = names.filter(|name| !name.is_empty());
            let names: Vec<_> = names.map(Name::read).collect();
            if names.is_empty() || leads_elsewhere(context, &names) {
                return None;
            }
            all.push(names);
        }
        Some(Self(all))
    }

    /// Whether a path is needed.
    pub(super) fn way(&self, path: &[u8]) -> Way {
        let mut way = Way::Unwanted;
        let names: Vec<_> = path.split(|byte| *byte == b'/').collect();
        for source in &self.0 {
            if source.iter().zip(&names).all(|(fit, name)| fit.fits(name)) {
                if source.len() <= names.len() {
                    return Way::Wanted;
                }
                way = Way::Passed;
            }
        }
        way
    }
}

/// Whether a link is among what these names may mean. Beyond a pattern nobody follows one.
fn leads_elsewhere(context: &OwnedFd, names: &[Name]) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open =
        |folder: &OwnedFd, name: &[u8]| rustix::fs::openat(folder, name, flags, Mode::empty()).ok();
    let is_link = |folder: &OwnedFd, name: &[u8]| {
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
    };
    let mut folder = open(context, b".");
    for name in names {
        // What is not there leads nowhere.
        let Some(here) = &folder else { return false };
        match name {
            Name::Exact(name) => {
                if is_link(here, name) {
                    return true;
                }
                folder = open(here, name);
            }
            Name::Between(..) => {
                let Ok(entries) = Dir::read_from(here) else { return true };
                return entries.flatten().any(|entry| {
                    let file = entry.file_name().to_bytes();
                    name.fits(file) && is_link(here, file)
                });
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn of(sources: &[&str]) -> (tempfile::TempDir, Option<Only>) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a/b", "src", "out"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        symlink("src", dir.path().join("link")).unwrap();
        symlink("../src", dir.path().join("a/b/up")).unwrap();
        let context = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let sources: Vec<_> = sources.iter().map(|source| (*source).to_owned()).collect();
        let only = Only::read(&context, &sources);
        (dir, only)
    }

    #[test]
    fn what_a_source_does_not_name_is_left_out() {
        let (_dir, only) = of(&["a/b", "/src/../src/*.rs", "p*.json", "missing/x", "deep/er/**/x"]);
        let only = only.unwrap();
        for (path, way) in [
            ("a", Way::Passed),
            ("a/b", Way::Wanted),
            ("a/b/c/d", Way::Wanted),
            ("a/c", Way::Unwanted),
            ("src", Way::Passed),
            ("src/x.rs", Way::Wanted),
            ("src/x.md", Way::Unwanted),
            ("package.json", Way::Wanted),
            ("package.lock", Way::Unwanted),
            ("out", Way::Unwanted),
            ("missing", Way::Passed),
            ("deep", Way::Passed),
            ("deep/er/and/deeper", Way::Wanted),
        ] {
            assert_eq!(only.way(path.as_bytes()), way, "{path}");
        }
    }

    #[test]
    fn all_is_needed_where_a_link_is_on_the_way_or_the_context_itself_is_named() {
        for sources in [
            &["**/x"][..],
            &["a", "**"],
            &["link"],
            &["link/x"],
            &["l*"],
            &["a/b/up/x"],
            &["."],
            &["a", ".."],
            &[],
        ] {
            assert!(of(sources).1.is_none(), "{sources:?}");
        }
        assert!(of(&vec!["a"; MOST + 1]).1.is_none());
        assert!(of(&["a", "s*", "*/up"]).1.is_none(), "the pattern fits a link");
        assert!(of(&["a", "s*", "s*/up"]).1.is_some());
    }
}
