//! LogService.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    pb::{self, log_service_server::LogService},
};
use crate::{
    app::{
        App,
        logs::{Line, LogQuery, SlowReader, Source, Start, TailItem, TailQuery, Wanted},
    },
    domain::{
        Error, Result, cursor,
        logs::{self, EntryKind, Gap, Origin, Selection},
    },
};

/// How often a tail sends something where the request says nothing, and the range.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEATS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);
/// How far behind a reader may be where the request says nothing, and at most.
const LAG: i32 = 100_000;
const MOST_LAG: i32 = 10_000_000;

#[tonic::async_trait]
impl LogService for Service {
    async fn list_logs(
        &self,
        request: Request<pb::ListLogsRequest>,
    ) -> Result<Response<pb::ListLogsResponse>, Status> {
        let query = LogQuery::try_from(request.into_inner())?;
        let page = self.0.list_logs(&query).await?;
        let full = query.wanted.full;
        Ok(Response::new(pb::ListLogsResponse {
            logs: page.lines.iter().map(|(line, of)| log(line, of, full, &self.0)).collect(),
            next_page_token: page.next,
            previous_page_token: page.previous,
        }))
    }

    type TailLogsStream = Pin<Box<dyn Stream<Item = Result<pb::TailLogsResponse, Status>> + Send>>;

    async fn tail_logs(
        &self,
        request: Request<pb::TailLogsRequest>,
    ) -> Result<Response<Self::TailLogsStream>, Status> {
        let query = TailQuery::try_from(request.into_inner())?;
        let (app, full) = (self.0.clone(), query.wanted.full);
        let tail = self.0.tail_logs(query).await?;
        let tail = tail.map(move |item| {
            let (item, cursor) = item?;
            let mut message = pb::TailLogsResponse { cursor, ..Default::default() };
            let kind = match item {
                TailItem::Lines(lines) => {
                    let lines = lines.iter().map(|(line, of)| log(line, of, full, &app));
                    message.logs = lines.collect();
                    pb::TailEventType::Lines
                }
                TailItem::CaughtUp => pb::TailEventType::CaughtUp,
                TailItem::Heartbeat => pb::TailEventType::Heartbeat,
                TailItem::Missed(count) => {
                    message.missed = count.map(number);
                    pb::TailEventType::Missed
                }
            };
            message.set_type(kind);
            Ok(message)
        });
        Ok(Response::new(Box::pin(tail)))
    }
}

fn log(line: &Line, of: &Source, full: bool, app: &App) -> pb::Log {
    let gap = match line.kind {
        EntryKind::Gap => Gap::from_content(&line.content),
        EntryKind::Line(_) => None,
    };
    let text = String::from_utf8_lossy(&line.content);
    let inexact = matches!(text, std::borrow::Cow::Owned(_));
    let stream = match line.kind {
        EntryKind::Line(logs::Stream::Stdout) => Some(pb::LogStream::Stdout),
        EntryKind::Line(logs::Stream::Stderr) => Some(pb::LogStream::Stderr),
        EntryKind::Gap => None,
    };
    pb::Log {
        id: cursor::write(app.logs.store.id(), line.seq),
        node_id: app.settings.node_id.clone(),
        container_id: of.about.container_id.clone(),
        created_at: Some(timestamp(line.time)),
        content: if gap.is_some() { String::new() } else { text.into_owned() },
        stream: stream.filter(|_| full).map(Into::into),
        position: full.then(|| number(line.position)),
        raw: (full && inexact).then(|| line.content.clone()),
        continues: (full && line.continues).then_some(true),
        gap: gap.filter(|_| full).map(|gap| pb::LogGap {
            reason: gap.reason.word().to_owned(),
            from: gap.from.map(timestamp),
            to: gap.to.map(timestamp),
            count: gap.count.map(number),
        }),
    }
}

/// How the collection of a container's log does.
pub(super) fn status(id: &str, app: &App) -> Option<pb::LogStatus> {
    let status = app.logs.status(id)?;
    let source = match status.origin {
        Some(Origin::Files) => pb::LogSource::Files,
        Some(Origin::Engine) => pb::LogSource::Engine,
        None => pb::LogSource::Unspecified,
    };
    Some(pb::LogStatus {
        source: source.into(),
        lines: number(status.source.lines),
        raw_bytes: number(status.source.raw_bytes),
        stored_bytes: number(status.source.stored_bytes),
        error: status.error.map(|error| error.message().to_owned()).unwrap_or_default(),
    })
}

