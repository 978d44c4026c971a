//! An engine whose logs break: an error in time, and then on from there, exactly.

use std::time::Instant;

use super::{
    tamper::{Fault, Tamper},
    *,
};

/// How long the engine may take.
const LIMIT: Duration = Duration::from_millis(500);
/// What a deadline may be missed by on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// Reads until it fails.
async fn failure(log: &mut EngineLog, out: &mut Batch) -> container_svc::domain::Error {
    loop {
        match read(log, ALL, out).await {
            Ok(progress) => assert_ne!(progress, Progress::Ended),
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_are_an_error_and_then_it_goes_on_exactly() {
    let container = Container::ran(false, "(seq 1 300) & (seq 1 300 >&2); wait");
    let tamper = Tamper::start();
    let engine = Engine::new(&tamper.address(), LIMIT);
    let mut faults = vec![Fault::BadStream, Fault::Huge, Fault::SystemError];
    faults.extend((1..8).map(Fault::Cut));
    faults.extend([Fault::Cut(20), Fault::Cut(1000), Fault::Hang(3), Fault::Hang(30)]);
    for (fault, renew) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        tamper.set(fault, 100);
        let (mut log, mut out) = (container.follow(&engine, None).await, Batch::default());
        let error = failure(&mut log, &mut out).await;
        let wanted = match fault {
            Fault::SystemError => Kind::FailedPrecondition,
            _ => Kind::Unavailable,
        };
        assert_eq!(error.kind(), wanted, "{fault:?}: {error:?}");
        assert_eq!(out.len(), 100, "{fault:?}");

        // It fails again, behind the place that is looked for, and before it.
        for frames in [101, 50] {
            tamper.set(fault, frames);
            failure(&mut log, &mut out).await;
            assert_eq!(out.len(), 101, "{fault:?}");
        }
        tamper.set(Fault::None, 0);
        if renew {
            log = container.follow(&engine, Some(&stored(&log.checkpoint()))).await;
        }
        while read(&mut log, ALL, &mut out).await.expect("lines") != Progress::Ended {}
        assert_numbered(&lines(&out), 300);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_byte_by_byte_are_read() {
    let container = Container::ran(false, "(seq 1 20) & (seq 1 20 >&2); wait");
    let tamper = Tamper::start();
    tamper.set(Fault::Drip(Duration::ZERO), 0);
    let engine = Engine::new(&tamper.address(), Duration::from_secs(10));
    let (lines, _) = container.rest(&engine, None).await;
    assert_numbered(&lines, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_too_slow_within_a_line_is_given_up() {
    let container = Container::ran(false, "seq 1 300; seq 1 300 >&2");
    let tamper = Tamper::start();
    let engine = Engine::new(&tamper.address(), LIMIT);
    tamper.set(Fault::Drip(Duration::from_millis(100)), 100);
    let mut checkpoint = None;
    // The second time it is the search that is slow.
    for frames in [100, 50] {
        tamper.set(Fault::Drip(Duration::from_millis(100)), frames);
        let begin = Instant::now();
        let (mut log, mut out) =
            (container.follow(&engine, checkpoint.as_ref()).await, Batch::default());
        let error = failure(&mut log, &mut out).await;
        assert_eq!(error.reason(), "ENGINE_TIMEOUT", "{error:?}");
        assert!(begin.elapsed() < LIMIT + SLACK, "{:?}", begin.elapsed());
        checkpoint = Some(log.checkpoint());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_or_breaks_is_an_error_in_time() {
    let container = Container::ran(false, NUMBERS);
    let (_, checkpoint) = container.rest(&engine(), None).await;
    let proxy = Proxy::start();
    let engine = Engine::new(&proxy.address(), LIMIT);
    engine.connect().await.expect("an engine");
    for (mode, reason) in [
        (Mode::Hold, "ENGINE_TIMEOUT"),
        (Mode::HangAfterHeaders, "ENGINE_TIMEOUT"),
        (Mode::Status500, "ENGINE_FAILED"),
        (Mode::Garbage, "ENGINE_GARBLED"),
        (Mode::HalfClose, "ENGINE_UNREACHABLE"),
        (Mode::Refuse, "ENGINE_UNREACHABLE"),
        (Mode::Truncate, "ENGINE_UNREACHABLE"),
    ] {
        proxy.set_for(mode, "/logs?");
        let begin = Instant::now();
        let mut out = Batch::default();
        let error = match engine.follow_log(&container.id, false, Some(&checkpoint)).await {
            Ok(mut log) => failure(&mut log, &mut out).await,
            Err(error) => error,
        };
        assert_eq!(error.reason(), reason, "{mode:?}: {error:?}");
        assert!(begin.elapsed() < LIMIT + SLACK, "{mode:?}: {:?}", begin.elapsed());
        assert!(out.is_empty(), "{mode:?}");
    }
    proxy.set(Mode::Pass);
    let (none, _) = container.rest(&engine, Some(&checkpoint)).await;
    assert_eq!(none, Lines::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_while_it_follows_goes_on_exactly() {
    let container =
        Container::run(false, "for n in $(seq 1 20); do echo $n; echo $n >&2; sleep 0.1; done");
    let proxy = Proxy::start();
    let engine = Engine::new(&proxy.address(), Duration::from_secs(5));
    let (mut log, mut out) = (container.follow(&engine, None).await, Batch::default());
    for count in [4, 14] {
        while out.len() < count {
            read(&mut log, ALL, &mut out).await.expect("lines");
        }
        proxy.set(Mode::Refuse);
        let error = failure(&mut log, &mut out).await;
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        proxy.set(Mode::Pass);
    }
    while read(&mut log, ALL, &mut out).await.expect("lines") != Progress::Ended {}
    assert_numbered(&lines(&out), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_the_engine_tells_nothing_looks_for_itself() {
    let container = Container::run(false, "seq 1 5; seq 1 5 >&2; exec sleep 1000");
    let tamper = Tamper::start();
    let engine = Engine::new(&tamper.address(), Duration::from_secs(30));
    tamper.set(Fault::Mute, 10);
    let (mut log, mut out) = (container.follow(&engine, None).await, Batch::default());
    for count in 5..=7 {
        while out.len() < 2 * count {
            read(&mut log, ALL, &mut out).await.expect("lines");
        }
        // The follower at hand has told all that it tells, the next one tells these.
        tamper.set(Fault::Mute, 2 * count + 2);
        let write = format!("echo {0} >/proc/1/fd/1; echo {0} >/proc/1/fd/2", count + 1);
        docker(&["exec", &container.id, "sh", "-c", &write]);
    }
    while out.len() < 16 {
        read(&mut log, ALL, &mut out).await.expect("lines");
    }
    assert_numbered(&lines(&out), 8);
}
