//! How runs of containers ended, from the past events that the engine still has, and
//! from what it wrote down.

use std::{collections::HashMap, path::Path, time::Duration};

use bollard::{
    models::EventMessage,
    query_parameters::{EventsOptions, InspectNetworkOptions},
};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::{
    Engine,
    events::{asks_to_end, time},
};
use crate::domain::{Kind, Result, container::Container};

/// Seconds that an engine takes at most, or nearly always, to end what it finds running.
const LONGEST_START: f64 = 30.0;

/// How a run of a container ended, as far as the engine remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Somebody asked for it.
    Stopped,
    /// By itself, or by a signal.
    Died,
    /// Not known: the engine was started since, or has much to remember.
    Forgotten,
}

impl Engine {
    /// Asks how the run of a container ended that ended then.
    pub async fn ending(&self, id: &str, end: Timestamp) -> Result<Ending> {
        let began = self.began().await?;
        let past = self.past(id, &["start", "die", "stop"]).await?;
        Ok(ending_of(&past, end, began, self.now().await?))
    }

    /// True when a container was sent a signal, in the run that began then and not longer
    /// ago than that, that asks it to end, as far as the engine remembers.
    pub async fn was_asked_to_end(
        &self,
        id: &str,
        run: Timestamp,
        longest: Duration,
    ) -> Result<bool> {
        let past = self.past(id, &["start", "kill"]).await?;
        Ok(asked_to_end(&past, run, self.now().await?, longest))
    }

    /// All that the engine remembers of a container, in the order in which it happened.
    async fn past(&self, id: &str, kinds: &[&str]) -> Result<Vec<EventMessage>> {
        let docker = self.docker().await?;
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let filters = HashMap::from([
            ("container".to_owned(), vec![id.to_owned()]),
            ("event".to_owned(), kinds),
        ]);
        // An end makes it no stream. That of 1970 leaves nothing out, also not what happened
        // before the clock was put back, which is ahead of any other end.
        let forever = Some("0".to_owned());
        let options =
            EventsOptions { since: forever.clone(), until: forever, filters: Some(filters) };
        let told = docker.events(Some(options)).try_collect();
        self.within(self.timeout, told).await
    }

    /// What the engine's clock says.
    async fn now(&self) -> Result<Timestamp> {
        let docker = self.docker().await?;
        let info = self.within(self.timeout, docker.info()).await?;
        let now = info.system_time.and_then(|time| time.parse().ok());
        Ok(now.unwrap_or_else(Timestamp::now))
    }

    /// True when the engine wrote down that somebody stopped or killed a container since it
    /// was last started, which outlives its events. It stands beside the log, so it is read
    /// where that can be read. What ended about when the engine was started may have been
    /// ended by it, which it writes down in the same way.
    pub async fn was_ended_by_hand(&self, container: &Container, end: Timestamp) -> Result<bool> {
        let began = self.began().await?;
        if began.is_none_or(|began| began.duration_since(end).as_secs_f64() < LONGEST_START) {
            return Ok(false);
        }
        let Some(folder) = Path::new(&container.log_path).parent() else { return Ok(false) };
        let text = tokio::fs::read(folder.join("config.v2.json")).await.unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        Ok(state["ID"] == container.id.as_str() && state["HasBeenManuallyStopped"] == true)
    }

    /// About when the engine was started: it makes its own bridge anew then, once it
    /// has ended what still ran. `None` where it has none, and long ago where
    /// containers outlived it.
    async fn began(&self) -> Result<Option<Timestamp>> {
        let docker = self.docker().await?;
        let question = docker.inspect_network("bridge", None::<InspectNetworkOptions>);
        match self.within(self.timeout, question).await {
            Ok(found) => Ok(found.created.and_then(|at| at.parse().ok())),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How the run of a container ended that ended then. The order of what is told is that in
/// which it happened; its times are not, where the clock was put back in between.
fn ending_of(
    past: &[EventMessage],
    end: Timestamp,
    began: Option<Timestamp>,
    now: Timestamp,
) -> Ending {
    // What an engine ends as it starts, it tells as stopped. What it remembers of long before
    // its start happened since, by a clock that was put back.
    let is_of_start = |at: Timestamp| {
        began.is_some_and(|began| {
            let before = began.duration_since(at).as_secs_f64();
            before > 0.0 && (began <= now || before < LONGEST_START)
        })
    };
    let (mut ending, mut anew) = (Ending::Forgotten, false);
    for event in happened_since(past, |at| at >= end && !is_of_start(at)) {
        match event.action.as_deref() {
            Some("start") => anew = true,
            Some("stop") => (ending, anew) = (Ending::Stopped, false),
            // A stop may be told before the end that it made.
            Some("die") if anew || ending == Ending::Forgotten => {
                (ending, anew) = (Ending::Died, false);
            }
            _ => {}
        }
    }
    ending
}

/// True when the run that began then was sent a signal that asks it to end, about now.
fn asked_to_end(past: &[EventMessage], run: Timestamp, now: Timestamp, longest: Duration) -> bool {
    let mut asked = false;
    for event in happened_since(past, |at| at >= run) {
        let recent = |at: Timestamp| at.duration_since(now).unsigned_abs() <= longest;
        let told = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
        match event.action.as_deref() {
            // What came before asked an earlier run.
            Some("start") => asked = false,
            Some("kill") if time(event).is_none_or(recent) => {
                asked |= asks_to_end(told.and_then(|told| told.get("signal")));
            }
            _ => {}
        }
    }
    asked
}

/// From the first event on whose time is meant. It may have been stopped and started just
/// before.
fn happened_since(
    past: &[EventMessage],
    meant: impl Fn(Timestamp) -> bool,
) -> impl Iterator<Item = &EventMessage> {
    past.iter().skip_while(move |event| time(event).is_some_and(|at| !meant(at)))
}

#[cfg(test)]
mod tests;
