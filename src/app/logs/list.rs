//! Pages of stored lines.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{App, Wanted};
use crate::{
    app::list::Selector,
    domain::{
        Error, Result,
        logs::{Filter, Matcher, Selection, Stream, StreamSet},
        page,
    },
    store::logs::{About, Ask, Line, Source},
};

/// Lines of a page where the request says nothing, and most lines.
const DEFAULT: i64 = 1000;
const MOST: i64 = 10_000;
/// Most bytes of a page; the usual limit of a gRPC message is 4 MiB.
const BYTES: usize = 3 << 20;
/// Most bytes of lines as one text.
const TEXT: usize = 1 << 20;
/// After so long a page is answered with what was found.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question for a page.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Containers and lines.
    pub wanted: Wanted,
    /// At this time or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Before this time.
    pub until: Option<i64>,
    /// The first collected line first.
    pub oldest_first: bool,
    /// At most so many; 0 is the page size.
    pub limit: i64,
    /// Lines of a page; 0 is the default.
    pub page_size: i64,
    /// Where the page begins.
    pub page_token: String,
}

/// One page.
#[derive(Debug, Clone, Default)]
pub struct LogPage {
    /// In the order that was asked for, each with its container.
    pub lines: Vec<(Line, Arc<Source>)>,
    /// Token of the next page; empty on the last.
    pub next: String,
    /// Token of the page before.
    pub previous: String,
}

impl App {
    /// Answers with a page of lines.
    pub async fn list_logs(&self, query: &LogQuery) -> Result<LogPage> {
        let limit = limit(query)?;
        if let (Some(since), Some(until)) = (query.since, query.until)
            && since >= until
        {
            return Err(Error::field("until", "is not after since; exchange the two"));
        }
        let filter = Filter { since: query.since, until: query.until, ..filter(&query.wanted)? };
        let identity = identity(query);
        let begin = match query.page_token.as_str() {
            "" => None,
            token => Some(Begin::read(&page::read(token, &identity)?)?),
        };
        let (_, sources) = self.select_logs(&query.wanted)?;

        let backwards = matches!(begin, Some(Begin { backwards: true, .. }));
        let newest_first = query.oldest_first == backwards;
        let seq = begin.as_ref().map(|begin| begin.seq);
        let ask = Ask {
            sources: sources.iter().map(|source| source.id).collect(),
            filter,
            after: seq.filter(|_| !newest_first).unwrap_or(0),
            before: seq.filter(|_| newest_first).unwrap_or(u64::MAX),
            newest_first,
            limit,
            bytes: BYTES,
            patience: PATIENCE,
        };
        let mut found = self.logs.store.ask(ask).await?;
        let token = |backwards, seq| page::token(&identity, &Begin { backwards, seq }.write());
        let (next, previous);
        if backwards {
            found.lines.reverse();
            // A line that was looked at already is on the other side.
            let edge = seq.unwrap_or(0);
            let last = found.lines.last().map(|line| line.seq);
            let beside = match query.oldest_first {
                true => edge.saturating_sub(1),
                false => edge.saturating_add(1),
            };
            next = token(false, last.unwrap_or(beside));
            let first = found.lines.first().map(|line| line.seq);
            previous = token(true, found.stopped_at.or(first).unwrap_or(edge));
        } else {
            next = found.stopped_at.map(|seq| token(false, seq)).unwrap_or_default();
            let first = found.lines.first().map(|line| line.seq);
            previous = first.map(|seq| token(true, seq)).unwrap_or_default();
        }
        Ok(LogPage { lines: with_sources(found.lines, &sources), next, previous })
    }
}

impl App {
    /// The last lines of one container as text, at most 1 MiB of it.
    pub(in crate::app) async fn last_lines(&self, id: &str, lines: u32) -> Result<String> {
        let Some(source) = self.logs.known(id).filter(|_| lines > 0) else {
            return Ok(String::new());
        };
        let mut found = self
            .logs
            .store
            .ask(Ask {
                sources: vec![source.id],
                filter: Filter::default(),
                after: 0,
                before: u64::MAX,
                newest_first: true,
                limit: lines as usize,
                bytes: TEXT + lines as usize * 200,
                patience: PATIENCE,
            })
            .await?;
        found.lines.reverse();
        let mut text = Vec::new();
        for line in &found.lines {
            text.extend_from_slice(&line.content);
            text.extend_from_slice(if line.continues { b"" } else { b"\n" });
        }
        let from = text.len().saturating_sub(TEXT);
        Ok(String::from_utf8_lossy(&text[from..]).into_owned())
    }

    /// The last container that had this hash or name and is gone.
    pub(in crate::app) fn gone(&self, selector: &Selector) -> Option<About> {
        let Selector { hash, name, .. } = selector.clone();
        let selection = Selection { hash, name, ..Selection::default() };
        let sources = self.logs.store.sources();
        let gone = sources.into_iter().filter(|source| source.is_selected(&selection));
        gone.max_by_key(|source| source.seqs.1).map(|source| source.about.clone())
    }
}

/// Joins lines with their containers, of which some may be gone meanwhile.
pub(super) fn with_sources(lines: Vec<Line>, sources: &[Arc<Source>]) -> Vec<(Line, Arc<Source>)> {
    let by_id: BTreeMap<i64, &Arc<Source>> = sources.iter().map(|s| (s.id, s)).collect();
    let join = |line: Line| by_id.get(&line.source).map(|source| (line, (*source).clone()));
    lines.into_iter().filter_map(join).collect()
}

/// What a line must be like, apart from its time.
pub(super) fn filter(wanted: &Wanted) -> Result<Filter> {
    let Wanted { contains, contains_ignore_case, regex, streams, .. } = wanted;
    let all = streams.is_empty();
    Ok(Filter {
        streams: StreamSet {
            stdout: all || streams.contains(&Stream::Stdout),
            stderr: all || streams.contains(&Stream::Stderr),
        },
        matcher: Matcher::new(contains, contains_ignore_case, regex)?,
        gaps: wanted.full,
        ..Filter::default()
    })
}

fn limit(query: &LogQuery) -> Result<usize> {
    for (field, value) in [("limit", query.limit), ("pageSize", query.page_size)] {
        if !(0..=MOST).contains(&value) {
            return Err(Error::field(field, format!("{value} is out of range; use 0 to {MOST}")));
        }
    }
    let set = [query.limit, query.page_size].into_iter().filter(|value| *value > 0).min();
    Ok(usize::try_from(set.unwrap_or(DEFAULT)).unwrap_or_default())
}

/// What a token belongs to: all that decides which lines there are, in which order.
fn identity(query: &LogQuery) -> String {
    let LogQuery { wanted, since, until, oldest_first, .. } = query;
    // How much is told of a line does not matter, gaps do.
    format!("{wanted:?} {since:?} {until:?} {oldest_first}")
}

/// Where a page begins: beside a line, in the query's order or against it.
struct Begin {
    backwards: bool,
    seq: u64,
}

impl Begin {
    fn write(&self) -> String {
        format!("{}{}", if self.backwards { 'b' } else { 'f' }, self.seq)
    }

    fn read(text: &str) -> Result<Self> {
        let parts = text.split_at_checked(1);
        let seq = parts.and_then(|(_, seq)| seq.parse().ok());
        match (parts, seq) {
            (Some((way @ ("b" | "f"), _)), Some(seq)) => Ok(Self { backwards: way == "b", seq }),
            _ => Err(Error::field("pageToken", "is not a page token; begin without a token")),
        }
    }
}
