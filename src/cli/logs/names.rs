//! Names for the ids of containers, asked of the service when they are needed.

use std::collections::HashMap;

use crate::{
    cli::{ps, target::short},
    rpc::pb,
};

use super::{Session, select::Source};

/// Names that are remembered.
const REMEMBERED: usize = 4_096;
/// Longer names do not push the lines of the others further to the right.
const WIDEST: usize = 32;

/// What stands before each line of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// The name of the container.
    pub(super) text: &'a str,
    /// Columns that names take.
    pub(super) width: usize,
}

/// The names that are known.
pub(super) struct Names {
    session: Session,
    known: HashMap<String, String>,
    listed: bool,
    width: usize,
}

impl Names {
    /// Knows no id yet, but how wide the names that were asked for are.
    pub(super) fn new(session: Session, sources: &[Source]) -> Self {
        let words = sources.iter().filter_map(Source::exact);
        let width = words.map(|word| word.chars().count()).max().unwrap_or(0);
        Self { session, known: HashMap::new(), listed: false, width: width.min(WIDEST) }
    }

    /// The engine's name of a container. One that is gone has the word by which it
    /// was asked for, else its short id.
    pub(super) async fn of(&mut self, id: &str, word: Option<&str>) -> Name<'_> {
        if !self.known.contains_key(id) {
            self.learn(id, word).await;
        }
        let text = self.known.get(id).map_or("", String::as_str);
        self.width = self.width.max(text.chars().count().min(WIDEST));
        Name { text, width: self.width }
    }

    async fn learn(&mut self, id: &str, word: Option<&str>) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        if !self.listed {
            self.listed = true;
            self.ask(pb::ListContainersRequest { page_size: 1_000, ..Default::default() }).await;
        }
        if !self.known.contains_key(id) {
            let container_id = id.to_owned();
            self.ask(pb::ListContainersRequest { container_id, ..Default::default() }).await;
        }
        self.known
            .entry(id.to_owned())
            .or_insert_with(|| word.unwrap_or_else(|| short(id)).to_owned());
    }

    /// A token for logs need not be one for containers: without an answer there
    /// are no names, and the lines are printed all the same.
    async fn ask(&mut self, request: pb::ListContainersRequest) {
        let containers = ps::list(&self.session, request).await.unwrap_or_default();
        for container in containers.into_iter().take(REMEMBERED) {
            if let Some(name) = container.names.into_iter().next() {
                self.known.insert(container.id, name);
            }
        }
    }
}
