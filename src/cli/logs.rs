//! `logs`: print what containers wrote, and go on as they write more.

mod names;
mod page;
mod render;
mod select;
mod tail;

use std::collections::HashMap;

use futures_util::future;
use tokio::sync::mpsc;

use crate::rpc::pb;

use super::{
    Failure, Output, Session, interrupt,
    output::{Json, warn},
    parse::{self, Tail},
};
use names::Names;
use render::Renderer;
use select::Source;

/// Messages that wait to be printed; the service keeps the rest.
const WAITING: usize = 2;
/// Containers whose last printed line is remembered.
const REMEMBERED: usize = 4_096;

/// Whose lines to print, and which.
#[derive(Debug, clap::Args)]
#[command(group(
    clap::ArgGroup::new("whose").required(true).multiple(true)
        .args(["names", "pattern", "label", "all"])
))]
pub(super) struct Args {
    /// Names, aliases, hashes or ids; or patterns, as 'web-*'
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The containers of which a name fits this pattern, as 'web-*'
    #[arg(long, value_name = "GLOB", default_value = "", hide_default_value = true)]
    pattern: String,
    /// Only containers with this label, KEY or KEY=VALUE
    #[arg(short, long, default_value = "", hide_default_value = true)]
    label: String,
    /// All containers, also those that are gone
    #[arg(short, long, conflicts_with_all = ["names", "pattern"])]
    all: bool,
    /// Go on with the lines that come; Ctrl-C ends it
    #[arg(short, long)]
    follow: bool,
    /// Only lines of this time or later: 2026-01-31T12:00:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    since: Option<prost_types::Timestamp>,
    /// Only lines before this time
    #[arg(long, value_name = "TIME", value_parser = parse::time, conflicts_with = "follow")]
    until: Option<prost_types::Timestamp>,
    /// Begin with the last N lines that fit, of each NAME; or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = parse::tail)]
    tail: Tail,
    /// Only lines with this text
    #[arg(long, value_name = "TEXT", group = "search", default_value = "")]
    #[arg(hide_default_value = true)]
    grep: String,
    /// Only lines with this text, in upper or lower case
    #[arg(long, value_name = "TEXT", group = "search", default_value = "")]
    #[arg(hide_default_value = true)]
    grep_i: String,
    /// Only lines in which this regular expression matches; syntax of RE2
    #[arg(long, value_name = "RE", group = "search", default_value = "")]
    #[arg(hide_default_value = true)]
    regex: String,
    /// Only lines of this stream
    #[arg(long, value_enum)]
    stream: Option<StreamName>,
    /// Print the time before each line
    #[arg(short, long)]
    timestamps: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum StreamName {
    Stdout,
    Stderr,
}

/// What a source has to say.
#[derive(Debug)]
enum Event {
    /// Lines, in their order.
    Lines(Vec<pb::Log>),
    /// So many lines were left out.
    Missed(Option<i64>),
}

/// Where sources put what they have to say, with their number.
type Sender = mpsc::Sender<(usize, Event)>;

pub(super) async fn logs(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let sources = args.sources()?;
    if args.follow {
        interrupt::ends_well()?;
    }
    let (send, receive) = mpsc::channel(WAITING);
    // A source that fails does not keep what the others, or itself, had to say
    // from being printed; a terminal that fails ends all.
    let read = async { Ok::<_, Failure>(read(&args, &sources, &session, send).await) };
    let print = print(&args, &sources, session.clone(), receive, out);
    let (read, ()) = tokio::try_join!(read, print)?;
    read
}

/// Reads all sources at once, each until it ends.
async fn read(
    args: &Args,
    sources: &[Source],
    session: &Session,
    send: Sender,
) -> Result<(), Failure> {
    let one = async |number: usize, source: &Source| {
        let result = match args.until {
            Some(_) => page::read(args, source, session, number, &send).await,
            None => tail::read(args, source, session, number, &send).await,
        };
        match result {
            Err(failure @ Failure::Refused(_)) if sources.len() > 1 => {
                warn(format_args!("error: {}: {failure}", source.word()));
                Err(Failure::Told(failure.code()))
            }
            other => other,
        }
    };
    let all = sources.iter().enumerate().map(|(number, source)| one(number, source));
    future::join_all(all).await.into_iter().collect()
}

/// Prints what comes until all sources have ended.
async fn print(
    args: &Args,
    sources: &[Source],
    session: Session,
    mut receive: mpsc::Receiver<(usize, Event)>,
    out: Output,
) -> Result<(), Failure> {
    let mut renderer = Renderer::new(args, if out.json { Some(Json::of("Log")?) } else { None });
    let mut names = (!out.json && several(sources)).then(|| Names::new(session, sources));
    let mut once = (sources.len() > 1).then(Once::default);
    while let Some((number, event)) = receive.recv().await {
        let word = sources.get(number).and_then(Source::exact);
        match event {
            Event::Lines(logs) => {
                for log in logs {
                    if once.as_mut().is_some_and(|once| once.seen(&log)) {
                        continue;
                    }
                    let name = match &mut names {
                        Some(names) => Some(names.of(&log.container_id, word).await),
                        None => None,
                    };
                    renderer.log(&log, name)?;
                }
            }
            Event::Missed(count) => renderer.missed(count, word.filter(|_| names.is_some())),
        }
        renderer.take().try_for_each(|(target, bytes)| out.bytes(target, &bytes))?;
    }
    Ok(())
}

/// Whether lines of several containers may mix, so that each needs a prefix.
fn several(sources: &[Source]) -> bool {
    sources.len() > 1 || sources.iter().any(|source| source.exact().is_none())
}

/// Two NAMEs may mean one container. Its lines have numbers, and each source has
/// them in order, so a number that is not higher was printed.
#[derive(Debug, Default)]
struct Once(HashMap<String, i64>);

impl Once {
    fn seen(&mut self, log: &pb::Log) -> bool {
        let Some(position) = log.position else { return false };
        match self.0.get_mut(&log.container_id) {
            Some(last) if position <= *last => return true,
            Some(last) => *last = position,
            None => {
                if self.0.len() >= REMEMBERED {
                    self.0.clear();
                }
                self.0.insert(log.container_id.clone(), position);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;