/// What is stored of all logs.
pub(super) fn node_logs(app: &App) -> pb::NodeLogs {
    let sources = app.logs.store.sources();
    let sum = |of: fn(&Arc<Source>) -> u64| number(sources.iter().map(of).sum());
    let containers = sources.iter().filter(|source| source.lines > 0).count();
    pb::NodeLogs {
        lines: sum(|source| source.lines),
        raw_bytes: sum(|source| source.raw_bytes),
        stored_bytes: sum(|source| source.stored_bytes),
        containers: i32::try_from(containers).unwrap_or(i32::MAX),
        error: app.logs.trouble().map(|error| error.message().to_owned()),
    }
}

/// The filters, which both requests have under the same names.
macro_rules! wanted {
    ($request:ident) => {
        Wanted {
            full: $request.view() == pb::LogView::Full,
            streams: streams($request.streams())?,
            node_id: $request.node_id,
            selection: Selection {
                container_id: $request.container_id,
                name: $request.name,
                hash: $request.hash,
                name_pattern: $request.name_pattern,
                label: $request.label,
            },
            contains: $request.contains,
            contains_ignore_case: $request.contains_ignore_case,
            regex: $request.regex,
        }
    };
}

impl TryFrom<pb::ListLogsRequest> for LogQuery {
    type Error = Error;

    fn try_from(request: pb::ListLogsRequest) -> Result<Self> {
        Ok(Self {
            since: request.since.map(|at| nanos("since", at)).transpose()?,
            until: request.until.map(|at| nanos("until", at)).transpose()?,
            oldest_first: request.order() == pb::LogOrder::OldestFirst,
            limit: request.limit.into(),
            page_size: request.page_size.into(),
            page_token: request.page_token.clone(),
            wanted: wanted!(request),
        })
    }
}

impl TryFrom<pb::TailLogsRequest> for TailQuery {
    type Error = Error;

    fn try_from(request: pb::TailLogsRequest) -> Result<Self> {
        let cursor = Some(&request.cursor).filter(|cursor| !cursor.is_empty());
        let start = match (cursor, request.since, request.last_lines) {
            (None, None, None) => Start::Now,
            (Some(cursor), None, None) => Start::After(cursor.clone()),
            (None, Some(since), None) => Start::Since(nanos("since", since)?),
            (None, None, Some(count)) => Start::Last(count.into()),
            _ => {
                let why = "only one of cursor, since and lastLines may be set";
                return Err(Error::field("cursor", why));
            }
        };
        let heartbeat = heartbeat(request.heartbeat)?;
        let max_lag = match request.max_lag {
            0 => LAG,
            given @ 1..=MOST_LAG => given,
            given => {
                let why = format!("{given} is out of range; use 1 to {MOST_LAG}");
                return Err(Error::field("maxLag", why));
            }
        };
        let slow_reader = match request.slow_reader() {
            pb::SlowReader::Unspecified | pb::SlowReader::CatchUp => SlowReader::CatchUp,
            pb::SlowReader::Skip => SlowReader::Skip,
            pb::SlowReader::CutOff => SlowReader::CutOff,
        };
        Ok(Self {
            start,
            no_follow: request.no_follow,
            heartbeat,
            slow_reader,
            max_lag: u64::from(max_lag.unsigned_abs()),
            wanted: wanted!(request),
        })
    }
}

/// How often a stream sends something.
pub(super) fn heartbeat(asked: Option<prost_types::Duration>) -> Result<Duration> {
    match super::convert::duration(asked) {
        None => Ok(HEARTBEAT),
        Some(Ok(given)) if HEARTBEATS.contains(&given) => Ok(given),
        Some(_) => Err(Error::field("heartbeat", "is out of range; use 1s to 3600s")),
    }
}

fn streams(asked: impl Iterator<Item = pb::LogStream>) -> Result<Vec<logs::Stream>> {
    asked
        .map(|stream| match stream {
            pb::LogStream::Stdout => Ok(logs::Stream::Stdout),
            pb::LogStream::Stderr => Ok(logs::Stream::Stderr),
            pb::LogStream::Unspecified => {
                let why = "names no stream; use LOG_STREAM_STDOUT or LOG_STREAM_STDERR";
                Err(Error::field("streams", why))
            }
        })
        .collect()
}

pub(super) fn nanos(field: &str, at: prost_types::Timestamp) -> Result<i64> {
    let valid = (0..1_000_000_000).contains(&at.nanos);
    let nanos = at.seconds.checked_mul(1_000_000_000);
    nanos
        .and_then(|nanos| nanos.checked_add(at.nanos.into()))
        .filter(|_| valid)
        .ok_or_else(|| Error::field(field, "is out of range; use a time between 1678 and 2261"))
}

fn timestamp(nanos: i64) -> prost_types::Timestamp {
    let (seconds, rest) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    prost_types::Timestamp { seconds, nanos: i32::try_from(rest).unwrap_or(0) }
}

/// Counts are far below the limit of a signed number.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
