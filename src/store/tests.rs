//! The store keeps what it was given, and refuses what it cannot read.

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::domain::{
    event::{Event, EventKind, Subject, What},
    spec::Canonical,
};

fn event(second: i64, name: &str, what: What) -> Event {
    let at = Timestamp::from_second(second).expect("a time");
    let aliases = vec![format!("{name}-a"), format!("{name}-b")];
    Event { at, subject: Subject { aliases, ..Subject::name(name) }, what }
}

fn all() -> EventQuery {
    EventQuery { limit: 1000, bytes: 1 << 20, ..EventQuery::default() }
}

async fn numbers(store: &Store, query: EventQuery) -> Vec<u64> {
    store.events(query).await.expect("events").events.iter().map(|event| event.seq).collect()
}

fn record(key: &str) -> Record {
    Record {
        key: key.into(),
        name: "web".into(),
        container_id: "id".into(),
        spec_hash: "v1:x".into(),
        spec: Canonical::from([("image".into(), vec!["nginx".into()])]),
        host_ports: vec![20_000],
        wanted: true,
    }
}

#[tokio::test]
async fn records_and_their_events_outlive_the_process() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    let store = Store::open(&path).expect("open");
    let id = store.events_id();
    for turn in 0..105 {
        store.put_record(record("k"), vec![event(turn, "web", What::Created)]).await.expect("put");
    }
    drop(store);
    let store = Store::open(&path).expect("again");
    assert_eq!((store.events_id(), *store.latest_event().borrow()), (id, 105));
    assert_eq!(store.records().await.expect("records"), [record("k")]);
    let newest = EventQuery { newest_first: true, limit: 1, ..all() };
    let page = store.events(newest).await.expect("events");
    assert_eq!(page.events[0].event, event(104, "web", What::Created));
    assert!(page.more && (page.oldest, page.latest) == (1, 105));
    let removed = event(105, "web", What::Removed { by_service: true });
    store.delete_record("k", vec![removed]).await.expect("delete");
    assert_eq!(store.records().await.expect("records"), []);
    assert_eq!(numbers(&store, EventQuery { after: 105, ..all() }).await, [106]);
}

#[tokio::test]
async fn events_are_found_by_container_kind_and_time_both_ways() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Store::open(&dir.path().join("db")).expect("open");
    let died = || What::Died { exit_code: Some(1), oom_killed: false };
    let mut events = vec![
        event(1, "a", What::Created),
        event(2, "b", What::Created),
        event(3, "a", died()),
        event(4, "b", died()),
    ];
    events[2].subject.container_id = "abcdef".into();
    events[3].subject.hash = "h".into();
    store.append_events(events).await.expect("append");
    let named = |name: &str| EventQuery { name: name.into(), ..all() };
    assert_eq!(numbers(&store, named("a")).await, [1, 3]);
    assert_eq!(numbers(&store, named("b-b")).await, [2, 4]);
    assert_eq!(numbers(&store, EventQuery { no_aliases: true, ..named("b-b") }).await, [0; 0]);
    assert_eq!(numbers(&store, EventQuery { newest_first: true, ..all() }).await, [4, 3, 2, 1]);
    let kinds = vec![EventKind::Died, EventKind::BackingOff];
    assert_eq!(numbers(&store, EventQuery { kinds, ..all() }).await, [3, 4]);
    assert_eq!(numbers(&store, EventQuery { container_id: "abc".into(), ..all() }).await, [3]);
    assert_eq!(numbers(&store, EventQuery { hash: "h".into(), ..all() }).await, [4]);
    let second = 1_000_000_000;
    let times = EventQuery { since: Some(2 * second), until: Some(4 * second), ..all() };
    assert_eq!(numbers(&store, times).await, [2, 3]);
    assert_eq!(numbers(&store, EventQuery { after: 1, before: 4, ..all() }).await, [2, 3]);
    let few = store.events(EventQuery { bytes: 1, ..all() }).await.expect("events");
    assert!(few.more && few.events.len() == 1, "at least one, whatever the bytes");
}

#[tokio::test]
async fn retention_takes_the_oldest_and_no_number_comes_back() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    let store = Store::open(&path).expect("open");
    // The clock went back in between: what was written later stays longer.
    for second in [1, 2, 50, 3, 51] {
        store.append_events(vec![event(second, "a", What::Created)]).await.expect("append");
    }
    assert!(!store.retain_events(10_000_000_000, 100).await.expect("retain"));
    assert_eq!(numbers(&store, all()).await, [3, 4, 5]);
    store.retain_events(0, 2).await.expect("retain");
    assert_eq!(numbers(&store, all()).await, [4, 5]);
    store.retain_events(i64::MAX, 2).await.expect("retain");
    let empty = store.events(all()).await.expect("events");
    assert_eq!((empty.events.len(), empty.oldest, empty.latest), (0, 6, 5));
    drop(store);
    let store = Store::open(&path).expect("again");
    store.append_events(vec![event(1, "a", What::Created)]).await.expect("append");
    assert_eq!(numbers(&store, all()).await, [6]);
}

