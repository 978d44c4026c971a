//! One lock a name, so that work on one name never waits for another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// Locks by name; a name that nobody holds takes no memory for long.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<Lock>>>);

impl Locks {
    /// Takes the locks of all these names. Sorted first, so that two callers
    /// can never wait for each other.
    pub(super) async fn take(&self, mut names: Vec<String>) -> Vec<OwnedMutexGuard<()>> {
        names.sort();
        names.dedup();
        let mut guards = Vec::with_capacity(names.len());
        for name in names {
            guards.push(self.lock(&name).lock_owned().await);
        }
        guards
    }

    /// True while somebody works on the name.
    pub(super) fn is_held(&self, name: &str) -> bool {
        // One that nobody knows of is not made for the question.
        let known = self.known().get(name).and_then(Weak::upgrade);
        known.is_some_and(|lock| lock.try_lock().is_err())
    }

    fn lock(&self, name: &str) -> Arc<Lock> {
        let mut locks = self.known();
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::default());
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Weak<Lock>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_held_by_one_and_free_afterwards() {
        let locks = Locks::default();
        let held = locks.take(vec!["b".into(), "a".into(), "a".into()]).await;
        assert_eq!(held.len(), 2);
        assert!(locks.is_held("a"));
        assert!(!locks.is_held("c"));
        drop(held);
        assert!(!locks.is_held("a"));
    }
}
