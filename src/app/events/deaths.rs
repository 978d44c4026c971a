//! Deaths of containers, each told once: those that the engine's events tell, and
//! those that only a listing shows, because nobody listened.
//!
//! A run begins and ends in the order of the stream. What a listing shows may be in
//! the stream again, when it happened while the listing was made:
//!
//! ```text
//! listed: runs since s        die before s: told by the listing   die after: new
//! listed: ended at f          die: the one that ended at f        start, die: new
//! ```
//!
//! Across sessions and processes, the store knows up to when the deaths of each
//! container were told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::App;
use crate::{
    domain::{
        Result,
        container::Container,
        event::{Event, Subject, What},
    },
    engine::Death,
    store::nanos,
};

/// Deaths that wait for a store that fails; more are only logged. Of the containers
/// that are gone, more are left to the next listing.
const WAITING: usize = 4096;

/// What is known of one container.
#[derive(Debug, Default)]
struct Life {
    /// Deaths up to then were told.
    told: Option<i64>,
    /// A run has begun whose death was not told.
    alive: bool,
    /// What the stream tells from before then was seen in the listing.
    listed: Option<Timestamp>,
    /// It was compared with what was told, or came after the listing.
    compared: bool,
    /// The engine said that it is short of memory.
    out_of_memory: bool,
    /// There is nothing to compare with: what ended before is not ours to tell.
    new_to_us: bool,
    /// The last death in the stream that waits for the first inspection, which tells
    /// of it, unless the container is gone by then.
    unseen: Option<Death>,
}

/// What is known of all containers while one stream of the engine is read.
#[derive(Debug, Default)]
pub(in crate::app) struct Deaths {
    lives: HashMap<String, Life>,
    /// No listing was ever compared.
    first: bool,
    // Shared with the store while it writes them, so that nothing is copied for it.
    events: Arc<Vec<Event>>,
    ended: Arc<BTreeMap<String, i64>>,
    gone: Arc<BTreeSet<String>>,
}

impl Deaths {
    /// Begins with what was told before, and the ids of a listing.
    pub(in crate::app) async fn begin(app: &App, listed: &BTreeSet<String>) -> Result<Self> {
        let told = app.store.lives().await?;
        Ok(Self::new(told, listed))
    }

    fn new(told: Option<HashMap<String, i64>>, listed: &BTreeSet<String>) -> Self {
        let first = told.is_none();
        let mut told = told.unwrap_or_default();
        let lives = listed.iter().map(|id| {
            let life = Life { told: told.remove(id), new_to_us: first, ..Life::default() };
            (id.clone(), life)
        });
        let lives = lives.collect();
        let gone = Arc::new(told.into_keys().collect());
        Self { lives, first, gone, ..Self::default() }
    }

    /// Takes what an inspection says of a container that was listed; only the first
    /// one counts.
    pub(in crate::app) fn inspected(&mut self, container: &Container) {
        let Some(life) = self.lives.get_mut(&container.id).filter(|life| !life.compared) else {
            return;
        };
        let runs = container.is_running();
        let ended = container.ended_at.filter(|_| container.started_at.is_some());
        life.compared = true;
        life.alive = runs;
        life.listed = if runs { container.started_at } else { ended };
        let Some(at) = ended.filter(|at| life.told.is_none_or(|told| nanos(*at) > told)) else {
            return;
        };
        life.told = Some(nanos(at));
        // What is in the stream ended while we listened.
        let ours = life.unseen.take().is_some() || !life.new_to_us;
        self.ended_at(&container.id, nanos(at));
        if ours {
            // Of a run before the current one, the engine has forgotten the code.
            let oom_killed = container.oom_killed && !runs;
            let what = What::Died { exit_code: container.exit_code, oom_killed };
            self.tell(Event { at, subject: Subject::container(container), what });
        }
    }

    /// Takes the start of a run from the stream.
    pub(in crate::app) fn started(&mut self, id: &str, at: Option<Timestamp>) {
        let new = || Life { compared: true, ..Life::default() };
        let life = self.lives.entry(id.to_owned()).or_insert_with(new);
        if at.is_some() && life.listed.is_some_and(|listed| at < Some(listed)) {
            return;
        }
        (life.alive, life.listed, life.out_of_memory) = (true, None, false);
    }

    /// Takes it that a container is short of memory.
    pub(in crate::app) fn out_of_memory(&mut self, id: &str) {
        if let Some(life) = self.lives.get_mut(id) {
            life.out_of_memory = true;
        }
    }

    /// Takes the end of a run from the stream.
    pub(in crate::app) fn died(&mut self, death: Death) {
        let Death { container, at, exit_code } = death;
        let new = || Life { compared: true, alive: true, ..Life::default() };
        let life = self.lives.entry(container.id.clone()).or_insert_with(new);
        if !life.compared {
            life.unseen = Some(Death { container, at, exit_code });
            return;
        }
        if life.listed.is_some_and(|listed| at < listed) {
            return;
        }
        life.listed = None;
        let alive = std::mem::replace(&mut life.alive, false);
        life.told = life.told.max(Some(nanos(at)));
        let (told, oom_killed) = (life.told, std::mem::take(&mut life.out_of_memory));
        self.ended_at(&container.id, told.unwrap_or_default());
        if alive {
            let what = What::Died { exit_code, oom_killed };
            self.tell(Event { at, subject: Subject::container(&container), what });
        }
    }

    /// Takes it that a container is gone.
    pub(in crate::app) fn gone(&mut self, id: &str) {
        let life = self.lives.remove(id);
        Arc::make_mut(&mut self.ended).remove(id);
        if self.gone.len() < WAITING {
            Arc::make_mut(&mut self.gone).insert(id.to_owned());
        }
        // Nobody will inspect it any more.
        if let Some(Life { unseen: Some(death), told, out_of_memory, .. }) = life
            && told.is_none_or(|told| nanos(death.at) > told)
        {
            let Death { container, at, exit_code } = death;
            let what = What::Died { exit_code, oom_killed: out_of_memory };
            self.tell(Event { at, subject: Subject::container(&container), what });
        }
    }

    fn ended_at(&mut self, id: &str, at: i64) {
        Arc::make_mut(&mut self.ended).insert(id.to_owned(), at);
    }

    /// Writes what is to be told; what the store cannot take is tried again with the
    /// next call.
    pub(in crate::app) async fn write(&mut self, app: &App) {
        let nothing = self.events.is_empty() && self.ended.is_empty() && self.gone.is_empty();
        if nothing && !self.first {
            return;
        }
        self.first = false;
        for event in Arc::make_mut(&mut self.events) {
            let Event { subject, what: What::Died { oom_killed, .. }, .. } = event else {
                continue;
            };
            // Engines tell of the want of memory in two ways, and not always in both.
            let now = app.view.identified(&subject.container_id).ok().flatten();
            *oom_killed |= now.is_some_and(|now| !now.is_running() && now.oom_killed);
        }
        let (events, ended, gone) = (self.events.clone(), self.ended.clone(), self.gone.clone());
        match app.store.tell_deaths(events, ended, gone).await {
            Ok(()) => {
                (self.events, self.ended, self.gone) =
                    (Arc::default(), Arc::default(), Arc::default());
            }
            Err(error) => tracing::warn!(?error, "ends of containers cannot be noted yet"),
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() < WAITING {
            Arc::make_mut(&mut self.events).push(event);
        } else {
            tracing::error!(message = event.message(), "an event is lost");
        }
    }
}

#[cfg(test)]
mod tests;
