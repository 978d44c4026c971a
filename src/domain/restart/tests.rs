//! Whatever ends and whenever: the schedule, the budget and the policy hold.

use proptest::prelude::*;

use super::*;

fn rules(policy: Policy) -> Rules {
    Rules { policy, options: Options::default(), on_unhealthy: true }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
}

fn failure() -> Cause {
    Cause::Exited(1)
}

#[test]
fn each_policy_wants_its_own_ends_back() {
    let causes = [
        (Cause::Exited(0), false),
        (Cause::Exited(1), true),
        (Cause::OutOfMemory(137), true),
        (Cause::EngineEnded, true),
        (Cause::Unhealthy, true),
        (Cause::DoesNotStart("no such file".into()), true),
    ];
    for (cause, failure) in causes {
        for (policy, wanted) in
            [(Policy::Never, false), (Policy::OnFailure, failure), (Policy::Always, true)]
        {
            let verdict =
                Supervised::default().ended(&rules(policy), &cause, Duration::ZERO, at(1000), 0.0);
            assert_eq!(verdict != Verdict::Rest, wanted, "{policy:?} {cause}");
        }
    }
}

#[test]
fn what_the_service_stopped_stays_so_when_a_try_to_start_it_fails() {
    let stopped =
        |state: &Supervised| matches!(state.phase, Phase::BackingOff { for_health: true, .. });
    let rules = rules(Policy::OnFailure);
    let fails = Cause::DoesNotStart("no GPU".into());
    let mut state = Supervised::default();
    let mut end = |cause: &Cause| {
        state.ended(&rules, cause, Duration::ZERO, at(1000), 0.0);
        state.tried(&rules, at(1000));
        stopped(&state)
    };
    // Else the service would take its own stop for that of a user.
    assert!(end(&Cause::GpuLost("it fell off".into())) && end(&fails) && end(&fails));
    assert!(!end(&failure()) && !end(&fails));
}

#[test]
fn waits_double_up_to_the_longest_and_a_stable_run_begins_anew() {
    let rules = rules(Policy::OnFailure);
    let (mut state, mut now) = (Supervised::default(), 1_000_000);
    let mut waits = Vec::new();
    for _ in 0..10 {
        match state.ended(&rules, &failure(), Duration::ZERO, at(now), 0.0) {
            Verdict::BackOff(wait) => waits.push(wait.as_secs()),
            other => panic!("{other:?} after {waits:?}"),
        }
        now += waits[waits.len() - 1];
        state.tried(&rules, at(now));
        state.runs(Some(at(now)));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    // The tenth was the last of the budget.
    let mut given_up = state.clone();
    assert_eq!(given_up.ended(&rules, &failure(), Duration::ZERO, at(now), 0.0), Verdict::GiveUp);
    assert!(matches!(&given_up.phase, Phase::GaveUp { reason, .. } if reason == "exit code 1"));
    // After a long run the window has passed and the wait is the first.
    let ran = Duration::from_secs(3600);
    let verdict = state.ended(&rules, &failure(), ran, at(now + 3600), 0.0);
    assert_eq!(verdict, Verdict::BackOff(Duration::from_secs(1)));
}

#[test]
fn a_clock_that_was_put_back_does_not_make_the_wait_endless() {
    let rules = rules(Policy::Always);
    let mut state = Supervised::default();
    state.ended(&rules, &failure(), Duration::ZERO, at(1_000_000), 0.0);
    assert_eq!(state.due_in(&rules, at(1_000_000)), Some(Duration::from_secs(1)));
    assert_eq!(state.due_in(&rules, at(1_000_005)), Some(Duration::ZERO));
    assert_eq!(state.due_in(&rules, at(500)), Some(Duration::ZERO));
}

#[test]
fn restarts_of_a_clock_that_was_ahead_count_for_one_window_more() {
    let rules = rules(Policy::Always);
    let ends =
        |state: &mut Supervised, now| state.ended(&rules, &failure(), Duration::ZERO, at(now), 0.0);
    let mut state = Supervised::default();
    for _ in 0..9 {
        state.tried(&rules, at(1_000_000_000));
    }
    assert!(matches!(ends(&mut state, 5000), Verdict::BackOff(_)), "one is left");
    state.tried(&rules, at(5001));
    assert_eq!(ends(&mut state, 5002), Verdict::GiveUp, "they count");
    let window = rules.options.window.as_secs();
    assert!(matches!(ends(&mut state, 5002 + window), Verdict::BackOff(_)), "no longer than that");
}

#[test]
fn a_state_survives_its_text() {
    let rules = rules(Policy::Always);
    let mut state = Supervised::default();
    state.ended(&rules, &Cause::Unhealthy, Duration::ZERO, at(5), 0.5);
    state.tried(&rules, at(6));
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<Supervised>(&text).unwrap(), state);
}

proptest! {
    /// No more restarts in any window than the budget, no wait outside its bounds,
    /// and never one for a container whose policy does not want it.
    #[test]
    fn no_history_breaks_the_budget_or_the_bounds(
        max_restarts in 1_u32..6,
        window in 1_u64..100,
        (least, most) in (1_u64..10, 10_u64..40),
        ends in prop::collection::vec((0_i32..2, 0_u64..90, 0.0..1.0_f64, any::<bool>()), 1..80),
    ) {
        let second = Duration::from_secs;
        let options = Options {
            max_restarts,
            window: second(window),
            min_backoff: second(least),
            max_backoff: second(most),
            stable_after: second(30),
            on_unhealthy: None,
        };
        let rules = Rules { policy: Policy::OnFailure, options, on_unhealthy: false };
        let (mut state, mut now, mut tries) = (Supervised::default(), at(1_000_000), Vec::new());
        for (code, ran, chance, starts) in ends {
            now += second(ran);
            match state.ended(&rules, &Cause::Exited(code), second(ran), now, chance) {
                Verdict::Rest => {
                    prop_assert_eq!(code, 0);
                    prop_assert_eq!(&state.phase, &Phase::Watching);
                    prop_assert_eq!(state.due_in(&rules, now), None);
                }
                Verdict::GiveUp => {
                    let begin = now - second(window);
                    let counted = tries.iter().filter(|at| **at > begin).count();
                    prop_assert_eq!(counted, max_restarts as usize);
                    // Somebody runs it: all is forgotten.
                    (state, tries) = (Supervised::default(), Vec::new());
                }
                Verdict::BackOff(wait) => {
                    prop_assert!(wait <= second(most) && wait >= second(least).mul_f64(0.8));
                    let left = state.due_in(&rules, now).unwrap();
                    prop_assert!(left <= wait && wait - left < Duration::from_micros(1));
                    now += wait;
                    state.tried(&rules, now);
                    tries.push(now);
                    let begin = now - second(window);
                    let counted = tries.iter().filter(|at| **at > begin).count();
                    prop_assert!(counted <= max_restarts as usize);
                    prop_assert!(state.restarts.len() <= max_restarts as usize);
                    if starts {
                        state.runs(Some(now));
                        prop_assert_eq!(&state.phase, &Phase::Watching);
                    }
                }
            }
        }
    }
}
