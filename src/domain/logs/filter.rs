//! Which lines a question is after, and the search for them.

use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};

use super::{Batch, Entry, EntryKind, Stream};
use crate::domain::{Error, Result};

/// Longest text or expression to search for.
const LONGEST: usize = 1024;
/// Most memory that a compiled expression may take.
const COMPILED: usize = 256 << 10;

/// Streams that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSet {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Default for StreamSet {
    fn default() -> Self {
        Self { stdout: true, stderr: true }
    }
}

/// What a line must hold. All parts must fit.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    contains: Option<Finder<'static>>,
    expressions: Vec<Regex>,
}

impl Matcher {
    /// From the texts of a request; an empty one asks for nothing.
    pub fn new(contains: &str, ignoring_case: &str, expression: &str) -> Result<Self> {
        for (field, text) in
            [("contains", contains), ("containsIgnoreCase", ignoring_case), ("regex", expression)]
        {
            if text.len() > LONGEST {
                let why = format!("has {} bytes; at most {LONGEST}", text.len());
                return Err(Error::field(field, why));
            }
        }
        let mut expressions = Vec::new();
        if !ignoring_case.is_empty() {
            expressions.push(compile("containsIgnoreCase", &regex::escape(ignoring_case), true)?);
        }
        if !expression.is_empty() {
            expressions.push(compile("regex", expression, false)?);
        }
        let contains =
            (!contains.is_empty()).then(|| Finder::new(contains.as_bytes()).into_owned());
        Ok(Self { contains, expressions })
    }

    fn fits(&self, content: &[u8]) -> bool {
        self.contains.as_ref().is_none_or(|finder| finder.find(content).is_some())
            && self.expressions_fit(content)
    }

    fn expressions_fit(&self, content: &[u8]) -> bool {
        self.expressions.iter().all(|expression| expression.is_match(content))
    }
}

fn compile(field: &str, expression: &str, ignore_case: bool) -> Result<Regex> {
    RegexBuilder::new(expression)
        .case_insensitive(ignore_case)
        .size_limit(COMPILED)
        .dfa_size_limit(COMPILED)
        .build()
        // The library's message shows the place with a mark under it, and then why.
        .map_err(|error| {
            Error::field(field, format!("\"{expression}\" is no regular expression: {error}"))
        })
}

/// Everything that a line is judged by, apart from its container.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// At this time or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Before this time.
    pub until: Option<i64>,
    /// Streams.
    pub streams: StreamSet,
    /// Text.
    pub matcher: Matcher,
    /// Gaps are wanted too, whatever the text.
    pub gaps: bool,
}

impl Filter {
    /// False when no entry between these times can fit.
    pub fn may_fit(&self, earliest: i64, latest: i64) -> bool {
        self.since.is_none_or(|since| latest >= since)
            && self.until.is_none_or(|until| earliest < until)
    }

    /// Calls `hit` with the index of each entry that fits, in order.
    pub fn scan<'a>(&self, batch: &'a Batch, mut hit: impl FnMut(usize, Entry<'a>)) {
        // Gaps must be found whatever their text; so all are looked at one by one.
        match &self.matcher.contains {
            Some(finder) if !self.gaps => self.search(batch, finder, &mut hit),
            _ => {
                for (at, entry) in batch.entries().enumerate() {
                    let text = || self.matcher.fits(entry.content);
                    if self.fits(&entry) && (entry.kind == EntryKind::Gap || text()) {
                        hit(at, entry);
                    }
                }
            }
        }
    }

