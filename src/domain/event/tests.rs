//! What is stored, cut and said of events.

use super::*;

#[test]
fn the_store_knows_a_kind_by_its_word() {
    let samples = [
        What::Created,
        What::Replaced { fields: vec!["envs".into()], predecessor: "abc".into() },
        What::Died { exit_code: Some(137), oom_killed: true },
        What::BackingOff { attempt: 2, next_try: Timestamp::UNIX_EPOCH, reason: "died".into() },
        What::KeepImported { path: "/a".into(), volume: "v".into(), bytes: 7 },
    ];
    for what in samples {
        let json = serde_json::to_value(&what).expect("JSON");
        assert_eq!(json["kind"], what.kind().word());
        assert_eq!(serde_json::from_value::<What>(json).expect("read back"), what);
    }
    let words: std::collections::BTreeSet<_> = EventKind::ALL.map(EventKind::word).into();
    assert_eq!(words.len(), EventKind::ALL.len());
}

#[test]
fn what_others_wrote_is_cut_between_characters() {
    let What::Unhealthy { output } = What::Unhealthy { output: "ä".repeat(LONGEST_TEXT) }.bounded()
    else {
        panic!("another kind")
    };
    assert!(output.len() <= LONGEST_TEXT + 3 && output.ends_with("ä…"));
}

#[test]
fn a_death_is_told_with_its_code() {
    let event = |exit_code, oom_killed| Event {
        at: Timestamp::UNIX_EPOCH,
        subject: Subject::default(),
        what: What::Died { exit_code, oom_killed },
    };
    assert_eq!(event(Some(137), true).message(), "died: exit code 137, out of memory");
    assert_eq!(event(None, false).message(), "died: exit code unknown");
}
