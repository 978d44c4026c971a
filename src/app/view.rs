//! What we know of the node: containers, their names and hashes, and changes.
//!
//! Reads come from here, never from the engine. Every write has a ticket that
//! was drawn before the engine was asked, so that an answer that was overtaken
//! by a newer one is dropped.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::domain::{Error, Kind, Result, container::Container};

/// Changes that are remembered for watchers that fell behind.
const REMEMBERED: usize = 4096;
/// Ids of removed containers that are remembered; only answers that were asked
/// for before the removal must be outlived.
const GONE: usize = 1024;
/// The shortest id prefix that names a container.
const SHORTEST_PREFIX: usize = 4;

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there now.
    Added,
    /// It is another than before.
    Changed,
    /// It is gone.
    Removed,
}

/// One change, numbered.
#[derive(Debug, Clone)]
pub struct Change {
    /// Number, without holes.
    pub seq: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The container after it, or the last of it.
    pub container: Arc<Container>,
}

/// How fresh the view is.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// The event stream is up and the view follows it.
    pub synced: bool,
    /// When the view last became true.
    pub synced_at: Option<Timestamp>,
    /// Since when it is not; before the first listing, since the service began.
    pub lost_at: Option<Timestamp>,
    /// Why it is not.
    pub error: Option<Error>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<String, Entry>,
    by_name: HashMap<String, BTreeSet<String>>,
    by_hash: HashMap<String, BTreeSet<String>>,
    /// The last ids that were seen to be gone; an id never comes back.
    gone: VecDeque<String>,
    changes: VecDeque<Change>,
    seq: u64,
    freshness: Freshness,
}

#[derive(Debug)]
struct Entry {
    container: Arc<Container>,
    ticket: u64,
}

/// The view. Shared; all methods are quick.
#[derive(Debug)]
pub struct View {
    inner: RwLock<Inner>,
    tickets: std::sync::atomic::AtomicU64,
    latest: watch::Sender<u64>,
}

impl Default for View {
    fn default() -> Self {
        let mut inner = Inner::default();
        inner.freshness.lost_at = Some(Timestamp::now());
        Self { inner: inner.into(), tickets: 1.into(), latest: watch::Sender::new(0) }
    }
}

impl View {
    /// Draws a ticket; do it before asking the engine.
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Takes over what the engine said of a container.
    pub fn put(&self, container: Container, ticket: u64) {
        let mut inner = self.write();
        inner.put(container, ticket);
        self.latest.send_replace(inner.seq);
    }

    /// Takes over that a container is gone, for good.
    pub fn remove(&self, id: &str) {
        self.remove_started(id, None);
    }

    /// The same for one that was started, which nobody could ask for before it was
    /// gone: so it is told too.
    pub fn remove_started(&self, id: &str, started: Option<Container>) {
        let mut inner = self.write();
        inner.remove(id, started);
        self.latest.send_replace(inner.seq);
    }

    /// Tells watchers to look at a container again: something that is told with it,
    /// and does not come from the engine, is another than before.
    pub fn touch(&self, id: &str) {
        let mut inner = self.write();
        if let Some(container) = inner.by_id.get(id).map(|entry| entry.container.clone()) {
            inner.note(ChangeKind::Changed, container);
            self.latest.send_replace(inner.seq);
        }
    }