    /// The search runs over all texts at once; lines are only cut where it hits.
    fn search<'a>(
        &self,
        batch: &'a Batch,
        finder: &Finder<'_>,
        hit: &mut impl FnMut(usize, Entry<'a>),
    ) {
        let text = batch.text();
        let (mut at, mut begin) = (0, 0);
        while let Some(found) = text.get(begin..).and_then(|rest| finder.find(rest)) {
            let found = begin + found;
            at += memchr::memchr_iter(b'\n', &text[begin..found]).count();
            let line = memchr::memrchr(b'\n', &text[begin..found]).map_or(begin, |n| begin + n + 1);
            let end = memchr::memchr(b'\n', &text[found..]).map_or(text.len(), |n| found + n);
            if at >= batch.len() {
                // A text that holds a newline itself; no line can.
                return;
            }
            let entry = Entry {
                kind: batch.kind(at),
                time: batch.time(at),
                continues: batch.continues(at),
                content: &text[line..end],
            };
            if self.fits(&entry) && self.matcher.fits(entry.content) {
                hit(at, entry);
            }
            at += 1;
            begin = end + 1;
        }
    }

    fn fits(&self, entry: &Entry<'_>) -> bool {
        let kind = match entry.kind {
            EntryKind::Line(Stream::Stdout) => self.streams.stdout,
            EntryKind::Line(Stream::Stderr) => self.streams.stderr,
            EntryKind::Gap => self.gaps,
        };
        kind && self.may_fit(entry.time, entry.time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::logs::{Gap, GapReason};

    fn hits(filter: &Filter, batch: &Batch) -> Vec<usize> {
        let mut hits = Vec::new();
        filter.scan(batch, |at, _| hits.push(at));
        hits
    }

    #[test]
    fn a_broken_expression_is_shown_with_its_place() {
        let error = Matcher::new("", "", "a(b").expect_err("broken");
        assert!(error.message().contains('^'), "{}", error.message());
        assert!(error.message().starts_with("regex:"), "{}", error.message());
    }

    #[test]
    fn gaps_are_told_only_on_demand_and_whatever_the_text() {
        let mut batch = Batch::default();
        batch.push(Stream::Stdout, 1, false, b"rotated by hand");
        batch.push_gap(&Gap::after(GapReason::Rotated, Some(1)));
        let matcher = Matcher::new("rotated", "", "").expect("a matcher");
        let mut filter = Filter { matcher, ..Filter::default() };
        assert_eq!(hits(&filter, &batch), [0]);
        filter.gaps = true;
        filter.matcher = Matcher::new("nothing", "", "").expect("a matcher");
        assert_eq!(hits(&filter, &batch), [1]);
    }

    #[test]
    fn a_text_with_a_newline_is_in_no_line() {
        let mut batch = Batch::default();
        batch.push(Stream::Stdout, 1, false, b"a");
        batch.push(Stream::Stdout, 1, false, b"b");
        for text in ["a\nb", "b\n", "\n"] {
            let matcher = Matcher::new(text, "", "").expect("a matcher");
            assert_eq!(hits(&Filter { matcher, ..Filter::default() }, &batch), [0usize; 0]);
        }
    }

    proptest! {
        #[test]
        fn the_search_over_all_finds_what_a_look_at_each_line_finds(
            lines in proptest::collection::vec(("[ab]{0,6}", any::<bool>(), 0i64..9), 0..40),
            needle in "[ab]{1,3}",
            since in proptest::option::of(0i64..9),
            stderr in any::<bool>(),
        ) {
            let mut batch = Batch::default();
            for (text, out, time) in &lines {
                let stream = if *out { Stream::Stdout } else { Stream::Stderr };
                batch.push(stream, *time, false, text.as_bytes());
            }
            let streams = StreamSet { stdout: true, stderr };
            let matcher = Matcher::new(&needle, "", "").expect("a matcher");
            let filter = Filter { since, streams, matcher, ..Filter::default() };
            let by_hand: Vec<usize> = lines.iter().enumerate()
                .filter(|(_, (text, out, time))| {
                    text.contains(&needle) && (*out || stderr) && since.is_none_or(|s| *time >= s)
                })
                .map(|(at, _)| at)
                .collect();
            prop_assert_eq!(hits(&filter, &batch), by_hand);
        }
    }
}
