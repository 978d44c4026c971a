//! Containers that print numbered lines, and a checker that counts what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use container_svc::rpc::pb;
use futures_util::future::join_all;
use tokio_stream::StreamExt as _;

use super::{client, shell};
use crate::support::{Service, unique};

/// Lines that a container prints without a pause.
const CHUNK: usize = 250;

/// Containers that print `<container> <stream> <sequence>` on both streams at
/// once, from 1 on, when they get the signal.
pub(super) struct Burst {
    pub(super) names: Vec<String>,
    /// Lines of each stream of each container.
    pub(super) each: usize,
}

impl Burst {
    /// Readies containers that print so many lines together, for about so long.
    pub(super) async fn ready(
        service: &Service,
        image: &str,
        (containers, lines): (usize, usize),
        lasts: Duration,
    ) -> Self {
        let each = lines / containers / 2;
        let names: Vec<String> = (0..containers).map(|_| unique("burst")).collect();
        let pause = lasts.as_secs_f64() / each.div_ceil(CHUNK) as f64;
        let started = names.iter().map(|name| async move {
            // The loop waits by a short sleep, since a trap runs only between commands.
            let script = format!(
                r#"trap go=1 USR1; until [ "$go" ]; do sleep 0.05; done
                print() {{
                    a=1
                    while [ $a -le {each} ]; do
                        b=$((a + {CHUNK} - 1)); [ $b -gt {each} ] && b={each}
                        seq $a $b | sed "s/^/{name} $1 /"
                        a=$((b + 1)); sleep {pause:.3}
                    done
                }}
                print out & print err >&2 & wait"#
            );
            let request =
                pb::RunContainerRequest { image: image.into(), ..shell(service, name, &script) };
            service.grpc().await.run_container(request).await.expect("it runs");
        });
        join_all(started).await;
        Self { names, each }
    }

    /// Arguments of the docker command that gives the signal.
    pub(super) fn signal(&self) -> Vec<&str> {
        let names = self.names.iter().map(String::as_str);
        ["kill", "--signal", "USR1"].into_iter().chain(names).collect()
    }

    /// Lines of all.
    pub(super) fn lines(&self) -> usize {
        self.names.len() * 2 * self.each
    }
}

/// What is wrong with lines that were read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) lines: usize,
    /// Numbers that were passed over.
    pub(super) lost: usize,
    /// Numbers that had been there, or came too late.
    pub(super) repeated: usize,
    /// Positions that do not follow the one before.
    pub(super) holes: usize,
    /// Lines that nobody printed, or that came on the other stream, and gaps; each
    /// with its place, so that a failure shows them.
    pub(super) strange: Vec<String>,
}

/// Reads lines in the order in which they are told.
#[derive(Default)]
pub(super) struct Checker {
    next: BTreeMap<String, usize>,
    positions: BTreeMap<String, i64>,
    tally: Tally,
}

impl Checker {
    pub(super) fn take(&mut self, log: &pb::Log) {
        let Tally { lines, lost, repeated, holes, strange } = &mut self.tally;
        *lines += 1;
        let position = self.positions.entry(log.container_id.clone()).or_default();
        *holes += usize::from(log.position != Some(*position));
        *position = log.position.unwrap_or(*position) + 1;
        let word = match log.stream() {
            pb::LogStream::Stdout => " out",
            pb::LogStream::Stderr => " err",
            pb::LogStream::Unspecified => "",
        };
        let parts = log.content.rsplit_once(' ');
        let number = parts.and_then(|(of, number)| Some((of, number.parse::<usize>().ok()?)));
        match number.filter(|(of, _)| !word.is_empty() && of.ends_with(word)) {
            Some((of, number)) => {
                let next = self.next.entry(of.to_owned()).or_insert(1);
                *repeated += usize::from(number < *next);
                *lost += number.saturating_sub(*next);
                *next = (number + 1).max(*next);
            }
            None => strange.push(format!(
                "{} of {:?} at {position:?} of {}: {:?}, gap {:?}",
                log.id,
                log.stream(),
                log.container_id,
                log.content,
                log.gap
            )),
        }
    }

    /// How many lines it has read.
    pub(super) fn lines(&self) -> usize {
        self.tally.lines
    }

    /// What is wrong, now that all lines of a burst should have been read.
    pub(super) fn result(&self, burst: &Burst) -> Tally {
        let words = ["out", "err"];
        let names = burst.names.iter().flat_map(|name| words.map(|word| format!("{name} {word}")));
        let names: BTreeSet<String> = names.collect();
        let mut tally = self.tally.clone();
        for name in &names {
            tally.lost +=
                burst.each + 1 - self.next.get(name).copied().unwrap_or(1).min(burst.each + 1);
        }
        tally.strange.extend(self.next.keys().filter(|name| !names.contains(*name)).cloned());
        tally
    }
}

impl Burst {
    /// The tally of one who has read each line once, in order.
    pub(super) fn exact(&self) -> Tally {
        Tally { lines: self.lines(), ..Tally::default() }
    }
}

/// A tail from the first line on, which goes on after its last cursor however
/// often it breaks.
#[derive(Default)]
pub(super) struct Resumed {
    pub(super) checker: Checker,
    cursor: String,
}

impl Resumed {
    /// Reads until so many lines were read, or the stream breaks. May be given up
    /// at any time.
    pub(super) async fn read(&mut self, service: &Service, lines: usize) {
        service.listens().await;
        let since = prost_types::Timestamp { seconds: 1, nanos: 0 };
        let request = pb::TailLogsRequest {
            label: format!("container-svc-test={}", service.node),
            since: Some(since).filter(|_| self.cursor.is_empty()),
            cursor: self.cursor.clone(),
            view: pb::LogView::Full.into(),
            ..Default::default()
        };
        let tail = client(service).await.tail_logs(request).await;
        let mut tail = tail.expect("the cursor is valid").into_inner();
        while self.checker.lines() < lines
            && let Some(Ok(message)) = tail.next().await
        {
            message.logs.iter().for_each(|log| self.checker.take(log));
            self.cursor = message.cursor;
        }
    }
}
