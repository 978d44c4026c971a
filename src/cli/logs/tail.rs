//! Lines as TailLogs sends them; a follow outlives its connection.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use crate::{cli::output::warn, rpc::pb};

use super::{
    Args, Event, Failure, Sender, Session, StreamName, Tail,
    select::{By, Source, first_found},
};

/// First and longest wait before a lost stream is asked for again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often the service shows that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Silence after which the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(45);

/// An open stream and what it said first.
struct Open {
    request: pb::TailLogsRequest,
    stream: Streaming<pb::TailLogsResponse>,
    first: Option<pb::TailLogsResponse>,
}

/// Sends what the source has on, until there is no more of it, or of us.
pub(super) async fn read(
    args: &Args,
    source: &Source,
    session: &Session,
    number: usize,
    send: &Sender,
) -> Result<(), Failure> {
    let ask = async |by: By| open(session, by.tail(args.tail_request())).await;
    let mut open = first_found(source.meanings(), ask).await?;
    let mut oldest = args.oldest();
    let mut wait = RETRY.0;
    loop {
        let since = Instant::now();
        let lost = match drain(&mut open, &mut oldest, number, send).await {
            Ok(Ended::Complete) => return Ok(()),
            Ok(Ended::Early) => "the service ended the stream".to_owned(),
            Err(failure) if args.follow && failure.is_absence() => failure.to_string(),
            Err(failure) => return Err(failure),
        };
        warn(format_args!("{}: {lost}; trying to go on after the last line", source.word()));
        // A stream that lived is no reason to be careful with the next.
        if since.elapsed() > RETRY.1 {
            wait = RETRY.0;
        }
        open = reopen(session, open.request, &mut wait).await?;
        warn(format_args!("{}: going on", source.word()));
    }
}

/// How a stream ended that did not fail.
enum Ended {
    /// Nothing more is asked for.
    Complete,
    /// It was to go on.
    Early,
}

/// Sends on until the stream ends, and keeps the last cursor in the request.
async fn drain(
    open: &mut Open,
    oldest: &mut Option<prost_types::Timestamp>,
    number: usize,
    send: &Sender,
) -> Result<Ended, Failure> {
    let mut next = open.first.take();
    while let Some(message) = next {
        let event = match message.r#type() {
            pb::TailEventType::Lines => {
                let mut logs = message.logs;
                if let Some(oldest) = &oldest {
                    logs.retain(|log| log.created_at.is_none_or(|at| !before(&at, oldest)));
                }
                Some(Event::Lines(logs))
            }
            pb::TailEventType::Missed => Some(Event::Missed(message.missed)),
            pb::TailEventType::CaughtUp => {
                // What comes now is new, whatever the clock says.
                *oldest = None;
                None
            }
            pb::TailEventType::Heartbeat | pb::TailEventType::Unspecified => None,
        };
        if let Some(event) = event
            && send.send((number, event)).await.is_err()
        {
            return Ok(Ended::Complete);
        }
        if !message.cursor.is_empty() {
            open.request.cursor = message.cursor;
            open.request.since = None;
            open.request.last_lines = None;
        }
        next = hear(&mut open.stream, open.request.no_follow).await?;
    }
    Ok(if open.request.no_follow { Ended::Complete } else { Ended::Early })
}

/// Asks, and waits for the first message: only then is it sure that it was found.
async fn open(session: &Session, request: pb::TailLogsRequest) -> Result<Open, Failure> {
    let mut stream = session.logs().tail_logs(request.clone()).await?.into_inner();
    let first = hear(&mut stream, request.no_follow).await?;
    Ok(Open { request, stream, first })
}

/// Asks again, ever less often, until the service answers.
async fn reopen(
    session: &Session,
    request: pb::TailLogsRequest,
    wait: &mut Duration,
) -> Result<Open, Failure> {
    loop {
        sleep(*wait).await;
        *wait = (*wait * 2).min(RETRY.1);
        match open(session, request.clone()).await {
            Err(failure) if failure.is_absence() => {}
            other => return other,
        }
    }
}

/// The next message. A long search may be silent, a follow may not.
async fn hear(
    stream: &mut Streaming<pb::TailLogsResponse>,
    patient: bool,
) -> Result<Option<pb::TailLogsResponse>, Failure> {
    if patient {
        return Ok(stream.message().await?);
    }
    match timeout(SILENCE, stream.message()).await {
        Ok(message) => Ok(message?),
        Err(_) => Err(Failure::Unreachable(format!("no sign of life for {SILENCE:?}"))),
    }
}

fn before(a: &prost_types::Timestamp, b: &prost_types::Timestamp) -> bool {
    (a.seconds, a.nanos) < (b.seconds, b.nanos)
}

impl Args {
    /// The request without the containers.
    pub(super) fn tail_request(&self) -> pb::TailLogsRequest {
        let since = match (self.tail, self.since) {
            (Tail::Last(_), _) => None,
            (Tail::All, Some(since)) => Some(since),
            // The service begins with what comes unless a time is given.
            (Tail::All, None) => Some(prost_types::Timestamp::default()),
        };
        let last_lines = match self.tail {
            Tail::All => None,
            Tail::Last(lines) => Some(lines),
        };
        pb::TailLogsRequest {
            label: self.label.clone(),
            streams: self.streams(),
            contains: self.grep.clone(),
            contains_ignore_case: self.grep_i.clone(),
            regex: self.regex.clone(),
            since,
            last_lines,
            no_follow: !self.follow,
            view: pb::LogView::Full.into(),
            heartbeat: HEARTBEAT.try_into().ok(),
            ..Default::default()
        }
    }

    /// With both --tail and --since, lines before this are left out here: the
    /// service takes one of the two.
    pub(super) fn oldest(&self) -> Option<prost_types::Timestamp> {
        self.since.filter(|_| self.tail != Tail::All)
    }

    pub(super) fn streams(&self) -> Vec<i32> {
        let one = |stream| match stream {
            StreamName::Stdout => pb::LogStream::Stdout.into(),
            StreamName::Stderr => pb::LogStream::Stderr.into(),
        };
        self.stream.map(one).into_iter().collect()
    }
}
