//! The log store answers as a plain list of all lines would, after any history.

use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::domain::logs::{Decoder, EntryKind, Filter, Matcher, Place, Stream};

const FOREVER: Duration = Duration::from_secs(600);

fn checkpoint(offset: u64) -> Option<Checkpoint> {
    let place = Place::Files { inode: 1, offset, anchor: String::new(), copy: false };
    Some(Checkpoint { place, decoder: Decoder::default() })
}

fn about(id: &str) -> About {
    About { container_id: id.into(), names: vec![format!("name-{id}")], ..About::default() }
}

fn batch(lines: &[(i64, String)]) -> Batch {
    let mut batch = Batch::default();
    for (time, text) in lines {
        batch.push(Stream::Stdout, *time, false, text.as_bytes());
    }
    batch
}

fn ask(sources: &[i64]) -> Ask {
    Ask {
        sources: sources.to_vec(),
        filter: Filter::default(),
        after: 0,
        before: u64::MAX,
        newest_first: false,
        limit: 1000,
        bytes: 1 << 30,
        patience: FOREVER,
    }
}

struct Fixture {
    store: LogStore,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { store: LogStore::open(&dir.path().join("logs.db")).expect("open"), dir }
    }

    fn reopen(self) -> Self {
        let Self { store, dir } = self;
        drop(store);
        Self { store: LogStore::open(&dir.path().join("logs.db")).expect("again"), dir }
    }
}

#[tokio::test]
async fn lines_and_their_checkpoint_outlive_the_process() {
    let fixture = Fixture::new();
    let source = fixture.store.know(about("a")).await.expect("known").id;
    let lines: Vec<_> = (0..1000).map(|at| (at, format!("line {at}"))).collect();
    for (at, chunk) in (1..).zip(lines.chunks(10)) {
        fixture.store.append(source, batch(chunk), checkpoint(at)).await.expect("append");
    }
    let id = fixture.store.id();
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.id(), id, "cursors stay valid");
    let known = fixture.store.source(source).expect("known");
    assert_eq!(known.checkpoint, checkpoint(100));
    assert_eq!((known.lines, known.seqs, known.next_position), (1000, (1, 1000), 1000));
    let found = fixture.store.ask(ask(&[source])).await.expect("found");
    let texts: Vec<_> = found.lines.iter().map(|line| line.content.clone()).collect();
    let expected: Vec<_> = lines.iter().map(|(_, text)| text.clone().into_bytes()).collect();
    assert_eq!(texts, expected);
    assert_eq!(found.stopped_at, None);
}

#[tokio::test]
async fn what_was_appended_is_read_at_once_from_memory_and_from_disk() {
    let fixture = Fixture::new();
    let source = fixture.store.know(about("a")).await.expect("known").id;
    fixture.store.append(source, batch(&[(1, "one".into())]), checkpoint(1)).await.expect("ok");
    let recent = fixture.store.recent(0, 10).expect("in memory");
    assert_eq!((recent.len(), recent[0].first_seq, recent[0].batch.len()), (1, 1, 1));
    assert_eq!(fixture.store.ask(ask(&[source])).await.expect("found").lines.len(), 1);
    assert_eq!(*fixture.store.latest().borrow(), 1);
}

#[tokio::test]
async fn the_oldest_lines_go_first_and_what_stays_keeps_its_place() {
    let fixture = Fixture::new();
    let source = fixture.store.know(about("a")).await.expect("known").id;
    for at in 0..100u64 {
        let lines: Vec<_> = (0..100).map(|n| (1, format!("{at} {n} {}", "x".repeat(50)))).collect();
        fixture.store.append(source, batch(&lines), checkpoint(at)).await.expect("append");
    }
    let limits = Limits { age: FOREVER, bytes_each: 200_000, bytes: 150_000 };
    fixture.store.retain(limits, 1).await.expect("retained");
    let known = fixture.store.source(source).expect("known");
    assert!(known.stored_bytes <= 150_000 && known.lines > 0, "{known:?}");
    assert_eq!(fixture.store.retired().lines + known.lines, 10_000);
    let found = fixture.store.ask(Ask { limit: 1, ..ask(&[source]) }).await.expect("found");
    let missed = |after, through| fixture.store.missed(&[source], (after, through), found.mark);
    assert_eq!(missed(0, 10_000), Some(10_000 - known.lines), "a late reader is told");
    assert_eq!(missed(10, 20), Some(10));
    assert_eq!(missed(known.seqs.0, 10_000), Some(0));
    let first = fixture.store.ask(Ask { limit: 1, ..ask(&[source]) }).await.expect("found");
    assert_eq!(first.lines[0].seq, first.lines[0].position + 1);
    assert_eq!(first.lines[0].seq, known.seqs.0);

    // A minute later; ages are not looked at more often.
    let later = 60_000_000_001;
    let limits = Limits { age: Duration::from_nanos(10), bytes_each: 1 << 30, bytes: 1 << 30 };
    fixture.store.settle(source, true, true).await.expect("settled");
    fixture.store.retain(limits, later).await.expect("retained");
    assert_eq!(fixture.store.sources().len(), 0, "gone, and nothing is left of it");
}

