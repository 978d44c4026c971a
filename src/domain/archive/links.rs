//! The links that an archive has made so far, so that nothing is put through one.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

use super::parts;

/// Most of them in one archive.
pub(super) const MOST: usize = 500_000;

/// Links by the hash of their path, which nobody can foresee, with how often they go up.
#[derive(Debug, Default)]
pub(super) struct Links {
    hashing: RandomState,
    ups: HashMap<u64, usize>,
}

impl Links {
    /// True where something on the way to a path is a link.
    pub(super) fn lead_to(&self, path: &[u8]) -> bool {
        if self.ups.is_empty() {
            return false;
        }
        let mut hasher = self.hashing.build_hasher();
        let mut parts = parts(path).peekable();
        while let Some(part) = parts.next() {
            hasher.write(part);
            hasher.write_u8(b'/');
            if parts.peek().is_some() && self.ups.contains_key(&hasher.finish()) {
                return true;
            }
        }
        false
    }

    /// How often the link at a path goes up; `None` where there is no link.
    pub(super) fn ups(&self, path: &[u8]) -> Option<usize> {
        self.ups.get(&self.hash(path)).copied()
    }

    /// Notes what is at a path from now on; false when there are too many links.
    pub(super) fn note(&mut self, path: &[u8], ups: Option<usize>) -> bool {
        match ups {
            Some(ups) => {
                self.ups.insert(self.hash(path), ups);
            }
            None if !self.ups.is_empty() => {
                self.ups.remove(&self.hash(path));
            }
            None => {}
        }
        self.ups.len() <= MOST
    }

    fn hash(&self, path: &[u8]) -> u64 {
        let mut hasher = self.hashing.build_hasher();
        for part in parts(path) {
            hasher.write(part);
            hasher.write_u8(b'/');
        }
        hasher.finish()
    }
}
