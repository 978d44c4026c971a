//! Each death is told once, whatever a listing and the stream say of it.

use super::*;
use crate::domain::container::{Network, Resources, State};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn container(started: Option<i64>, ended: Option<i64>) -> Container {
    let runs = started.is_some_and(|started| ended.is_none_or(|ended| ended < started));
    Container {
        id: "id".into(),
        names: vec!["web".into()],
        image: String::new(),
        image_id: String::new(),
        ports: Vec::new(),
        labels: BTreeMap::new(),
        envs: BTreeMap::new(),
        volumes: Vec::new(),
        state: if runs { State::Running } else { State::Exited },
        resources: Resources::default(),
        network: Network::default(),
        created_at: at(0),
        started_at: started.map(at),
        finished_at: ended.map(at).filter(|_| !runs),
        ended_at: ended.map(at),
        exit_code: (!runs).then_some(3),
        oom_killed: false,
        tty: false,
        log_driver: String::new(),
        log_path: String::new(),
        log_files: None,
        engine_health: None,
    }
}

fn death(second: i64) -> Death {
    Death { container: container(None, None), at: at(second), exit_code: Some(7) }
}

/// After a listing, with what was told of it before.
fn listed(told: Option<i64>, started: Option<i64>, ended: Option<i64>) -> Deaths {
    let told = told.map(|told| ("id".to_owned(), nanos(at(told)))).into_iter().collect();
    let mut deaths = Deaths::new(Some(told), &["id".to_owned()].into());
    deaths.inspected(&container(started, ended));
    deaths
}

/// The times of what is told, with the exit codes.
fn told(deaths: &Deaths) -> Vec<(i64, Option<i32>)> {
    let one = |event: &Event| match event.what {
        What::Died { exit_code, .. } => (event.at.as_second(), exit_code),
        _ => panic!("{event:?}"),
    };
    deaths.events.iter().map(one).collect()
}

#[test]
fn a_death_that_nobody_saw_is_told_by_the_next_listing_once() {
    assert_eq!(told(&listed(None, Some(1), Some(5))), [(5, Some(3))]);
    assert_eq!(told(&listed(Some(3), Some(1), Some(5))), [(5, Some(3))]);
    assert_eq!(told(&listed(Some(5), Some(1), Some(5))), []);
    // The event of an end comes a little later than the end itself.
    assert_eq!(told(&listed(Some(6), Some(1), Some(5))), []);
    assert_eq!(told(&listed(None, None, None)), []);
    assert_eq!(told(&listed(None, Some(1), None)), []);
}

#[test]
fn an_end_before_the_current_run_is_told_without_its_code() {
    assert_eq!(told(&listed(Some(3), Some(6), Some(5))), [(5, None)]);
    assert_eq!(told(&listed(Some(5), Some(6), Some(5))), []);
}

#[test]
fn the_first_listing_of_all_tells_nothing() {
    let mut deaths = Deaths::new(None, &["id".to_owned()].into());
    deaths.inspected(&container(Some(1), Some(5)));
    assert_eq!(told(&deaths), []);
    assert_eq!(deaths.ended["id"], nanos(at(5)));
}

#[test]
fn each_end_in_the_stream_is_told() {
    let mut deaths = listed(None, Some(1), None);
    deaths.died(death(5));
    deaths.started("id", Some(at(6)));
    deaths.died(death(7));
    // Twice the same end, as two words for it.
    deaths.died(death(7));
    assert_eq!(told(&deaths), [(5, Some(7)), (7, Some(7))]);
}

#[test]
fn what_the_listing_told_and_the_stream_repeats_is_told_once() {
    // It ended, and began again, before it was inspected.
    let mut deaths = listed(None, Some(6), Some(4));
    deaths.died(death(5));
    deaths.started("id", Some(at(7)));
    assert_eq!(told(&deaths), [(4, None)]);
    deaths.died(death(8));
    assert_eq!(told(&deaths), [(4, None), (8, Some(7))]);
    // It ended, and its inspection showed that.
    let mut deaths = listed(None, Some(1), Some(4));
    deaths.started("id", Some(at(2)));
    deaths.died(death(5));
    assert_eq!(told(&deaths), [(4, Some(3))]);
}

#[test]
fn a_container_that_comes_and_goes_is_told_of() {
    let mut deaths = Deaths::new(Some(HashMap::new()), &BTreeSet::new());
    deaths.started("id", Some(at(1)));
    deaths.out_of_memory("id");
    deaths.died(death(2));
    deaths.gone("id");
    assert_eq!(told(&deaths), [(2, Some(7))]);
    assert!(matches!(deaths.events[0].what, What::Died { oom_killed: true, .. }));
    assert!(deaths.ended.is_empty() && deaths.gone.contains("id"));
}

#[test]
fn a_clock_that_is_put_back_hides_no_death_from_the_stream() {
    let mut deaths = listed(None, Some(100), None);
    deaths.died(death(105));
    deaths.started("id", Some(at(6)));
    deaths.died(death(7));
    assert_eq!(told(&deaths), [(105, Some(7)), (7, Some(7))]);
}

#[test]
fn one_that_is_not_inspected_yet_is_told_by_its_inspection() {
    let mut deaths = Deaths::new(Some(HashMap::new()), &["id".to_owned()].into());
    deaths.died(death(5));
    assert_eq!(told(&deaths), []);
    deaths.inspected(&container(Some(1), Some(5)));
    assert_eq!(told(&deaths), [(5, Some(3))]);
}

#[test]
fn one_that_is_gone_before_its_first_inspection_is_told_of() {
    let begin = |told: &[i64]| {
        let told = told.iter().map(|told| ("id".to_owned(), nanos(at(*told)))).collect();
        Deaths::new(Some(told), &["id".to_owned()].into())
    };
    let mut deaths = begin(&[3]);
    deaths.out_of_memory("id");
    deaths.died(death(5));
    assert_eq!(told(&deaths), []);
    deaths.gone("id");
    assert_eq!(told(&deaths), [(5, Some(7))]);
    assert!(matches!(deaths.events[0].what, What::Died { oom_killed: true, .. }));
    // What an earlier session told is not told again.
    let mut deaths = begin(&[5]);
    deaths.died(death(5));
    deaths.gone("id");
    assert_eq!(told(&deaths), []);
    // Nor what the inspection told.
    let mut deaths = begin(&[]);
    deaths.died(death(5));
    deaths.inspected(&container(Some(1), Some(5)));
    deaths.gone("id");
    assert_eq!(told(&deaths), [(5, Some(3))]);
}

#[test]
fn what_ends_during_the_first_listing_of_all_is_told() {
    let mut deaths = Deaths::new(None, &["id".to_owned()].into());
    deaths.died(death(5));
    deaths.inspected(&container(Some(1), Some(5)));
    assert_eq!(told(&deaths), [(5, Some(3))]);
}

#[test]
fn a_store_that_fails_for_long_takes_no_more_memory() {
    let mut deaths = Deaths::new(Some(HashMap::new()), &BTreeSet::new());
    for second in 0..2 * i64::try_from(WAITING).expect("small") {
        let id = second.to_string();
        let mut death = death(second);
        death.container.id.clone_from(&id);
        deaths.started(&id, Some(at(second)));
        deaths.died(death);
        deaths.gone(&id);
    }
    assert_eq!((deaths.events.len(), deaths.gone.len()), (WAITING, WAITING));
    assert!(deaths.lives.is_empty() && deaths.ended.is_empty());
}
