//! Answers questions: walks segments in the order of their numbers and searches them.
//!
//! The segments of one container follow each other, those of several overlap. A
//! heap holds the next segment of each; one is opened only when no unopened one
//! can hold an earlier entry. So memory is bounded by one open segment and the
//! answer.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::segment::{self, PLACE, Place, int};
use crate::domain::logs::{EntryKind, Filter};

/// A question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Containers.
    pub sources: Vec<i64>,
    /// What their lines must be like.
    pub filter: Filter,
    /// Only entries after this number…
    pub after: u64,
    /// … and before this one.
    pub before: u64,
    /// The highest numbers first.
    pub newest_first: bool,
    /// Most lines.
    pub limit: usize,
    /// Most bytes of their contents, and a bit for each; one line is answered however
    /// long.
    pub bytes: usize,
    /// After so long the answer is what was found until then.
    pub patience: Duration,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Number on the node.
    pub seq: u64,
    /// Its container.
    pub source: i64,
    /// Number in the container.
    pub position: u64,
    /// Line or gap.
    pub kind: EntryKind,
    /// Nanoseconds since 1970.
    pub time: i64,
    /// Goes on in the next of its stream.
    pub continues: bool,
    /// Without newline.
    pub content: Vec<u8>,
}

impl Line {
    /// About so many bytes go to the caller. What is no UTF-8 goes twice: as text and
    /// as it is.
    pub fn weight(&self) -> usize {
        let exact = self.content.len();
        let text = match String::from_utf8_lossy(&self.content) {
            Cow::Borrowed(_) => 0,
            Cow::Owned(text) => text.len(),
        };
        exact + text + 200
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// In the order that was asked for.
    pub lines: Vec<Line>,
    /// Where the search stopped early: the number up to which, in the order that
    /// was asked for, all was looked at. `None` when nothing is left.
    pub stopped_at: Option<u64>,
    /// How many segments retention had taken, ever, when the answer was given.
    pub mark: u64,
}

/// In which direction numbers grow along the answer.
#[derive(Clone, Copy)]
struct Order {
    newest_first: bool,
}

impl Order {
    /// Smaller comes first. The same function leads back.
    fn key(self, seq: u64) -> u64 {
        if self.newest_first { u64::MAX - seq } else { seq }
    }
}

/// What is known of a container's next segment.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    /// No entry of it comes before this.
    key: u64,
    source: i64,
    /// Key of the last entry of the container that is asked for.
    last: u64,
    /// The segment, once it was looked up.
    place: Option<Place>,
}

pub(super) fn scan(
    db: &Connection,
    sources: &[(i64, (u64, u64))],
    ask: &Ask,
) -> rusqlite::Result<Found> {
    let deadline = Instant::now() + ask.patience;
    let order = Order { newest_first: ask.newest_first };
    // One snapshot: segments are packed and retired meanwhile.
    let snapshot = db.unchecked_transaction()?;
    let mut heap = BinaryHeap::new();
    for (source, (first, last)) in sources.iter().copied().filter(|(_, seqs)| seqs.1 > 0) {
        let (first, last) =
            (first.max(ask.after.saturating_add(1)), last.min(ask.before.saturating_sub(1)));
        if first <= last {
            let (begin, end) = if ask.newest_first { (last, first) } else { (first, last) };
            let (key, last) = (order.key(begin), order.key(end));
            heap.push(Reverse(Next { key, source, last, place: None }));
        }
    }
    let mark = mark(&snapshot)?;
    let mut page =
        Page { order, ask, lines: BTreeMap::new(), bytes: 0, cut: None, mark, searched: false };
    while let Some(Reverse(next)) = heap.pop() {
        if let Some(end) = page.end().filter(|end| next.key > *end) {
            return Ok(page.answer(Some(end)));
        }
        // At least one segment is searched, so that the next question begins later.
        if page.searched && Instant::now() >= deadline {
            // What comes after the next key may miss entries of other containers.
            page.lines.split_off(&next.key);
            return Ok(page.answer(Some(next.key.saturating_sub(1))));
        }
        let begin = order.key(next.key);
        match next.place {
            None => {
                if let Some(place) = look_up(&snapshot, next.source, begin, ask)? {
                    let edge = if ask.newest_first { place.last_seq } else { place.first_seq };
                    let key = order.key(edge).max(next.key);
                    heap.push(Reverse(Next { key, place: Some(place), ..next }));
                }
            }
            Some(place) => {
                page.search(&snapshot, next.source, &place)?;
                let edge = if ask.newest_first { place.first_seq } else { place.last_seq };
                let key = order.key(edge) + 1;
                if key <= next.last {
                    heap.push(Reverse(Next { key, place: None, ..next }));
                }
            }
        }
    }
    let done = page.cut.map(|cut| cut.saturating_sub(1));
    Ok(page.answer(done))
}

