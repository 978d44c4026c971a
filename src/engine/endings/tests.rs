//! Ends and signals are told apart by the order of events where the clock was put back.

use std::collections::HashMap;

use bollard::models::EventActor;

use super::*;

const LONGEST: Duration = Duration::from_secs(600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn past(told: &[(&str, i64)]) -> Vec<EventMessage> {
    let attributes = HashMap::from([("signal".to_owned(), "15".to_owned())]);
    let event = |(action, second): &(&str, i64)| EventMessage {
        action: Some((*action).to_owned()),
        actor: Some(EventActor { id: None, attributes: Some(attributes.clone()) }),
        time_nano: Some(second * 1_000_000_000),
        ..EventMessage::default()
    };
    told.iter().map(event).collect()
}

#[test]
fn a_stop_counts_for_the_run_that_it_ended() {
    let ends = |told: &[(&str, i64)], end: i64| ending_of(&past(told), at(end), None, at(9000));
    assert_eq!(ends(&[("start", 1), ("die", 5)], 5), Ending::Died);
    assert_eq!(ends(&[("start", 1), ("die", 5), ("stop", 5)], 5), Ending::Stopped);
    // A stop may be told first.
    assert_eq!(ends(&[("stop", 5), ("die", 5)], 5), Ending::Stopped);
    let again = [("die", 5), ("stop", 5), ("start", 6), ("die", 8)];
    assert_eq!(ends(&again, 8), Ending::Died);
    assert_eq!(ends(&again, 9), Ending::Forgotten);
    assert_eq!(ends(&[], 9), Ending::Forgotten);
}

#[test]
fn an_end_before_the_clock_was_put_back_is_known_after_it() {
    let ends = |told: &[(&str, i64)], end: i64| ending_of(&past(told), at(end), None, at(2000));
    assert_eq!(ends(&[("start", 5000), ("die", 5005)], 5005), Ending::Died);
    assert_eq!(ends(&[("die", 5005), ("stop", 5006)], 5005), Ending::Stopped);
    // It went back between an end and what was told of that, or in the run.
    assert_eq!(ends(&[("die", 5005), ("stop", 1990)], 5005), Ending::Stopped);
    let in_the_run = [("die", 4000), ("stop", 4000), ("start", 5000), ("die", 1990)];
    assert_eq!(ends(&in_the_run, 1990), Ending::Died);
    assert_eq!(ends(&[("start", 5000), ("die", 1990), ("stop", 1991)], 1990), Ending::Stopped);
}

#[test]
fn what_an_engine_ends_as_it_starts_is_no_stop_whatever_its_clock_says() {
    let ends = |told: &[(&str, i64)], end: i64, began: i64, now: i64| {
        ending_of(&past(told), at(end), Some(at(began)), at(now))
    };
    let by_start = [("die", 4990), ("stop", 4991)];
    assert_eq!(ends(&by_start, 4990, 5000, 5100), Ending::Forgotten);
    assert_eq!(ends(&by_start, 4990, 5000, 1000), Ending::Forgotten);
    // One that starts slowly.
    assert_eq!(ends(&[("die", 4900), ("stop", 4991)], 4900, 5000, 5100), Ending::Forgotten);
    // Its clock was ahead as it started, and was put back.
    assert_eq!(ends(&[("start", 900), ("die", 990)], 990, 5000, 1000), Ending::Died);
    assert_eq!(ends(&[("die", 990), ("stop", 990)], 990, 5000, 1000), Ending::Stopped);
    assert_eq!(ends(&[("start", 5001), ("die", 4995)], 4995, 5000, 4996), Ending::Died);
}

#[test]
fn a_signal_asks_the_run_that_it_was_sent_to() {
    let asked =
        |told: &[(&str, i64)], run, now| asked_to_end(&past(told), at(run), at(now), LONGEST);
    assert!(asked(&[("start", 1000), ("kill", 1010)], 1000, 1020));
    assert!(!asked(&[("start", 1000), ("kill", 1010)], 1000, 1620), "long ago");
    assert!(!asked(&[("kill", 990), ("start", 1000)], 1000, 1020), "an earlier run");
    // The clock was put back in the run, by more or by less, or before it.
    assert!(asked(&[("start", 5000), ("kill", 1010)], 5000, 1020));
    assert!(asked(&[("start", 1000), ("kill", 1021)], 1000, 1020));
    assert!(!asked(&[("start", 5000), ("kill", 5001)], 5000, 1020), "nobody knows how long ago");
    assert!(!asked(&[("kill", 1100), ("start", 1010)], 1010, 1020), "an earlier run");
}
