//! The view is right under any order of answers.

use super::*;
use crate::domain::container::{Network, Resources, State, labels};

fn container(id: &str, name: &str, state: State) -> Container {
    Container {
        id: id.into(),
        names: vec![name.into(), format!("{name}-alias")],
        image: "x".into(),
        image_id: "sha256:x".into(),
        ports: Vec::new(),
        labels: [(labels::HASH.to_owned(), format!("h-{name}"))].into(),
        envs: BTreeMap::new(),
        volumes: Vec::new(),
        state,
        resources: Resources::default(),
        network: Network::default(),
        created_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        finished_at: None,
        ended_at: None,
        exit_code: None,
        oom_killed: false,
        tty: false,
        log_driver: String::new(),
        log_path: String::new(),
        log_files: None,
        engine_health: None,
    }
}

#[test]
fn an_overtaken_answer_is_dropped() {
    let view = View::default();
    let (early, late) = (view.ticket(), view.ticket());
    view.put(container("aaaa", "web", State::Exited), late);
    view.put(container("aaaa", "web", State::Running), early);
    assert!(!view.named("web")[0].is_running());
    let asked = view.ticket();
    view.remove("aaaa");
    view.put(container("aaaa", "web", State::Running), asked);
    assert!(view.named("web").is_empty(), "a removed container came back");
}

#[test]
fn names_aliases_hashes_and_prefixes_find_it_until_it_is_gone() {
    let view = View::default();
    view.put(container("aaaa1", "web", State::Running), view.ticket());
    view.put(container("aaaa2", "db", State::Running), view.ticket());
    for found in [view.named("web"), view.named("web-alias"), view.hashed("h-web")] {
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, "aaaa1");
    }
    assert_eq!(
        view.identified("aaaa2").expect("exact").map(|c| c.id.clone()),
        Some("aaaa2".into())
    );
    assert!(view.identified("aaaa").is_err(), "two have the prefix");
    assert!(view.identified("aa").is_err(), "too short");
    assert!(view.identified("bbbb").expect("none").is_none());
    view.replace(vec![container("aaaa2", "db", State::Running)], view.ticket());
    assert!(view.named("web").is_empty() && view.hashed("h-web").is_empty());
    assert_eq!(view.all().len(), 1);
}

#[test]
fn changes_are_numbered_without_holes_and_forgotten_ones_are_owned_up_to() {
    let view = View::default();
    for turn in 0..5000 {
        let state = if turn % 2 == 0 { State::Running } else { State::Exited };
        view.put(container("aaaa", "web", state), view.ticket());
    }
    assert!(view.changes_after(0, 10).is_none());
    let changes = view.changes_after(4990, 100).expect("remembered");
    assert_eq!(
        changes.iter().map(|c| c.seq).collect::<Vec<_>>(),
        (4991..=5000).collect::<Vec<_>>()
    );
    assert_eq!(view.changes_after(5000, 1).expect("none yet").len(), 0);
    assert!(view.changes_after(5001, 1).is_none(), "a number from the future");
}

#[test]
fn who_waits_learns_that_the_view_follows_the_engine() {
    let view = View::default();
    let mut latest = view.subscribe();
    latest.borrow_and_update();
    view.set_synced();
    assert!(latest.has_changed().unwrap());
}
