//! Changes as they happen, from a cursor.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::{
    App,
    view::{Change, ChangeKind},
};
use crate::domain::{Error, Kind, Result, container::Container};

/// Changes taken from memory at a time.
const BATCH: usize = 256;

/// What a watcher asks for.
#[derive(Debug, Clone, Default)]
pub struct WatchQuery {
    /// Continue after this.
    pub cursor: String,
    /// Name or alias.
    pub name: String,
    /// `key` or `key=value`.
    pub label: String,
    /// Only ours.
    pub managed_only: bool,
}

/// What a watcher gets.
#[derive(Debug, Clone)]
pub enum Watched {
    /// One change.
    Change(ChangeKind, Arc<Container>),
    /// The first listing is complete.
    Synced,
    /// The cursor leads nowhere; a new listing follows.
    Reset,
}

struct Watcher {
    app: Arc<App>,
    query: WatchQuery,
    seq: u64,
    ready: VecDeque<(Watched, u64)>,
    latest: watch::Receiver<u64>,
}

impl App {
    /// Watches; each item comes with the cursor after it.
    pub fn watch(
        self: &Arc<Self>,
        query: WatchQuery,
    ) -> Result<impl Stream<Item = Result<(Watched, String)>> + Send + use<>> {
        let latest = self.view.subscribe();
        let mut watcher =
            Watcher { app: self.clone(), query, seq: 0, ready: VecDeque::new(), latest };
        let resumed = match watcher.query.cursor.as_str() {
            "" => None,
            cursor => {
                let seq = self.node.read_cursor(cursor)?;
                let known = seq.filter(|seq| self.view.changes_after(*seq, 0).is_some());
                if known.is_none() {
                    watcher.ready.push_back((Watched::Reset, 0));
                }
                known
            }
        };
        match resumed {
            Some(seq) => watcher.seq = seq,
            None => watcher.list(),
        }
        Ok(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok((item, seq)) => {
                    let cursor = watcher.app.node.cursor(seq);
                    Some((Ok((item, cursor)), Some(watcher)))
                }
                Err(Some(error)) => Some((Err(error), None)),
                Err(None) => None,
            }
        }))
    }
}

impl Watcher {
    /// Until SYNCED, a cursor of 0 means: begin anew.
    fn list(&mut self) {
        let (seq, containers) = self.app.view.snapshot();
        for container in containers {
            if self.wants(&container) {
                self.ready.push_back((Watched::Change(ChangeKind::Added, container), 0));
            }
        }
        self.ready.push_back((Watched::Synced, seq));
        self.seq = seq;
    }

    /// `Err(None)` when the service stops.
    async fn next(&mut self) -> Result<(Watched, u64), Option<Error>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            self.latest.borrow_and_update();
            let changes = self.app.view.changes_after(self.seq, BATCH).ok_or_else(|| {
                Some(Error::new(
                    Kind::ResourceExhausted,
                    "WATCHER_TOO_SLOW",
                    "this watcher fell too far behind; watch again with the last cursor",
                ))
            })?;
            if changes.is_empty() {
                tokio::select! {
                    changed = self.latest.changed() => changed.map_err(|_| None)?,
                    () = self.app.tasks.stopped() => return Err(None),
                }
            }
            for Change { seq, kind, container } in changes {
                self.seq = seq;
                if self.wants(&container) {
                    self.ready.push_back((Watched::Change(kind, container), seq));
                }
            }
        }
    }

    fn wants(&self, container: &Container) -> bool {
        let WatchQuery { name, label, managed_only, .. } = &self.query;
        (name.is_empty() || container.names.contains(name))
            && (label.is_empty() || container.has_label(label))
            && (!managed_only || self.app.is_ours(container))
    }
}
