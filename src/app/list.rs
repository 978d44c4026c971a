//! Look-ups and lists, from memory.

use std::{sync::Arc, time::Duration};

use super::{App, unknown};
use crate::domain::{
    Error, Result,
    container::{Container, State},
    event::Event,
    health::ProbeResult,
    page,
};

/// Largest page.
const LARGEST_PAGE: i64 = 1000;

/// How long the engine may take to tell of one container.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is told of one container.
#[derive(Debug, Clone)]
pub struct Details {
    /// The container.
    pub container: Arc<Container>,
    /// What was done with it, newest first.
    pub history: Vec<Event>,
    /// What its last probes answered, newest first.
    pub probes: Vec<ProbeResult>,
}

/// How a container is named in a request; the first that is set counts.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// Id or unique prefix.
    pub id: String,
    /// Name or alias.
    pub name: String,
    /// Hash, the caller's or ours.
    pub hash: String,
}

/// Filters of a list; empty matches all.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Node.
    pub node_id: String,
    /// Id or prefix.
    pub container_id: String,
    /// Name or alias.
    pub name: String,
    /// Hash.
    pub hash: String,
    /// `key` or `key=value`.
    pub label: String,
    /// State.
    pub state: Option<State>,
    /// Only ours.
    pub managed_only: bool,
    /// At most so many; 0 is no limit.
    pub limit: i64,
    /// Page size; 0 is one page.
    pub page_size: i64,
    /// Where the page begins.
    pub page_token: String,
}

/// One page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Newest first.
    pub containers: Vec<Arc<Container>>,
    /// Token of the next, empty on the last.
    pub next: String,
}

impl App {
    /// Finds the container that a selector means; all that are set must fit.
    pub fn find(&self, selector: &Selector, allowed: &str) -> Result<Arc<Container>> {
        let Selector { id, name, hash } = selector;
        let (found, what, value) = if !id.is_empty() {
            (self.view.identified(id)?, "id", id)
        } else if !name.is_empty() {
            (self.view.named(name).into_iter().next(), "name", name)
        } else if !hash.is_empty() {
            (self.view.hashed(hash).into_iter().next(), "hash", hash)
        } else {
            let field = allowed.split(' ').next().unwrap_or(allowed);
            return Err(Error::field(field, format!("nothing is named; set {allowed}")));
        };
        let fits = |container: &Arc<Container>| {
            (name.is_empty() || container.names.contains(name))
                && (hash.is_empty() || container.has_hash(hash))
        };
        match found.filter(fits) {
            Some(container) => Ok(container),
            None => {
                // An empty memory proves nothing while the engine is away.
                self.view.require_synced()?;
                Err(unknown(what, value))
            }
        }
    }

    /// One container, what was done with it, and what its probes answered.
    pub async fn get(&self, selector: &Selector) -> Result<Details> {
        let mut container = self.find(selector, "id, name or hash")?;
        let history = match self.is_ours(&container) {
            true => self.history(container.plain_name()).await?,
            false => Vec::new(),
        };
        // The engine sends no event for each answer of its own checks.
        if container.engine_health.is_some() && container.is_running() {
            let asked = tokio::time::timeout(PATIENCE, self.engine.inspect(&container.id)).await;
            if let Ok(Ok(Some(now))) = asked {
                container = now.into();
            }
        }
        let probes = self.probes_of(&container);
        Ok(Details { container, history, probes })
    }

    /// True when a container with this hash or name runs.
    pub fn is_running(&self, hash: &str, name: &str) -> Result<bool> {
        if hash.is_empty() && name.is_empty() {
            return Err(Error::field("hash", "nothing is named; set hash or name"));
        }
        let found = if name.is_empty() { self.view.hashed(hash) } else { self.view.named(name) };
        let runs = found
            .iter()
            .filter(|container| hash.is_empty() || container.has_hash(hash))
            .any(|container| container.is_running());
        if !runs && found.is_empty() {
            self.view.require_synced()?;
        }
        Ok(runs)
    }

    /// Lists containers, newest first.
    pub fn list(&self, query: &Query) -> Result<Page> {
        for (field, value) in [("limit", query.limit), ("pageSize", query.page_size)] {
            if value < 0 {
                return Err(Error::field(field, format!("{value} is negative; 0 is no limit")));
            }
        }
        if query.page_size > LARGEST_PAGE {
            return Err(Error::field(
                "pageSize",
                format!("{} is too large; at most {LARGEST_PAGE}", query.page_size),
            ));
        }
        let identity = Query { page_token: String::new(), page_size: 0, limit: 0, ..query.clone() };
        let identity = format!("{identity:?}");
        let begin = match query.page_token.as_str() {
            "" => None,
            token => Some(page::read(token, &identity)?),
        };
        let size = if query.page_size > 0 { query.page_size } else { query.limit };
        let size = usize::try_from(size).ok().filter(|size| *size > 0);

        let mut rows =
            self.view.all().into_iter().filter(|container| self.matches(container, query)).filter(
                |container| begin.as_ref().is_none_or(|begin| position(container) > *begin),
            );
        let containers: Vec<_> = match size {
            Some(size) => rows.by_ref().take(size).collect(),
            None => rows.by_ref().collect(),
        };
        if containers.is_empty() {
            // That there is none is known only while the view is true.
            self.view.require_synced()?;
        }
        let more = query.page_size > 0 && rows.next().is_some();
        let next =
            containers.last().filter(|_| more).map(|last| page::token(&identity, &position(last)));
        Ok(Page { next: next.unwrap_or_default(), containers })
    }

    fn matches(&self, container: &Container, query: &Query) -> bool {
        (query.node_id.is_empty() || query.node_id == self.settings.node_id)
            && container.id.starts_with(&query.container_id)
            && (query.name.is_empty() || container.names.contains(&query.name))
            && (query.hash.is_empty() || container.has_hash(&query.hash))
            && (query.label.is_empty() || container.has_label(&query.label))
            && query.state.is_none_or(|state| container.state == state)
            && (!query.managed_only || self.is_ours(container))
    }
}

/// Sorts as the list does: newest first, then by id, downwards.
fn position(container: &Container) -> String {
    let age = i128::MAX - container.created_at.as_nanosecond();
    let id: String = container
        .id
        .bytes()
        .map(|byte| char::from(b'~'.saturating_sub(byte.min(b'~')).saturating_add(b' ')))
        .collect();
    format!("{age:039}{id}")
}
