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

/// One whose clock was put back: it runs, or has ended, whatever the times say.
fn put_back(runs: bool, started: i64, ended: i64) -> Container {
    let container = container(Some(started), Some(ended));
    Container {
        state: if runs { State::Running } else { State::Exited },
        finished_at: Some(at(ended)).filter(|_| !runs),
        exit_code: (!runs).then_some(3),
        ..container
    }
}

fn until(second: i64) -> Told {
    Told { until: nanos(at(second)), finished: None }
}

fn begun(told: Option<Told>) -> Deaths {
    let told = told.map(|told| ("id".to_owned(), told)).into_iter().collect();
    Deaths::new(Some(told), &["id".to_owned()].into())
}

/// After a listing, with what was told of it before.
fn listed(told: Option<i64>, started: Option<i64>, ended: Option<i64>) -> Deaths {
    let mut deaths = begun(told.map(until));
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
    assert_eq!(deaths.ended["id"], Told { finished: Some(nanos(at(5))), ..until(5) });
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
fn the_end_of_a_run_that_began_ahead_of_now_is_told_when_an_inspection_shows_it() {
    let mut deaths = listed(None, Some(1000), None);
    deaths.out_of_memory("id");
    deaths.died(death(50));
    assert_eq!(told(&deaths), [], "the stream may repeat an earlier one");
    deaths.inspected(&put_back(false, 1000, 50));
    deaths.inspected(&put_back(false, 1000, 50));
    assert_eq!(told(&deaths), [(50, Some(7))]);
    assert!(matches!(deaths.events[0].what, What::Died { oom_killed: true, .. }));
    deaths.started("id", Some(at(51)));
    deaths.died(death(52));
    assert_eq!(told(&deaths), [(50, Some(7)), (52, Some(7))]);
    // It ended more than once before it was inspected.
    let mut deaths = listed(None, Some(1000), None);
    deaths.died(death(50));
    deaths.started("id", Some(at(51)));
    deaths.died(death(52));
    deaths.started("id", Some(at(53)));
    deaths.inspected(&put_back(true, 53, 52));
    deaths.died(death(54));
    assert_eq!(told(&deaths), [(50, Some(7)), (52, Some(7)), (54, Some(7))]);
    // Or is gone by then.
    let mut deaths = listed(None, Some(1000), None);
    deaths.died(death(50));
    deaths.gone("id");
    assert_eq!(told(&deaths), [(50, Some(7))]);
    assert!(deaths.ended.is_empty());
}

#[test]
fn a_run_after_an_end_ahead_of_now_is_told_to_end() {
    let mut deaths = listed(None, Some(990), Some(1000));
    deaths.started("id", Some(at(50)));
    deaths.inspected(&put_back(true, 50, 1000));
    deaths.died(death(52));
    deaths.inspected(&put_back(false, 50, 52));
    assert_eq!(told(&deaths), [(1000, Some(3)), (52, Some(7))]);
    let mut deaths = listed(None, Some(990), Some(1000));
    deaths.started("id", Some(at(50)));
    deaths.died(death(52));
    deaths.inspected(&put_back(false, 50, 52));
    assert_eq!(told(&deaths), [(1000, Some(3)), (52, Some(7))]);
}

#[test]
fn what_the_stream_repeats_is_not_told_by_later_inspections() {
    // It runs on.
    let mut deaths = listed(Some(4), Some(6), Some(4));
    deaths.died(death(5));
    deaths.inspected(&container(Some(6), Some(4)));
    deaths.gone("id");
    assert_eq!(told(&deaths), []);
    // It has ended by the next inspection, of which the stream tells later.
    let mut deaths = listed(Some(4), Some(6), Some(4));
    deaths.died(death(5));
    deaths.inspected(&container(Some(6), Some(9)));
    assert_eq!(told(&deaths), []);
    deaths.started("id", Some(at(6)));
    deaths.died(death(9));
    assert_eq!(told(&deaths), [(9, Some(7))]);
    // It had ended, and runs again.
    let mut deaths = listed(Some(3), Some(4), Some(6));
    deaths.started("id", Some(at(5)));
    deaths.inspected(&container(Some(8), Some(6)));
    deaths.died(death(6));
    deaths.started("id", Some(at(8)));
    assert_eq!(told(&deaths), [(6, Some(3))]);
}

#[test]
fn an_end_that_nobody_saw_is_told_though_the_clock_was_put_back() {
    let known = Told { finished: Some(nanos(at(999))), ..until(1000) };
    let shows = |before: Told, container: Container| {
        let mut deaths = begun(Some(before));
        deaths.inspected(&container);
        told(&deaths)
    };
    assert_eq!(shows(known, container(Some(40), Some(50))), [(50, Some(3))]);
    assert_eq!(shows(known, put_back(false, 990, 950)), [(950, Some(3))]);
    assert_eq!(shows(known, container(Some(990), Some(999))), []);
    assert_eq!(shows(known, put_back(true, 60, 999)), []);
    // Where it is not known which was told last, one of long before is another one.
    assert_eq!(shows(until(1000), container(Some(40), Some(50))), [(50, Some(3))]);
    assert_eq!(shows(until(1000), container(Some(990), Some(999))), []);
}

#[test]
fn which_end_was_told_is_known_after_the_next_inspection() {
    let mut deaths = listed(None, Some(1), None);
    deaths.died(death(5));
    deaths.inspected(&container(Some(1), Some(4)));
    let known = Told { finished: Some(nanos(at(4))), ..until(5) };
    assert_eq!(deaths.ended["id"], known);
    // One that is not in the stream yet is not that.
    let mut deaths = listed(None, Some(1), None);
    deaths.died(death(5));
    deaths.inspected(&container(Some(6), Some(9)));
    assert_eq!(deaths.ended["id"], until(5));
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
    let mut deaths = begun(Some(until(3)));
    deaths.out_of_memory("id");
    deaths.died(death(5));
    assert_eq!(told(&deaths), []);
    deaths.gone("id");
    assert_eq!(told(&deaths), [(5, Some(7))]);
    assert!(matches!(deaths.events[0].what, What::Died { oom_killed: true, .. }));
    // What an earlier session told is not told again.
    let mut deaths = begun(Some(until(5)));
    deaths.died(death(5));
    deaths.gone("id");
    assert_eq!(told(&deaths), []);
    // Nor what the inspection told.
    let mut deaths = begun(None);
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
