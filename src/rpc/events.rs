//! EventService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::timestamp,
    logs::{heartbeat, nanos},
    pb::{self, event::Detail, event_service_server::EventService},
};
use crate::{
    app::{
        App,
        events::{EventsQuery, Start, StoredEvent, Wanted, WatchEvents, WatchedEvent},
    },
    domain::{
        Error, Result, cursor,
        event::{EventKind, What},
    },
};

#[tonic::async_trait]
impl EventService for Service {
    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let page = self.0.list_events(&request.into_inner().try_into()?).await?;
        Ok(Response::new(pb::ListEventsResponse {
            events: page.events.into_iter().map(|one| event(one, &self.0)).collect(),
            next_page_token: page.next,
        }))
    }

    type WatchEventsStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let app = self.0.clone();
        let watch = self.0.watch_events(request.into_inner().try_into()?).await?;
        let watch = watch.map(move |item| {
            let (item, cursor) = item?;
            let mut message = pb::WatchEventsResponse { cursor, ..Default::default() };
            let kind = match item {
                WatchedEvent::Event(one) => {
                    message.event = Some(event(*one, &app));
                    pb::EventMessageType::Event
                }
                WatchedEvent::CaughtUp => pb::EventMessageType::CaughtUp,
                WatchedEvent::Heartbeat => pb::EventMessageType::Heartbeat,
                WatchedEvent::Missed(count) => {
                    message.missed = Some(number(count));
                    pb::EventMessageType::Missed
                }
            };
            message.set_type(kind);
            Ok(message)
        });
        Ok(Response::new(Box::pin(watch)))
    }
}

fn event(stored: StoredEvent, app: &App) -> pb::Event {
    let StoredEvent { seq, event } = stored;
    pb::Event {
        id: cursor::write(app.store.events_id(), seq),
        node_id: app.settings.node_id.clone(),
        at: Some(timestamp(event.at)),
        kind: kind(event.what.kind()).into(),
        message: event.message(),
        name: event.subject.name,
        container_id: event.subject.container_id,
        hash: event.subject.hash,
        image: event.subject.image,
        detail: detail(event.what),
    }
}

fn detail(what: What) -> Option<Detail> {
    let restart = |attempt, reason, next_try| {
        let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
        Detail::Restart(pb::RestartDetail { attempt, reason, next_try })
    };
    let keep =
        |path, volume, bytes| Detail::Keep(pb::KeepDetail { path, volume, bytes: number(bytes) });
    Some(match what {
        What::Created | What::Started | What::Stopped | What::Healthy => return None,
        What::Replaced { fields, predecessor } => Detail::Replaced(pb::ReplacedDetail {
            differing_fields: fields,
            predecessor_id: predecessor,
        }),
        What::Removed { by_service } => Detail::Removed(pb::RemovedDetail { by_service }),
        What::Died { exit_code, oom_killed } => {
            Detail::Died(pb::DiedDetail { exit_code, oom_killed })
        }
        What::Restarted { attempt, reason } => restart(attempt, reason, None),
        What::BackingOff { attempt, next_try, reason } => {
            restart(attempt, reason, Some(timestamp(next_try)))
        }
        What::GaveUp { reason, exit_code, oom_killed, last_lines } => {
            Detail::GaveUp(pb::GaveUpDetail { reason, exit_code, oom_killed, last_lines })
        }
        What::Unhealthy { output } => Detail::Unhealthy(pb::UnhealthyDetail { output }),
        What::Pulled { image_id, digest } => Detail::Pulled(pb::PulledDetail { image_id, digest }),
        What::Built { image_id } => {
            Detail::Build(pb::BuildDetail { image_id, error: String::new() })
        }
        What::BuildFailed { error } => {
            Detail::Build(pb::BuildDetail { image_id: String::new(), error })
        }
        What::KeepCreated { path, volume } | What::KeepRemoved { path, volume } => {
            keep(path, volume, 0)
        }
        What::KeepImported { path, volume, bytes } => keep(path, volume, bytes),
        What::AssetFetched { url, sha256, bytes } => {
            Detail::Asset(pb::AssetDetail { url, sha256, bytes: number(bytes) })
        }
        What::GpuOverrun { device, booked_mb, used_mb, action } => Detail::Gpu(pb::GpuDetail {
            uuid: device,
            booked_mb: number(booked_mb),
            used_mb: number(used_mb),
            action,
            ..Default::default()
        }),
        What::GpuLost { device, reason } => {
            Detail::Gpu(pb::GpuDetail { uuid: device, reason, ..Default::default() })
        }
        What::GpuDrained { device, xid, reason } => Detail::Gpu(pb::GpuDetail {
            uuid: device,
            reason,
            xid: number(xid),
            ..Default::default()
        }),
        What::CudaChosen { asked, image, reason } => {
            Detail::Cuda(pb::CudaChoice { asked_image: asked, image, reason })
        }
        What::GpuReturned { device } => {
            Detail::Gpu(pb::GpuDetail { uuid: device, ..Default::default() })
        }
        What::AssetRemoved { url, bytes } => {
            Detail::Asset(pb::AssetDetail { url, sha256: String::new(), bytes: number(bytes) })
        }
    })
}

