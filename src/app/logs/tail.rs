//! Follows lines as they come, after those that are there, without a seam.
//!
//! A reader is a cursor and the message at hand: what it is sent next is read when
//! it is ready for it, from the last commits in memory or from the store. So a slow
//! one costs little memory, and no other one notices.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::{App, Wanted, list};
use crate::{
    domain::{
        Error, Kind, Result, cursor,
        logs::{Filter, Selection},
    },
    store::logs::{Ask, Committed, Line, Source},
};

/// Lines and bytes of one message.
const LINES: usize = 1000;
const BYTES: usize = 1 << 20;
/// Most of the last lines, and of their bytes.
const MOST_LAST: i64 = 10_000;
const LAST_BYTES: usize = 8 << 20;
/// How long one look into the store may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a tail begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// With what comes.
    #[default]
    Now,
    /// After a cursor.
    After(String),
    /// At a time, in nanoseconds since 1970.
    Since(i64),
    /// With the last lines that match.
    Last(i64),
}

/// What happens to a reader that is too far behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SlowReader {
    /// It is sent all, however late.
    #[default]
    CatchUp,
    /// It is told how many lines it missed.
    Skip,
    /// It is cut off.
    CutOff,
}

/// A question to follow.
#[derive(Debug, Clone, Default)]
pub struct TailQuery {
    /// Containers and lines.
    pub wanted: Wanted,
    /// Where to begin.
    pub start: Start,
    /// Ends when all that was there is sent.
    pub no_follow: bool,
    /// Something is sent at least so often.
    pub heartbeat: Duration,
    /// What happens to a slow reader.
    pub slow_reader: SlowReader,
    /// How many lines it may be behind.
    pub max_lag: u64,
}

/// Something to tell a reader.
#[derive(Debug, Clone)]
pub enum TailItem {
    /// Lines, each with its container.
    Lines(Vec<(Line, Arc<Source>)>),
    /// All that was there is sent.
    CaughtUp,
    /// Nothing happened for a while.
    Heartbeat,
    /// Lines were left out; how many, where that is known.
    Missed(Option<u64>),
}

struct Tailer {
    app: Arc<App>,
    query: TailQuery,
    selection: Selection,
    filter: Filter,
    /// Lines from before this place are also judged by their time.
    since: Option<(u64, i64)>,
    /// All up to here was sent.
    cursor: u64,
    /// What was there at the beginning ends here.
    end: u64,
    latest: watch::Receiver<u64>,
    ready: VecDeque<(TailItem, u64)>,
    caught_up: bool,
    last_sent: Instant,
}

