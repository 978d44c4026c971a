//! Whatever a caller sends that is malformed, by REST, gRPC or gRPC-web, is the
//! caller's mistake: it is told so, and the service is as it was.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tonic::Code;

use super::support::eventually;
use generate::{Case, Generator};
use program::Program;
use send::{Sender, Told};

mod generate;
mod grpc;
mod program;
mod rest;
mod send;

const REQUESTS: u64 = 10_000;
/// Each request is made from this and its number, so one can be made again.
const SEED: u64 = 0xc057_a13e;
/// How many are under way at once.
const AT_ONCE: usize = 32;
/// So many are sent before the first look: pools and caches fill once.
const WARM: u64 = 1_000;
/// What the containers of other tests, whose logs are followed, may add.
const SOCKETS: usize = 64;
const MEMORY: u64 = 64 << 20;

/// Sends these requests; tells of each that was not answered as it should be.
async fn send(sender: &Sender, generator: &Generator, which: std::ops::Range<u64>) -> Vec<String> {
    let wrong = stream::iter(which).map(|number| async move {
        let case = generator.case(SEED, number);
        let told = sender.send(&case).await;
        (!is_refusal(&case, &told))
            .then(|| format!("{number}, {}: {told:?} for {}", case.what, case.shown()))
    });
    wrong.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

fn is_refusal(case: &Case, told: &Told) -> bool {
    match (told.http, told.grpc) {
        // What is no HTTP has no request that could be answered.
        (0, _) => case.may_hang_up,
        (200, Some(code)) => !matches!(
            Code::from(code),
            Code::Ok
                | Code::Unknown
                | Code::Internal
                | Code::DataLoss
                | Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Cancelled
        ),
        (400..500, _) => told.json || !case.rest,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_malformed_requests_are_refused_and_leave_nothing() {
    let program = Program::start().await;
    let sender = Sender::new(program.address, &program.token).await;
    let generator = Generator::new(&program.token);

    let mut wrong = send(&sender, &generator, 0..WARM).await;
    let (sockets, memory) = (program.sockets(), program.memory());
    let begin = Instant::now();
    wrong.extend(send(&sender, &generator, WARM..REQUESTS).await);
    let took = begin.elapsed();
    assert!(
        wrong.is_empty(),
        "{} of {REQUESTS}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(took < Duration::from_secs(60), "{took:?}");

    eventually("connections are closed", || async { program.sockets() <= sockets + SOCKETS }).await;
    let grown = program.memory().saturating_sub(memory);
    assert!(grown <= MEMORY, "{grown} bytes more than {memory}");
    let log = program.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert!(program.answers().await, "it still serves");
    println!("{REQUESTS} in {took:?}; {grown} bytes more");
}
