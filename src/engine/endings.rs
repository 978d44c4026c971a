//! How runs of containers ended, from the past events that the engine still has, and
//! from what it wrote down.

use std::{collections::HashMap, path::Path};

use bollard::{
    models::EventMessage,
    query_parameters::{EventsOptions, InspectNetworkOptions},
};
use futures_util::StreamExt as _;
use jiff::Timestamp;

use super::{Engine, events::asks_to_end};
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
        // What an engine ends as it starts, it tells as stopped.
        let begin = end.max(self.began().await?.unwrap_or(end));
        let mut ending = Ending::Forgotten;
        for event in self.past(id, &["die", "stop"], begin).await? {
            match event.action.as_deref() {
                Some("stop") => ending = Ending::Stopped,
                Some("die") if ending == Ending::Forgotten => ending = Ending::Died,
                _ => {}
            }
        }
        Ok(ending)
    }

    /// True when a container was sent a signal since then that asks it to end, as far as
    /// the engine remembers.
    pub async fn was_asked_to_end(&self, id: &str, since: Timestamp) -> Result<bool> {
        let sent = self.past(id, &["kill"], since).await?;
        let mut signals = sent.iter().map(|event| {
            let told = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
            told.and_then(|told| told.get("signal"))
        });
        Ok(signals.any(asks_to_end))
    }

    /// What happened to a container since then, of what the engine remembers.
    async fn past(&self, id: &str, kinds: &[&str], since: Timestamp) -> Result<Vec<EventMessage>> {
        let docker = self.docker().await?;
        let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let filters = HashMap::from([
            ("container".to_owned(), vec![id.to_owned()]),
            ("event".to_owned(), kinds),
        ]);
        let info = self.within(self.timeout, docker.info()).await?;
        let now = info.system_time.and_then(|time| time.parse::<Timestamp>().ok());
        // By the engine's clock. Without an end the answer would be a stream.
        let until = now.unwrap_or_else(Timestamp::now);
        let options = EventsOptions {
            since: Some((since.as_second() - 1).to_string()),
            until: Some(format!("{}.{:09}", until.as_second(), until.subsec_nanosecond())),
            filters: Some(filters),
        };
        let since = since.as_nanosecond();
        let mut past = Vec::new();
        let told = async {
            let mut events = docker.events(Some(options));
            while let Some(event) = events.next().await {
                let event = event?;
                // Seconds are all that can be asked for; it may have been stopped and
                // started just before.
                if event.time_nano.is_none_or(|at| i128::from(at) >= since) {
                    past.push(event);
                }
            }
            Ok(())
        };
        self.within(self.timeout, told).await?;
        Ok(past)
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