impl App {
    /// Follows lines; each item comes with the cursor after it.
    pub async fn tail_logs(
        self: &Arc<Self>,
        query: TailQuery,
    ) -> Result<impl Stream<Item = Result<(TailItem, String)>> + Send + use<>> {
        let filter = list::filter(&query.wanted)?;
        let (selection, _) = self.select_logs(&query.wanted)?;
        let store = &self.logs.store;
        let mut latest = store.latest();
        let end = *latest.borrow_and_update();
        let (mut cursor_at, mut since) = (end, None);
        match &query.start {
            Start::Now | Start::Last(_) => {}
            Start::After(text) => {
                // One that is ahead is of lines that a loss of power took.
                cursor_at = cursor::read("cursor", text, store.id())?.min(end);
            }
            Start::Since(time) => {
                cursor_at = 0;
                since = Some((end, *time));
            }
        }
        let mut tailer = Tailer {
            app: self.clone(),
            selection,
            filter,
            since,
            cursor: cursor_at,
            end,
            latest,
            ready: VecDeque::new(),
            caught_up: false,
            last_sent: Instant::now(),
            query,
        };
        if let Start::Last(count) = tailer.query.start {
            tailer.last_lines(count, end).await?;
        }
        let store_id = store.id();
        Ok(stream::unfold(Some(tailer), move |tailer| async move {
            let mut tailer = tailer?;
            match tailer.next().await {
                Ok(Some((item, seq))) => {
                    tailer.last_sent = Instant::now();
                    Some((Ok((item, cursor::write(store_id, seq))), Some(tailer)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl Tailer {
    /// `None` when the stream ends.
    async fn next(&mut self) -> Result<Option<(TailItem, u64)>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let latest = match self.query.no_follow {
                true => self.end,
                false => *self.latest.borrow_and_update(),
            };
            if self.cursor < latest {
                self.mind_the_lag(latest).await?;
                if self.ready.is_empty() {
                    self.read(latest).await?;
                }
            } else if !self.caught_up {
                self.caught_up = true;
                self.ready.push_back((TailItem::CaughtUp, self.cursor));
            } else if self.query.no_follow || !self.wait().await {
                return Ok(None);
            }
            if self.ready.is_empty() && self.last_sent.elapsed() >= self.query.heartbeat {
                self.ready.push_back((TailItem::Heartbeat, self.cursor));
            }
        }
    }

    /// False when the service stops.
    async fn wait(&mut self) -> bool {
        let rest = self.query.heartbeat.saturating_sub(self.last_sent.elapsed());
        tokio::select! {
            changed = self.latest.changed() => changed.is_ok(),
            () = tokio::time::sleep(rest) => true,
            () = self.app.tasks.stopped() => false,
        }
    }

    /// Only who has caught up once can be slow; before that it reads history.
    async fn mind_the_lag(&mut self, latest: u64) -> Result<()> {
        if !self.caught_up || latest - self.cursor <= self.query.max_lag {
            return Ok(());
        }
        match self.query.slow_reader {
            SlowReader::CatchUp => Ok(()),
            SlowReader::CutOff => Err(Error::new(
                Kind::ResourceExhausted,
                "READER_TOO_SLOW",
                format!(
                    "this reader is {} lines behind, more than maxLag; tail again with the last cursor",
                    latest - self.cursor
                ),
            )),
            SlowReader::Skip => {
                let (newest, positions) = self.app.logs.store.positions();
                let (store, mut missed) = (&self.app.logs.store, Some(0));
                for source in self.sources() {
                    let next = positions.get(&source.id).copied().unwrap_or(0);
                    let (have, mark) = store.position_after(source.id, self.cursor).await?;
                    let there = next.saturating_sub(have.unwrap_or(next));
                    // Retention may have been quicker.
                    let taken = store.missed(&[source.id], (self.cursor, newest), mark);
                    missed = missed.zip(taken).map(|(sum, taken)| sum + there + taken);
                }
                self.cursor = newest;
                self.ready.push_back((TailItem::Missed(missed), newest));
                Ok(())
            }
        }
    }

    fn sources(&self) -> Vec<Arc<Source>> {
        let mut sources = self.app.logs.store.sources();
        sources.retain(|source| self.is_wanted(source));
        sources
    }

    fn is_wanted(&self, source: &Source) -> bool {
        let node = &self.query.wanted.node_id;
        (node.is_empty() || *node == self.app.settings.node_id)
            && source.is_selected(&self.selection)
    }

    /// Reads what comes after the cursor, from memory where it is there.
    async fn read(&mut self, latest: u64) -> Result<()> {
        match self.app.logs.store.recent(self.cursor, LINES) {
            Some(commits) => {
                // One message at a time, so that a slow reader holds no more.
                for commit in commits {
                    self.take(&commit, latest);
                    if !self.ready.is_empty() {
                        break;
                    }
                }
                Ok(())
            }
            None => self.read_store(latest).await,
        }
    }

    /// Takes what fits into one message, and no more than up to a place.
    fn take(&mut self, commit: &Committed, latest: u64) {
        let through = commit.last_seq().min(latest);
        let source = self.app.logs.store.source(commit.source);
        let source = source.filter(|source| self.is_wanted(source));
        if let Some(source) = source {
            let (mut lines, mut bytes, mut more) = (Vec::new(), 0, false);
            self.filter.scan(&commit.batch, |at, entry| {
                let seq = commit.first_seq + at as u64;
                let early = self.since.is_some_and(|(end, time)| seq <= end && entry.time < time);
                if more || seq <= self.cursor || seq > through || early {
                    return;
                }
                more = lines.len() >= LINES || (bytes > 0 && bytes + entry.content.len() > BYTES);
                if !more {
                    bytes += entry.content.len();
                    lines.push(Line {
                        seq,
                        source: commit.source,
                        position: commit.first_position + at as u64,
                        kind: entry.kind,
                        time: entry.time,
                        continues: entry.continues,
                        content: entry.content.to_vec(),
                    });
                }
            });
            let last = lines.last().map(|line: &Line| line.seq).filter(|_| more);
            let through = last.unwrap_or(through);
            self.send(lines, &[source], through);
            self.cursor = through;
        } else {
            self.cursor = through;
        }
    }

    async fn read_store(&mut self, latest: u64) -> Result<()> {
        let sources = self.sources();
        let mut filter = self.filter.clone();
        let mut before = latest + 1;
        if let Some((end, time)) = self.since.filter(|(end, _)| self.cursor < *end) {
            // Up to there lines are judged by their time, beyond they are not.
            filter.since = Some(time);
            before = before.min(end + 1);
        }
        let found = self
            .app
            .logs
            .store
            .ask(Ask {
                sources: sources.iter().map(|source| source.id).collect(),
                filter,
                after: self.cursor,
                before,
                newest_first: false,
                limit: LINES,
                bytes: BYTES,
                patience: PATIENCE,
            })
            .await?;
        let through = found.stopped_at.unwrap_or(before - 1);
        self.tell_missed(&sources, through, found.mark);
        self.send(found.lines, &sources, through);
        self.cursor = through;
        Ok(())
    }

    /// Retention may have taken lines that were to come next.
    fn tell_missed(&mut self, sources: &[Arc<Source>], through: u64, mark: u64) {
        let store = &self.app.logs.store;
        // Asked anew: what was taken meanwhile is in the books only now.
        let taken: Vec<i64> = sources
            .iter()
            .filter_map(|source| store.source(source.id))
            .filter(|source| source.retired_seq > self.cursor)
            .map(|source| source.id)
            .collect();
        // A tail from a time on misses nothing that is older than the store.
        if taken.is_empty() || (self.since.is_some() && self.cursor == 0) {
            return;
        }
        match store.missed(&taken, (self.cursor, through), mark) {
            Some(0) => {}
            missed => self.ready.push_back((TailItem::Missed(missed), self.cursor)),
        }
    }

    /// Puts lines into messages of a good size; the last has the cursor `through`.
    fn send(&mut self, lines: Vec<Line>, sources: &[Arc<Source>], through: u64) {
        let mut lines = list::with_sources(lines, sources).into_iter().peekable();
        while lines.peek().is_some() {
            let (mut message, mut bytes) = (Vec::new(), 0);
            while let Some(line) = lines.next_if(|(line, _)| {
                message.is_empty() || (message.len() < LINES && bytes + line.weight() <= BYTES)
            }) {
                bytes += line.0.weight();
                message.push(line);
            }
            let last = message.last().map_or(through, |(line, _)| line.seq);
            let seq = if lines.peek().is_some() { last } else { through };
            self.ready.push_back((TailItem::Lines(message), seq));
        }
    }

    /// Readies the last lines up to a place.
    async fn last_lines(&mut self, count: i64, end: u64) -> Result<()> {
        let mut left =
            usize::try_from(count).ok().filter(|_| count <= MOST_LAST).ok_or_else(|| {
                Error::field("lastLines", format!("{count} is out of range; use 0 to {MOST_LAST}"))
            })?;
        let sources = self.sources();
        let (mut pages, mut before, mut weight) = (Vec::new(), end + 1, 0);
        while left > 0 {
            let found = self
                .app
                .logs
                .store
                .ask(Ask {
                    sources: sources.iter().map(|source| source.id).collect(),
                    filter: self.filter.clone(),
                    after: 0,
                    before,
                    newest_first: true,
                    limit: left,
                    bytes: LAST_BYTES,
                    patience: PATIENCE,
                })
                .await?;
            left -= found.lines.len().min(left);
            weight += found.lines.iter().map(Line::weight).sum::<usize>();
            pages.extend(found.lines);
            match found.stopped_at {
                // However many were asked for, so much is enough.
                Some(seq) if weight < LAST_BYTES / 2 => before = seq,
                _ => break,
            }
        }
        pages.reverse();
        self.send(pages, &sources, end);
        Ok(())
    }
}
