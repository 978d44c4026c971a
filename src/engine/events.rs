//! The engine's event stream, reduced to what our view needs.

use bollard::{
    models::{EventMessage, EventMessageTypeEnum},
    query_parameters::EventsOptions,
};
use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;

use super::{Engine, convert};
use crate::domain::{Result, container::Container};

/// Something on the node changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A container changed; ask for it.
    Container(String),
    /// A container was started; what the event tells of it. Ask for the rest.
    Started(Box<Container>),
    /// A run of a container ended; what the event tells of it. Ask for the rest.
    Died(Box<Death>),
    /// A container is short of memory, and may die of it.
    OutOfMemory(String),
    /// A container was sent a signal that asks it to end, then; ask for it.
    AskedToEnd(String, Timestamp),
    /// A container was stopped then, and did not end by itself; ask for it.
    Stopped(String, Timestamp),
    /// A container is gone.
    Gone(String),
    /// Image names may mean other content than before.
    Images,
}

/// The end of a run, as the engine's event tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Death {
    /// The container, of which only the names, labels and image are known.
    pub container: Container,
    /// When it ended.
    pub at: Timestamp,
    /// Exit code.
    pub exit_code: Option<i32>,
}

impl Engine {
    /// All that happens from now on; the stream ends or fails when the engine goes away.
    pub async fn events(&self) -> Result<impl Stream<Item = Result<Event>> + Send + Unpin + use<>> {
        let docker = self.docker().await?;
        let address = self.address.clone();
        // bollard asks for the stream when it is first read, which is after the
        // listing: the engine, by its own clock, repeats what came in between.
        let info = self.within(self.timeout, docker.info()).await?;
        let now = info.system_time.and_then(|time| time.parse::<Timestamp>().ok());
        let since = now.map(|now| now.as_second().to_string());
        let stream = docker.events(Some(EventsOptions { since, ..Default::default() }));
        // `since` has whole seconds: what happened earlier in this one comes again.
        let mut replay = now;
        let stream = stream.filter_map(move |message| {
            let event = match message {
                Err(error) => Some(Err(super::errors::convert(&address, error))),
                Ok(message) => {
                    let at = time(&message);
                    let old = at.is_some_and(|at| is_replayed(at, replay));
                    replay = replay.filter(|_| old);
                    event(message, at).filter(|_| !old).map(Ok)
                }
            };
            std::future::ready(event)
        });
        // bollard's stream borrows nothing but is not Unpin.
        Ok(Box::pin(stream))
    }
}

/// When it happened.
pub(super) fn time(message: &EventMessage) -> Option<Timestamp> {
    Timestamp::from_nanosecond(message.time_nano?.into()).ok()
}

/// Only the second of the subscription is repeated: a time before it is of a clock
/// that was put back.
fn is_replayed(at: Timestamp, until: Option<Timestamp>) -> bool {
    until.is_some_and(|until| at < until && at.as_second() == until.as_second())
}

fn event(message: EventMessage, at: Option<Timestamp>) -> Option<Event> {
    let actor = message.actor.unwrap_or_default();
    let action = message.action.unwrap_or_default();
    match (message.typ, actor.id) {
        (Some(EventMessageTypeEnum::CONTAINER), Some(id)) => {
            let mut told = actor.attributes.unwrap_or_default();
            match action.as_str() {
                "start" => Some(Event::Started(convert::started(id, told, at).into())),
                "die" => {
                    let exit_code = told.remove("exitCode").and_then(|code| code.parse().ok());
                    told.remove("execDuration");
                    let at = at.unwrap_or(Timestamp::UNIX_EPOCH);
                    let container = convert::started(id, told, None);
                    Some(Event::Died(Death { container, at, exit_code }.into()))
                }
                "kill" if asks_to_end(told.get("signal")) => {
                    Some(Event::AskedToEnd(id, at.unwrap_or(Timestamp::UNIX_EPOCH)))
                }
                // An engine that tells no time tells it just now.
                "stop" => Some(Event::Stopped(id, at.unwrap_or_else(Timestamp::now))),
                _ => container(&action, id),
            }
        }
        (Some(EventMessageTypeEnum::IMAGE), _) => Some(Event::Images),
        _ => None,
    }
}

