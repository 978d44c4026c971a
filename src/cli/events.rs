//! `events`: print what happened on the node, and go on as more happens.

use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use crate::rpc::pb;

use super::{
    Failure, Output, Session,
    info::time,
    interrupt,
    output::{Json, warn},
    parse,
    target::short,
};

/// First and longest wait before a lost stream is asked for again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Silence after which the connection is taken for dead; the service shows itself
/// every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Which events to print; all that are stored by default.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only events of the container with this name or alias
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
    /// Go on with the events that come; Ctrl-C ends it
    #[arg(short, long)]
    follow: bool,
    /// Only events of this time or later: 2026-01-31T12:00:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    since: Option<prost_types::Timestamp>,
    /// Begin with the last N events that fit, at most 1000
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "since")]
    #[arg(value_parser = clap::value_parser!(i32).range(0..=1000))]
    last: Option<i32>,
    /// Only events of this kind, as died or gave-up; repeatable
    #[arg(short, long = "kind", value_name = "KIND", value_parser = kind)]
    kinds: Vec<pb::EventKind>,
    /// Only events of the container with this id, or of which the id begins so
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    /// Only events of containers with this hash
    #[arg(long, default_value = "", hide_default_value = true)]
    hash: String,
}

pub(super) async fn events(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let all = prost_types::Timestamp::default();
    let since = args.since.or((args.last.is_none()).then_some(all));
    let mut request = pb::WatchEventsRequest {
        name: args.name,
        container_id: args.id,
        hash: args.hash,
        kinds: args.kinds.into_iter().map(Into::into).collect(),
        since,
        last: args.last,
        no_follow: !args.follow,
        ..Default::default()
    };
    let mut printer = Printer::new(out)?;
    let mut wait = RETRY.0;
    if args.follow {
        interrupt::ends_well()?;
    }
    loop {
        let before = request.cursor.clone();
        let lost = match follow(&session, &mut request, &mut printer).await {
            Ok(()) if !args.follow => return Ok(()),
            Ok(()) => "the service ended the stream".to_owned(),
            // Before anything came, there may be nothing to wait for.
            Err(failure) if args.follow && failure.is_absence() && !request.cursor.is_empty() => {
                failure.to_string()
            }
            Err(failure) => return Err(failure),
        };
        if request.cursor != before {
            wait = RETRY.0;
        }
        warn(format_args!("{lost}; trying to go on after the last event"));
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Prints until the stream ends; keeps the last cursor in the request.
async fn follow(
    session: &Session,
    request: &mut pb::WatchEventsRequest,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut stream = session.events().watch_events(request.clone()).await?.into_inner();
    loop {
        let message = timeout(SILENCE, stream.message()).await;
        let message = message
            .map_err(|_| Failure::Unreachable(format!("no sign of life for {SILENCE:?}")))?;
        let Some(message) = message? else { return Ok(()) };
        if let Some(event) = &message.event {
            printer.print(event)?;
        }
        if let Some(missed) = message.missed {
            warn(format_args!("--- {missed} events left out: no longer stored ---"));
        }
        if !message.cursor.is_empty() {
            request.cursor = message.cursor;
            (request.since, request.last) = (None, None);
        }
    }
}

/// Writes events as a person, or a program, reads them.
struct Printer {
    out: Output,
    json: Option<Json>,
    colours: bool,
}

impl Printer {
    fn new(out: Output) -> Result<Self, Failure> {
        let json = if out.json { Some(Json::of("Event")?) } else { None };
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(Self { out, json, colours: io::stdout().is_terminal() && !plain })
    }

    fn print(&self, event: &pb::Event) -> Result<(), Failure> {
        match &self.json {
            Some(json) => self.out.line(json.compact(event)?),
            None => self.out.line(line(event, self.colours)),
        }
    }
}

/// Time, kind, whom, and what is to be known.
fn line(event: &pb::Event, colours: bool) -> String {
    let at = event.at.as_ref().and_then(time).unwrap_or_default();
    let (word, detail) = event.message.split_once(": ").unwrap_or((&event.message, ""));
    let whom = match (event.name.as_str(), short(&event.container_id)) {
        ("", "") => event.image.clone(),
        ("", id) => id.to_owned(),
        (name, "") => name.to_owned(),
        (name, id) => format!("{name} {id}"),
    };
    // What others wrote must not steer the terminal.
    let clean = |text: &str| text.replace(char::is_control, "?");
    let word = match (colours, colour(event.kind())) {
        (true, Some(colour)) => format!("\x1b[{colour}m{:<13}\x1b[0m", clean(word)),
        _ => format!("{:<13}", clean(word)),
    };
    format!("{at} {word} {} {}", clean(&whom), clean(detail)).trim_end().to_owned()
}

/// Green for what began, yellow for what was done, red for what went wrong.
fn colour(kind: pb::EventKind) -> Option<u8> {
    match kind {
        pb::EventKind::Created
        | pb::EventKind::Started
        | pb::EventKind::Healthy
        | pb::EventKind::Built
        | pb::EventKind::GpuReturned => Some(32),
        pb::EventKind::Replaced
        | pb::EventKind::Stopped
        | pb::EventKind::Removed
        | pb::EventKind::Restarted
        | pb::EventKind::BackingOff
        | pb::EventKind::KeepRemoved
        | pb::EventKind::KeepImported
        | pb::EventKind::AssetRemoved
        | pb::EventKind::GpuDrained => Some(33),
        pb::EventKind::Died
        | pb::EventKind::GaveUp
        | pb::EventKind::Unhealthy
        | pb::EventKind::BuildFailed
        | pb::EventKind::GpuOverrun
        | pb::EventKind::GpuLost => Some(31),
        pb::EventKind::Unspecified
        | pb::EventKind::Pulled
        | pb::EventKind::KeepCreated
        | pb::EventKind::AssetFetched
        | pb::EventKind::CudaChosen => None,
    }
}

/// A kind by its word, as `gave-up`.
fn kind(text: &str) -> Result<pb::EventKind, String> {
    let name = format!("EVENT_KIND_{}", text.to_uppercase().replace('-', "_"));
    let found = pb::EventKind::from_str_name(&name);
    found.filter(|kind| *kind != pb::EventKind::Unspecified).ok_or_else(|| {
        let known = (1..).map_while(|number| pb::EventKind::try_from(number).ok());
        let known = known.map(|kind| word(kind.as_str_name())).collect::<Vec<_>>();
        format!("is no kind; use one of {}", known.join(", "))
    })
}

fn word(name: &str) -> String {
    name.trim_start_matches("EVENT_KIND_").to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_its_word_and_a_wrong_one_is_told_all() {
        assert_eq!(kind("gave-up"), Ok(pb::EventKind::GaveUp));
        assert_eq!(kind("DIED"), Ok(pb::EventKind::Died));
        let told = kind("dead").unwrap_err();
        assert!(told.contains("died, ") && told.contains("keep-imported"), "{told}");
        assert!(kind("unspecified").is_err());
    }

    #[test]
    fn an_event_is_a_line_that_cannot_steer_the_terminal() {
        let event = pb::Event {
            at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            kind: pb::EventKind::Died.into(),
            name: "web".into(),
            container_id: "0123456789abcdef".into(),
            message: "died: exit code 1\u{1b}[2J".into(),
            ..Default::default()
        };
        let plain = "1970-01-01T00:00:00Z died          web 0123456789ab exit code 1?[2J";
        assert_eq!(line(&event, false), plain);
        assert!(line(&event, true).contains("\u{1b}[31mdied "));
        let pulled = pb::Event {
            message: "pulled: sha256:1".into(),
            image: "nginx".into(),
            ..Default::default()
        };
        assert_eq!(line(&pulled, false), " pulled        nginx sha256:1");
    }
}
