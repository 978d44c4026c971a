//! The engine's event stream, reduced to what our view needs.

use bollard::{models::EventMessageTypeEnum, query_parameters::EventsOptions};
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
    /// A container is gone.
    Gone(String),
    /// Image names may mean other content than before.
    Images,
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
        let stream = stream.filter_map(move |message| {
            let event = match message {
                Err(error) => Some(Err(super::errors::convert(&address, error))),
                Ok(message) => {
                    let actor = message.actor.unwrap_or_default();
                    let action = message.action.unwrap_or_default();
                    match (message.typ, actor.id) {
                        (Some(EventMessageTypeEnum::CONTAINER), Some(id)) if action == "start" => {
                            let at = message.time_nano.map(i128::from);
                            let at = at.and_then(|at| Timestamp::from_nanosecond(at).ok());
                            let what = actor.attributes.unwrap_or_default();
                            Some(Ok(Event::Started(convert::started(id, what, at).into())))
                        }
                        (Some(EventMessageTypeEnum::CONTAINER), Some(id)) => {
                            container(&action, id).map(Ok)
                        }
                        (Some(EventMessageTypeEnum::IMAGE), _) => Some(Ok(Event::Images)),
                        _ => None,
                    }
                }
            };
            std::future::ready(event)
        });
        // bollard's stream borrows nothing but is not Unpin.
        Ok(Box::pin(stream))
    }
}

/// Commands run inside a container change nothing that we show.
fn container(action: &str, id: String) -> Option<Event> {
    match action.split(':').next().unwrap_or_default() {
        "destroy" => Some(Event::Gone(id)),
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
        assert_eq!(container("die", "a".into()), Some(Event::Container("a".into())));
        assert_eq!(container("destroy", "a".into()), Some(Event::Gone("a".into())));
    }
}
