//! The store keeps what it was given, and refuses what it cannot read.

use jiff::Timestamp;

use super::*;
use crate::domain::spec::Canonical;

fn entry(action: &str) -> HistoryEntry {
    HistoryEntry { at: Timestamp::UNIX_EPOCH, action: action.into(), detail: String::new() }
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
async fn records_and_history_outlive_the_process() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("db");
    let store = Store::open(&path).expect("open");
    for turn in 0..105 {
        store.put_record(record("k"), entry(&turn.to_string())).await.expect("put");
    }
    drop(store);
    let store = Store::open(&path).expect("again");
    assert_eq!(store.records().await.expect("records"), [record("k")]);
    let history = store.history("web").await.expect("history");
    assert_eq!((history.len(), history[0].action.as_str()), (100, "104"));
    store.delete_record("k").await.expect("delete");
    assert_eq!(store.records().await.expect("records"), []);
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
