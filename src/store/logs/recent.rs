//! The last commits, kept in memory for those who follow.

use std::{collections::VecDeque, sync::Arc};

use crate::domain::logs::Batch;

/// Most bytes of text that are kept.
const MOST: usize = 4 << 20;

/// Entries of one container that were committed together; their numbers follow
/// each other.
#[derive(Debug)]
pub struct Committed {
    /// The container.
    pub source: i64,
    /// Number of the first entry on the node.
    pub first_seq: u64,
    /// Number of the first entry in the container.
    pub first_position: u64,
    /// The entries.
    pub batch: Batch,
}

impl Committed {
    /// Number of the last entry on the node.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + self.batch.len() as u64 - 1
    }
}

/// The last commits in their order; the numbers have no hole.
#[derive(Debug)]
pub(super) struct Recent {
    commits: VecDeque<Arc<Committed>>,
    bytes: usize,
    /// Number of the first entry that is, or would be, in memory.
    begin: u64,
}

impl Recent {
    pub(super) fn new(begin: u64) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, begin }
    }

    pub(super) fn push(&mut self, commit: Committed) {
        self.bytes += commit.batch.text().len();
        self.commits.push_back(Arc::new(commit));
        while self.bytes > MOST
            && let Some(old) = self.commits.pop_front()
        {
            self.bytes -= old.batch.text().len();
            self.begin = old.last_seq() + 1;
        }
    }

    /// `None` when what follows is no longer in memory. At least one commit, where
    /// there is one, else at most about so many entries.
    pub(super) fn after(&self, seq: u64, most: usize) -> Option<Vec<Arc<Committed>>> {
        if seq + 1 < self.begin {
            return None;
        }
        let from = self.commits.partition_point(|commit| commit.last_seq() <= seq);
        let mut entries = 0;
        let take = self.commits.iter().skip(from).take_while(|commit| {
            let room = entries < most;
            entries += commit.batch.len();
            room
        });
        Some(take.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::logs::Stream;

    fn commit(first_seq: u64, lines: u64, width: usize) -> Committed {
        let mut batch = Batch::default();
        for _ in 0..lines {
            batch.push(Stream::Stdout, 0, false, &vec![b'x'; width]);
        }
        Committed { source: 1, first_seq, first_position: 0, batch }
    }

    #[test]
    fn what_is_in_memory_follows_without_a_hole_and_the_rest_is_said_to_be_gone() {
        let mut recent = Recent::new(1);
        for at in 0..10 {
            recent.push(commit(1 + at * 10, 10, MOST / 40));
        }
        assert!(recent.bytes <= MOST);
        assert!(recent.after(0, 100).is_none());
        let begin = recent.begin;
        let got = recent.after(begin + 3, 1).expect("in memory");
        assert_eq!(got.len(), 1);
        assert!(got[0].first_seq <= begin + 4 && begin + 4 <= got[0].last_seq());
        assert_eq!(recent.after(100, 1000).expect("in memory").len(), 0);
    }
}