/// The first segment, in the order of the answer, that reaches beyond a number and
/// may hold the times.
fn look_up(db: &Connection, source: i64, begin: u64, ask: &Ask) -> rusqlite::Result<Option<Place>> {
    let since = ask.filter.since.unwrap_or(i64::MIN);
    let until = ask.filter.until.unwrap_or(i64::MAX);
    let times = "max_time >= ?3 AND min_time < ?4";
    let query = |wanted: &str| {
        db.prepare_cached(&format!(
            "SELECT {PLACE} FROM log_segments WHERE source = ?1 AND {wanted} LIMIT 1"
        ))?
        .query_row(params![source, int(begin), since, until], Place::read)
        .optional()
    };
    if ask.newest_first {
        return query(&format!("first_seq <= ?2 AND {times} ORDER BY first_seq DESC"));
    }
    // Either the one in which the number lies, or one after it.
    let within = db
        .prepare_cached(&format!(
            "SELECT {PLACE} FROM log_segments WHERE source = ?1 AND first_seq <= ?2
             ORDER BY first_seq DESC LIMIT 1"
        ))?
        .query_row(params![source, int(begin)], Place::read)
        .optional()?;
    match within.filter(|place| place.last_seq >= begin) {
        Some(place) if ask.filter.may_fit(place.min_time, place.max_time) => Ok(Some(place)),
        _ => query(&format!("first_seq > ?2 AND {times} ORDER BY first_seq")),
    }
}

/// The first entries, in the order of the answer, that were found until now.
struct Page<'a> {
    order: Order,
    ask: &'a Ask,
    lines: BTreeMap<u64, Line>,
    bytes: usize,
    /// An entry with this key was found and had no room; none from here on has.
    cut: Option<u64>,
    mark: u64,
    searched: bool,
}

impl Page<'_> {
    /// The last key that still has room, once the page is full.
    fn end(&self) -> Option<u64> {
        let last = self.lines.last_key_value().map(|(key, _)| *key);
        let full = last.filter(|_| self.lines.len() >= self.ask.limit);
        full.or_else(|| self.cut.map(|cut| cut.saturating_sub(1)))
    }

    fn search(&mut self, db: &Connection, source: i64, place: &Place) -> rusqlite::Result<()> {
        self.searched = true;
        let (runs, batch) = segment::load(db, place)?;
        let mut hits = Vec::new();
        self.ask.filter.scan(&batch, |at, entry| hits.push((at, entry)));
        if hits.is_empty() {
            return Ok(());
        }
        let numbers: Vec<u64> = runs.numbers().collect();
        if self.ask.newest_first {
            hits.reverse();
        }
        for (at, entry) in hits {
            let Some(seq) = numbers.get(at).copied() else { break };
            if seq <= self.ask.after || seq >= self.ask.before {
                continue;
            }
            let key = self.order.key(seq);
            if self.end().is_some_and(|end| key > end) {
                // Those that follow come even later.
                self.cut_at(key);
                break;
            }
            let line = Line {
                seq,
                source,
                position: place.first_position + at as u64,
                kind: entry.kind,
                time: entry.time,
                continues: entry.continues,
                content: entry.content.to_vec(),
            };
            self.bytes += line.weight();
            self.lines.insert(key, line);
            self.trim();
        }
        Ok(())
    }

    /// Lets go of the last ones when there are too many; one always stays.
    fn trim(&mut self) {
        while self.lines.len() > self.ask.limit
            || (self.bytes > self.ask.bytes && self.lines.len() > 1)
        {
            let Some((key, line)) = self.lines.pop_last() else { return };
            self.bytes -= line.weight();
            self.cut_at(key);
        }
    }

    fn cut_at(&mut self, key: u64) {
        self.cut = Some(self.cut.map_or(key, |cut| cut.min(key)));
    }

    fn answer(self, done: Option<u64>) -> Found {
        let stopped_at = done.map(|key| self.order.key(key));
        Found { lines: self.lines.into_values().collect(), stopped_at, mark: self.mark }
    }
}

/// Within a container, the number of the first entry after a place that is there;
/// and how many segments retention had taken then.
pub(super) fn position_after(
    db: &Connection,
    source: i64,
    seq: u64,
) -> rusqlite::Result<(Option<u64>, u64)> {
    let ask = Ask {
        sources: Vec::new(),
        filter: Filter::default(),
        after: seq,
        before: u64::MAX,
        newest_first: false,
        limit: 1,
        bytes: 1,
        patience: Duration::MAX,
    };
    let snapshot = db.unchecked_transaction()?;
    let mark = mark(&snapshot)?;
    let Some(place) = look_up(&snapshot, source, seq + 1, &ask)? else { return Ok((None, mark)) };
    if place.first_seq > seq {
        return Ok((Some(place.first_position), mark));
    }
    let (runs, _) = segment::load(&snapshot, &place)?;
    let passed = runs.numbers().take_while(|number| *number <= seq).count() as u64;
    Ok((Some(place.first_position + passed), mark))
}

/// How many segments retention has taken, ever.
fn mark(db: &Connection) -> rusqlite::Result<u64> {
    let taken = db.query_row("SELECT retired FROM log_state", [], |row| row.get::<_, i64>(0))?;
    Ok(taken.unsigned_abs())
}