fn kind(kind: EventKind) -> pb::EventKind {
    match kind {
        EventKind::Created => pb::EventKind::Created,
        EventKind::Replaced => pb::EventKind::Replaced,
        EventKind::Started => pb::EventKind::Started,
        EventKind::Stopped => pb::EventKind::Stopped,
        EventKind::Removed => pb::EventKind::Removed,
        EventKind::Died => pb::EventKind::Died,
        EventKind::Restarted => pb::EventKind::Restarted,
        EventKind::BackingOff => pb::EventKind::BackingOff,
        EventKind::GaveUp => pb::EventKind::GaveUp,
        EventKind::Healthy => pb::EventKind::Healthy,
        EventKind::Unhealthy => pb::EventKind::Unhealthy,
        EventKind::Pulled => pb::EventKind::Pulled,
        EventKind::Built => pb::EventKind::Built,
        EventKind::BuildFailed => pb::EventKind::BuildFailed,
        EventKind::KeepCreated => pb::EventKind::KeepCreated,
        EventKind::KeepRemoved => pb::EventKind::KeepRemoved,
        EventKind::KeepImported => pb::EventKind::KeepImported,
        EventKind::AssetFetched => pb::EventKind::AssetFetched,
        EventKind::AssetRemoved => pb::EventKind::AssetRemoved,
        EventKind::GpuOverrun => pb::EventKind::GpuOverrun,
        EventKind::GpuLost => pb::EventKind::GpuLost,
        EventKind::GpuDrained => pb::EventKind::GpuDrained,
        EventKind::GpuReturned => pb::EventKind::GpuReturned,
        EventKind::CudaChosen => pb::EventKind::CudaChosen,
    }
}

fn kinds(asked: &[i32]) -> Result<Vec<EventKind>> {
    let one = |(at, number): (usize, &i32)| {
        let known = EventKind::ALL.into_iter().find(|have| i32::from(kind(*have)) == *number);
        known.ok_or_else(|| {
            let why = "is no kind of event; use one as EVENT_KIND_DIED";
            Error::field(format!("kinds[{at}]"), why)
        })
    };
    asked.iter().enumerate().map(one).collect()
}

/// The filters, which both requests have under the same names.
macro_rules! wanted {
    ($request:ident) => {
        Wanted {
            node_id: $request.node_id,
            name: $request.name,
            container_id: $request.container_id,
            hash: $request.hash,
            kinds: kinds(&$request.kinds)?,
        }
    };
}

impl TryFrom<pb::ListEventsRequest> for EventsQuery {
    type Error = Error;

    fn try_from(request: pb::ListEventsRequest) -> Result<Self> {
        Ok(Self {
            since: request.since.map(|at| nanos("since", at)).transpose()?,
            until: request.until.map(|at| nanos("until", at)).transpose()?,
            oldest_first: request.order() == pb::EventOrder::OldestFirst,
            page_size: request.page_size.into(),
            page_token: request.page_token,
            wanted: wanted!(request),
        })
    }
}

impl TryFrom<pb::WatchEventsRequest> for WatchEvents {
    type Error = Error;

    fn try_from(request: pb::WatchEventsRequest) -> Result<Self> {
        let cursor = Some(request.cursor).filter(|cursor| !cursor.is_empty());
        let start = match (cursor, request.since, request.last) {
            (None, None, None) => Start::Now,
            (Some(cursor), None, None) => Start::After(cursor),
            (None, Some(since), None) => Start::Since(nanos("since", since)?),
            (None, None, Some(count)) => Start::Last(count.into()),
            _ => {
                return Err(Error::field(
                    "cursor",
                    "only one of cursor, since and last may be set",
                ));
            }
        };
        Ok(Self {
            start,
            no_follow: request.no_follow,
            heartbeat: heartbeat(request.heartbeat)?,
            wanted: wanted!(request),
        })
    }
}

/// Counts are far below the limit of a signed number.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