#[tokio::test]
async fn a_broken_database_is_refused_and_never_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("logs.db");
    std::fs::write(&path, vec![7u8; 8192]).expect("written");
    let error = LogStore::open(&path).expect_err("no database");
    assert_eq!(error.reason(), "STORE_UNUSABLE", "{error:?}");
    assert_eq!(std::fs::read(&path).expect("still there"), vec![7u8; 8192]);
}

#[derive(Debug, Clone)]
enum Step {
    Append { source: usize, lines: Vec<(i64, String)> },
    Settle { source: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let lines = proptest::collection::vec((0i64..50, "[ab]{0,5}"), 1..30);
    prop_oneof![
        20 => (0usize..3, lines).prop_map(|(source, lines)| Step::Append { source, lines }),
        2 => (0usize..3).prop_map(|source| Step::Settle { source }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_question_after_any_history_is_answered_as_a_list_would(
        steps in proptest::collection::vec(step(), 1..40),
        chosen in proptest::collection::vec(0usize..3, 1..4),
        needle in "[ab]{0,2}",
        times in proptest::option::of((0i64..50, 0i64..50)),
        newest_first: bool,
        limit in 1usize..40,
        bytes in 1usize..2000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut fixture = Fixture::new();
            let mut ids = Vec::new();
            for name in ["a", "b", "c"] {
                ids.push(fixture.store.know(about(name)).await.expect("known").id);
            }
            let mut model: Vec<(i64, i64, String)> = Vec::new();
            for step in steps {
                match step {
                    Step::Append { source, lines } => {
                        let id = ids[source];
                        let appended = fixture.store.append(id, batch(&lines), checkpoint(0));
                        appended.await.expect("appended");
                        model.extend(lines.into_iter().map(|(time, text)| (id, time, text)));
                    }
                    Step::Settle { source } => {
                        fixture.store.settle(ids[source], true, false).await.expect("settled");
                    }
                    Step::Reopen => fixture = fixture.reopen(),
                }
            }
            let sources: Vec<i64> = {
                let mut sources: Vec<_> = chosen.iter().map(|at| ids[*at]).collect();
                sources.sort_unstable();
                sources.dedup();
                sources
            };
            let (since, until) = times.unzip();
            let filter = Filter {
                since,
                until,
                matcher: Matcher::new(&needle, "", "").expect("a matcher"),
                ..Filter::default()
            };
            let mut expected: Vec<(u64, String)> = (1u64..).zip(&model)
                .filter(|(_, (id, time, text))| {
                    sources.contains(id) && text.contains(&needle)
                        && since.is_none_or(|since| *time >= since)
                        && until.is_none_or(|until| *time < until)
                })
                .map(|(seq, (_, _, text))| (seq, text.clone()))
                .collect();
            if newest_first {
                expected.reverse();
            }

            let mut got = Vec::new();
            let mut next = Ask { filter, newest_first, limit, bytes, ..ask(&sources) };
            loop {
                let found = fixture.store.ask(next.clone()).await.expect("found");
                assert!(found.lines.len() <= limit);
                for line in found.lines {
                    assert_eq!(line.kind, EntryKind::Line(Stream::Stdout));
                    got.push((line.seq, String::from_utf8(line.content).expect("text")));
                }
                match found.stopped_at {
                    Some(seq) if newest_first => next.before = seq,
                    Some(seq) => next.after = seq,
                    None => break,
                }
            }
            assert_eq!(got, expected);
            for (at, (seq, _)) in (0u64..).zip(model.iter().zip(1u64..).filter(|((id, ..), _)| *id == ids[0]).map(|(_, seq)| (seq, ()))) {
                let (position, _) = fixture.store.position_after(ids[0], seq - 1).await.expect("read");
                assert_eq!(position, Some(at));
            }
        });
    }
}