#[tokio::test]
async fn the_history_of_an_older_schema_becomes_events() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    let mut old = connect(&path).expect("open");
    migrations::run(&mut old, &path, &migrations::RECORDS[..2]).expect("the older schema");
    old.execute_batch(
        "INSERT INTO history (name, at, action, detail) VALUES
            ('web', '2026-01-31T12:00:00.123456Z', 'created', ''),
            ('web', '2026-01-31T12:00:01Z', 'replaced', 'envs, imageId')",
    )
    .expect("rows");
    drop(old);
    let store = Store::open(&path).expect("the newer schema");
    let page = store.events(all()).await.expect("events");
    let [first, second] = &page.events[..] else { panic!("{page:?}") };
    assert_eq!(first.event.at.to_string(), "2026-01-31T12:00:00.123456Z");
    assert_eq!((&first.event.what, first.event.subject.name.as_str()), (&What::Created, "web"));
    let fields = vec!["envs".to_owned(), "imageId".to_owned()];
    assert_eq!(second.event.what, What::Replaced { fields, predecessor: String::new() });
}

#[tokio::test]
async fn a_keep_is_new_once_and_deaths_are_noted() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Store::open(&dir.path().join("db")).expect("open");
    let made = || What::KeepCreated { path: "/a".into(), volume: "v".into() };
    for _ in 0..2 {
        let keeps = vec![("v".to_owned(), event(1, "a", made()))];
        store.use_keeps(keeps, Timestamp::UNIX_EPOCH).await.expect("used");
    }
    assert_eq!(numbers(&store, all()).await, [1]);
    let counted: u64 = store.event_counts().map(|(_, count)| count).sum();
    assert_eq!(counted, 1);
    assert_eq!(store.lives().await.expect("lives"), None);
    let five = Told { until: 5, finished: Some(4) };
    let six = Told { until: 6, finished: None };
    let ended = [("one".to_owned(), five), ("two".to_owned(), six)].into();
    store.tell_deaths(Arc::default(), Arc::new(ended), Arc::default()).await.expect("told");
    let lives = store.lives().await.expect("lives").expect("began");
    assert_eq!(lives, [("one".to_owned(), five), ("two".to_owned(), six)].into());
    let gone = ["two".to_owned()].into();
    store.tell_deaths(Arc::default(), Arc::default(), Arc::new(gone)).await.expect("told");
    let lives = store.lives().await.expect("lives").expect("began");
    assert_eq!(lives, [("one".to_owned(), five)].into());
}

#[tokio::test]
async fn a_record_that_is_of_another_container_by_now_is_not_forgotten() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Store::open(&dir.path().join("db")).expect("open");
    let gone = record("k");
    store.put_record(gone.clone(), vec![event(1, "web", What::Created)]).await.expect("put");
    let removed = || event(2, "web", What::Removed { by_service: false });
    let newer = Record { container_id: "another".into(), ..record("k") };
    store.put_record(newer.clone(), vec![event(3, "web", What::Created)]).await.expect("put");
    assert!(!store.delete_unchanged(&gone, vec![removed()]).await.expect("looked at"));
    assert_eq!(store.records().await.expect("records"), std::slice::from_ref(&newer));
    assert_eq!(numbers(&store, all()).await, [1, 2], "and nothing is told");
    assert!(store.delete_unchanged(&newer, vec![removed()]).await.expect("forgotten"));
    assert_eq!(store.records().await.expect("records"), []);
    assert_eq!(numbers(&store, all()).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_token_name_is_taken_once() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Store::open(&dir.path().join("db")).expect("open");
    let token = |hash| StoredToken {
        hash: [hash; 32],
        name: "a".into(),
        permissions: vec!["p".into()],
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: Some(Timestamp::UNIX_EPOCH),
    };
    store.add_token(token(1)).await.expect("first");
    assert_eq!(store.add_token(token(2)).await.expect_err("second").reason(), "TOKEN_EXISTS");
    assert_eq!(store.tokens().await.expect("list"), [token(1)]);
    assert!(store.remove_token("a").await.expect("remove"));
    assert!(!store.remove_token("a").await.expect("again"));
}

#[test]
fn a_newer_or_damaged_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let newer = dir.path().join("newer");
    drop(Store::open(&newer).expect("open"));
    Connection::open(&newer).expect("raw").pragma_update(None, "user_version", 99).expect("set");
    assert_eq!(Store::open(&newer).expect_err("newer").reason(), "STORE_TOO_NEW");

    let damaged = dir.path().join("damaged");
    std::fs::write(&damaged, "this is no database, not at all, however long").expect("write");
    assert_eq!(Store::open(&damaged).expect_err("damaged").reason(), "STORE_UNUSABLE");
    assert!(std::fs::read(&damaged).expect("read").starts_with(b"this is no"));
}