    /// Takes over a listing: what is not in it is gone. What an inspection
    /// told before is kept where the listing knows no better.
    pub fn replace(&self, listed: Vec<Container>, ticket: u64) {
        let mut inner = self.write();
        let there: BTreeSet<&str> = listed.iter().map(|container| container.id.as_str()).collect();
        let gone: Vec<String> = inner
            .by_id
            .iter()
            .filter(|(id, entry)| !there.contains(id.as_str()) && entry.ticket <= ticket)
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            inner.remove(&id, None);
        }
        for container in listed {
            if !inner.by_id.contains_key(&container.id) {
                inner.put(container, ticket);
            }
        }
        self.latest.send_replace(inner.seq);
    }

    /// Notes that the view follows the engine.
    pub fn set_synced(&self) {
        let synced_at = Some(Timestamp::now());
        let mut inner = self.write();
        inner.freshness = Freshness { synced: true, synced_at, lost_at: None, error: None };
        self.latest.send_replace(inner.seq);
    }

    /// Notes that it does not, and why.
    pub fn set_lost(&self, error: Error) {
        let fresh = &mut self.write().freshness;
        fresh.synced = false;
        fresh.lost_at.get_or_insert_with(Timestamp::now);
        fresh.error = Some(error);
    }

    /// How fresh the view is.
    pub fn freshness(&self) -> Freshness {
        self.read().freshness.clone()
    }

    /// Fails with what keeps the view from being true.
    pub fn require_synced(&self) -> Result<()> {
        let inner = self.read();
        match (&inner.freshness.error, inner.freshness.synced) {
            (_, true) => Ok(()),
            (Some(error), false) => Err(error.clone()),
            (None, false) => Err(Error::new(
                Kind::Unavailable,
                "NOT_SYNCED",
                "the Docker engine was not listed yet; try again in a moment",
            )),
        }
    }

    /// All containers, newest first.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> =
            self.read().by_id.values().map(|entry| entry.container.clone()).collect();
        all.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        all
    }

    /// The one with this whole id.
    pub fn get(&self, id: &str) -> Option<Arc<Container>> {
        self.read().by_id.get(id).map(|entry| entry.container.clone())
    }

    /// True when there is one with this id.
    pub fn has(&self, id: &str) -> bool {
        self.read().by_id.contains_key(id)
    }

    /// The one with this whole id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Container>> {
        self.read().by_id.get(id).map(|entry| entry.container.clone())
    }

    /// Those with this name or alias; the holder of the name itself first.
    pub fn named(&self, name: &str) -> Vec<Arc<Container>> {
        let inner = self.read();
        let mut found = inner.lookup(inner.by_name.get(name));
        found.sort_by_key(|container| container.name() != name);
        found
    }

    /// Those with this hash, running ones first, then the newest.
    pub fn hashed(&self, hash: &str) -> Vec<Arc<Container>> {
        let inner = self.read();
        let mut found = inner.lookup(inner.by_hash.get(hash));
        found.sort_by_key(|container| (!container.is_running(), -container.created_at.as_second()));
        found
    }

    /// The one with this id or unique prefix; INVALID_ARGUMENT when several
    /// have the prefix or it is too short.
    pub fn identified(&self, id: &str) -> Result<Option<Arc<Container>>> {
        let inner = self.read();
        if let Some(entry) = inner.by_id.get(id) {
            return Ok(Some(entry.container.clone()));
        }
        if id.len() < SHORTEST_PREFIX {
            return Err(Error::field(
                "id",
                format!("\"{id}\" is too short; give at least {SHORTEST_PREFIX} digits"),
            ));
        }
        let mut found =
            inner.by_id.range(id.to_owned()..).take_while(|(have, _)| have.starts_with(id));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::field(
                "id",
                format!("\"{id}\" is the beginning of several ids; give more digits"),
            )),
            (Some((_, entry)), None) => Ok(Some(entry.container.clone())),
            _ => Ok(None),
        }
    }

    /// Those of this node's service with this identity.
    pub fn keyed(&self, node_id: &str, key: &str) -> Vec<Arc<Container>> {
        self.read()
            .by_id
            .values()
            .map(|entry| &entry.container)
            .filter(|container| container.managed_by(node_id) && container.key() == key)
            .cloned()
            .collect()
    }

    /// All containers with the number of the last change that they include.
    pub fn snapshot(&self) -> (u64, Vec<Arc<Container>>) {
        let inner = self.read();
        (inner.seq, inner.by_id.values().map(|entry| entry.container.clone()).collect())
    }

    /// At most `most` changes after a number; `None` when they were forgotten.
    pub fn changes_after(&self, seq: u64, most: usize) -> Option<Vec<Change>> {
        let inner = self.read();
        let oldest = inner.changes.front().map_or(inner.seq + 1, |change| change.seq);
        if seq + 1 < oldest || seq > inner.seq {
            return None;
        }
        let skip = usize::try_from(seq + 1 - oldest).unwrap_or(0);
        Some(inner.changes.iter().skip(skip).take(most).cloned().collect())
    }

    /// Wakes when there are changes, and when the view has come to follow the engine.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn lookup(&self, ids: Option<&BTreeSet<String>>) -> Vec<Arc<Container>> {
        ids.into_iter()
            .flatten()
            .filter_map(|id| self.by_id.get(id))
            .map(|entry| entry.container.clone())
            .collect()
    }

    fn put(&mut self, container: Container, ticket: u64) {
        if self.gone.contains(&container.id) {
            return;
        }
        let kind = match self.by_id.get(&container.id) {
            Some(entry) if entry.ticket > ticket => return,
            Some(entry) if *entry.container == container => {
                if let Some(entry) = self.by_id.get_mut(&container.id) {
                    entry.ticket = ticket;
                }
                return;
            }
            Some(_) => ChangeKind::Changed,
            None => ChangeKind::Added,
        };
        self.unindex(&container.id);
        let container = Arc::new(container);
        for name in &container.names {
            self.by_name.entry(name.clone()).or_default().insert(container.id.clone());
        }
        for hash in hashes(&container) {
            self.by_hash.entry(hash).or_default().insert(container.id.clone());
        }
        self.by_id.insert(container.id.clone(), Entry { container: container.clone(), ticket });
        self.note(kind, container);
    }

    fn remove(&mut self, id: &str, started: Option<Container>) {
        self.gone.push_back(id.to_owned());
        if self.gone.len() > GONE {
            self.gone.pop_front();
        }
        self.unindex(id);
        let known = self.by_id.remove(id).map(|entry| entry.container);
        let last = match (known, started) {
            // It was started for the first time, or once more after it had ended.
            (Some(known), Some(Container { started_at, .. }))
                if known.started_at.is_none()
                    || known.finished_at.is_some_and(|end| Some(end) < started_at) =>
            {
                Some(Container { started_at, ..(*known).clone() }.into())
            }
            (known, started) => known.or(started.map(Arc::new)),
        };
        if let Some(last) = last {
            self.note(ChangeKind::Removed, last);
        }
    }

    fn unindex(&mut self, id: &str) {
        let Some(entry) = self.by_id.get(id) else { return };
        let forget = |index: &mut HashMap<String, BTreeSet<String>>, key: &str| {
            if let Some(ids) = index.get_mut(key) {
                ids.remove(id);
                if ids.is_empty() {
                    index.remove(key);
                }
            }
        };
        for name in &entry.container.names {
            forget(&mut self.by_name, name);
        }
        for hash in hashes(&entry.container) {
            forget(&mut self.by_hash, &hash);
        }
    }

    fn note(&mut self, kind: ChangeKind, container: Arc<Container>) {
        self.seq += 1;
        self.changes.push_back(Change { seq: self.seq, kind, container });
        if self.changes.len() > REMEMBERED {
            self.changes.pop_front();
        }
    }
}

fn hashes(container: &Container) -> impl Iterator<Item = String> + use<> {
    [container.hash().to_owned(), container.spec_hash().to_owned()]
        .into_iter()
        .filter(|hash| !hash.is_empty())
}

#[cfg(test)]
mod tests;