/// True for a signal by which a container is asked to end. Others tell it something else:
/// HUP, USR1, USR2 and CONT; KILL asks nothing, and is the end of a stop that took too long.
pub(super) fn asks_to_end(signal: Option<&String>) -> bool {
    let signal: Option<u8> = signal.and_then(|signal| signal.parse().ok());
    signal.is_some_and(|signal| ![1, 9, 10, 12, 18].contains(&signal))
}

/// Commands run inside a container change nothing that we show.
fn container(action: &str, id: String) -> Option<Event> {
    match action.split(':').next().unwrap_or_default() {
        "destroy" => Some(Event::Gone(id)),
        "oom" => Some(Event::OutOfMemory(id)),
        "exec_create" | "exec_start" | "exec_die" | "exec_detach" | "attach" | "detach" | "top"
        | "resize" | "copy" | "archive-path" | "extract-to-dir" | "export" | "commit" => None,
        _ => Some(Event::Container(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_do_not_wake_us_and_ends_do() {
        assert_eq!(container("exec_start: true", "a".into()), None);
        let changed = Some(Event::Container("a".into()));
        assert_eq!(container("health_status: unhealthy", "a".into()), changed);
        assert_eq!(container("destroy", "a".into()), Some(Event::Gone("a".into())));
    }

    #[test]
    fn a_signal_to_end_is_told_apart_from_a_wish_to_reload() {
        let told = |action: &str, signal: &str| {
            let attributes = [("signal".to_owned(), signal.to_owned())];
            let message = EventMessage {
                typ: Some(EventMessageTypeEnum::CONTAINER),
                action: Some(action.into()),
                actor: Some(bollard::models::EventActor {
                    id: Some("a".into()),
                    attributes: Some(attributes.into()),
                }),
                time_nano: Some(5),
                ..Default::default()
            };
            let at = time(&message);
            event(message, at)
        };
        let at = Timestamp::from_nanosecond(5).expect("a time");
        assert_eq!(told("stop", ""), Some(Event::Stopped("a".into(), at)));
        let sent = |signal: &str| told("kill", signal);
        for signal in ["15", "2", "3", "28"] {
            assert_eq!(sent(signal), Some(Event::AskedToEnd("a".into(), at)), "{signal}");
        }
        for signal in ["1", "9", "10", "12", "", "TERM"] {
            assert_eq!(sent(signal), Some(Event::Container("a".into())), "{signal}");
        }
    }

    #[test]
    fn an_end_is_told_with_its_code_name_and_labels() {
        let told = [("exitCode", "137"), ("name", "web"), ("image", "nginx"), ("team", "a")];
        let told = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let message = EventMessage {
            typ: Some(EventMessageTypeEnum::CONTAINER),
            action: Some("die".into()),
            actor: Some(bollard::models::EventActor {
                id: Some("a".into()),
                attributes: Some(told.into()),
            }),
            time_nano: Some(5),
            ..Default::default()
        };
        let at = time(&message);
        let Some(Event::Died(death)) = event(message, at) else { panic!("no death") };
        assert_eq!((death.exit_code, death.at.as_nanosecond()), (Some(137), 5));
        assert_eq!((death.container.name(), death.container.image.as_str()), ("web", "nginx"));
        assert!(death.container.has_label("team=a") && !death.container.has_label("exitCode"));
    }

    #[test]
    fn only_the_second_of_the_subscription_is_a_replay() {
        let at = |nanos| Timestamp::from_nanosecond(nanos).expect("a time");
        let until = at(10_500_000_000);
        for (time, old) in [(10_400_000_000, true), (10_600_000_000, false), (9_999_999_999, false)]
        {
            assert_eq!(is_replayed(at(time), Some(until)), old, "{time}");
        }
        assert!(!is_replayed(at(1), None));
    }
}
