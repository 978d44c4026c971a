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
//! Where a clock was put back, what is new may look older than what was listed. That waits
//! for the next inspection, or for what shows that the stream only repeated something.
//!
//! Across sessions and processes, the store knows up to when the deaths of each
//! container were told, and which was the last.

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
    store::{Told, nanos},
};

/// Deaths that wait for a store that fails; more are only logged. Of the containers
/// that are gone, more are left to the next listing.
const WAITING: usize = 4096;
/// Deaths of one container that wait for an inspection; no stream repeats as many.
const DOUBTED: usize = 64;
/// An end that is told is not told by an event of long after it; nanoseconds.
const LATE: i64 = 60_000_000_000;

/// What is known of one container.
#[derive(Debug, Default)]
struct Life {
    /// Deaths that were told.
    told: Option<Told>,
    /// A run has begun whose death was not told.
    alive: bool,
    /// What the stream tells from before then was seen in the listing, or is by a clock
    /// that was put back.
    listed: Option<Timestamp>,
    /// What of the stream may be either.
    doubt: Doubt,
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

/// What of the stream is older than what was listed.
#[derive(Debug, Default)]
struct Doubt {
    deaths: Vec<Death>,
    /// When the last run began, if it was not told that it ended.
    began: Option<Timestamp>,
}

impl Doubt {
    /// True when an inspection that does not show what was listed shows this, or more of it:
    /// the clock was put back. Else it only shows what is yet to come in the stream.
    fn is_shown(&self, container: &Container) -> bool {
        let (shown, last) = match self.began {
            Some(_) => (container.started_at, self.began),
            None => (container.ended_at, self.deaths.last().map(|death| death.at)),
        };
        // The event of either comes a little later.
        shown.is_some() && shown <= last
    }
}

impl Life {
    /// True for an end that was not told, by its time.
    fn is_new(&self, at: i64) -> bool {
        self.told.is_none_or(|told| at > told.until || at < told.until.saturating_sub(LATE))
    }

    /// The same for one of the engine's state.
    fn is_new_end(&self, at: Timestamp) -> bool {
        match self.told.and_then(|told| told.finished) {
            Some(finished) => nanos(at) != finished,
            None => self.is_new(nanos(at)),
        }
    }
}

/// What is known of all containers while one stream of the engine is read.
#[derive(Debug, Default)]
pub(in crate::app) struct Deaths {
    lives: HashMap<String, Life>,
    /// No listing was ever compared.
    first: bool,
    // Shared with the store while it writes them, so that nothing is copied for it.
    events: Arc<Vec<Event>>,
    ended: Arc<BTreeMap<String, Told>>,
    gone: Arc<BTreeSet<String>>,
}

impl Deaths {
    /// Begins with what was told before, and the ids of a listing.
    pub(in crate::app) async fn begin(app: &App, listed: &BTreeSet<String>) -> Result<Self> {
        let told = app.store.lives().await?;
        Ok(Self::new(told, listed))
    }

    fn new(told: Option<HashMap<String, Told>>, listed: &BTreeSet<String>) -> Self {
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

    /// Takes what an inspection says of a container. The first one of one that was listed
    /// tells what ended before; later ones say what the stream means.
    pub(in crate::app) fn inspected(&mut self, container: &Container) {
        let Some(life) = self.lives.get_mut(&container.id) else { return };
        let runs = container.is_running();
        let ended = container.ended_at.filter(|_| container.started_at.is_some());
        let shown = if runs { container.started_at } else { ended };
        if life.compared {
            let same = (runs, shown) == (life.alive, life.listed);
            if life.listed.is_some() && same {
                life.doubt = Doubt::default();
            } else if life.listed.is_some() && life.doubt.is_shown(container) {
                self.believe(&container.id);
            }
            self.identify(&container.id, ended);
            return;
        }
        life.compared = true;
        life.alive = runs;
        life.listed = shown;
        let Some(at) = ended.filter(|at| life.is_new_end(*at)) else {
            self.identify(&container.id, ended);
            return;
        };
        // What is in the stream ended while we listened.
        let ours = life.unseen.take().is_some() || !life.new_to_us;
        self.ended(&container.id, Told { until: nanos(at), finished: Some(nanos(at)) });
        if ours {
            // Of a run before the current one, the engine has forgotten the code.
            let oom_killed = container.oom_killed && !runs;
            let what = What::Died { exit_code: container.exit_code, oom_killed };
            self.tell(Event { at, subject: Subject::container(container), what });
        }
    }

    /// Takes it that the last end that was told is this one, unless that is known.
    fn identify(&mut self, id: &str, ended: Option<Timestamp>) {
        let told = self.lives.get(id).and_then(|life| life.told);
        let Some((told, end)) = told.zip(ended.map(nanos)) else { return };
        if told.finished.is_none() && end <= told.until {
            self.ended(id, Told { finished: Some(end), ..told });
        }
    }

    /// Tells what was in doubt.
    fn believe(&mut self, id: &str) {
        let Some(life) = self.lives.get_mut(id) else { return };
        let Doubt { deaths, began } = std::mem::take(&mut life.doubt);
        (life.listed, life.alive) = (None, began.is_some());
        let out_of_memory = std::mem::take(&mut life.out_of_memory);
        self.tell_all(deaths, out_of_memory);
    }

    /// Tells of deaths of one container; the last may be for want of memory.
    fn tell_all(&mut self, deaths: Vec<Death>, out_of_memory: bool) {
        let last = deaths.len().saturating_sub(1);
        for (number, Death { container, at, exit_code }) in deaths.into_iter().enumerate() {
            self.ended(&container.id, Told { until: nanos(at), finished: None });
            let oom_killed = out_of_memory && number == last;
            let what = What::Died { exit_code, oom_killed };
            self.tell(Event { at, subject: Subject::container(&container), what });
        }
    }

    /// Takes the start of a run from the stream.
    pub(in crate::app) fn started(&mut self, id: &str, at: Option<Timestamp>) {
        let new = || Life { compared: true, ..Life::default() };
        let life = self.lives.entry(id.to_owned()).or_insert_with(new);
        if at.is_some() && life.listed.is_some_and(|listed| at < Some(listed)) {
            life.doubt.began = at;
            return;
        }
        (life.alive, life.listed, life.out_of_memory) = (true, None, false);
        life.doubt = Doubt::default();
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
            let id = container.id.clone();
            life.doubt.began = None;
            life.doubt.deaths.push(Death { container, at, exit_code });
            if life.doubt.deaths.len() > DOUBTED {
                self.believe(&id);
            }
            return;
        }
        (life.listed, life.doubt) = (None, Doubt::default());
        let alive = std::mem::replace(&mut life.alive, false);
        let oom_killed = std::mem::take(&mut life.out_of_memory);
        self.ended(&container.id, Told { until: nanos(at), finished: None });
        if alive {
            let what = What::Died { exit_code, oom_killed };
            self.tell(Event { at, subject: Subject::container(&container), what });
        }
    }

    /// Takes it that a container is gone.
    pub(in crate::app) fn gone(&mut self, id: &str) {
        let life = self.lives.remove(id);
        if self.gone.len() < WAITING {
            Arc::make_mut(&mut self.gone).insert(id.to_owned());
        }
        // Nobody will inspect it any more, and the stream has told all of it.
        let Some(mut life) = life else { return };
        let unseen = life.unseen.take().filter(|death| life.is_new(nanos(death.at)));
        life.doubt.deaths.extend(unseen);
        self.tell_all(life.doubt.deaths, life.out_of_memory);
        Arc::make_mut(&mut self.ended).remove(id);
    }

    /// Notes what was told.
    fn ended(&mut self, id: &str, told: Told) {
        if let Some(life) = self.lives.get_mut(id) {
            life.told = Some(told);
        }
        Arc::make_mut(&mut self.ended).insert(id.to_owned(), told);
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
