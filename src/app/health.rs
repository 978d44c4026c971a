//! The prober: asks containers whether they are well, from outside.
//!
//! One task keeps the time of all probes. A probe is asked for again one interval
//! after it began, or when it has ended, if that is later; so two of one container
//! never run at once. Commands in containers, and the checks of images, are run by
//! the engine itself, which ends those that take too long; what it says is in the view.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{App, events};
use crate::{
    domain::{
        Result,
        container::{Container, State},
        event::{Subject, What},
        health::{Health, Probe, ProbeResult, Status},
        ports::{Protocol, PublishedPort},
    },
    probe,
};

mod known;
mod prober;

pub use known::Healths;
use prober::{Prober, Target, Turn};

/// Probes that run at once; those beyond that wait. A container is asked once at a
/// time, and there must be room beside many that hang.
const AT_ONCE: usize = 1024;
/// How often what is well goes to the store; what changes goes at once.
const KEEP: Duration = Duration::from_secs(5);

/// How a container does, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// What the answers come to.
    pub status: Status,
    /// Failures in a row.
    pub streak: u32,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

impl App {
    /// How a container does; `None` when it does not run or nothing checks it.
    pub fn health_of(&self, container: &Container) -> Option<Condition> {
        if !container.is_running() {
            return None;
        }
        let short = |health: &Health| Condition {
            status: health.status,
            streak: health.streak,
            since: health.since,
        };
        let of_this_run = |it: &Health| (it.run == container.started_at).then(|| short(it));
        let known = self.health.of(&container.id, of_this_run);
        match &container.engine_health {
            // The engine does not tell since when.
            Some(health) => {
                let since = known.filter(|it| it.status == health.status).and_then(|it| it.since);
                Some(Condition { since, ..short(health) })
            }
            None => known,
        }
    }

    /// What the last probes of a container answered, newest first.
    pub(super) fn probes_of(&self, container: &Container) -> Vec<ProbeResult> {
        let newest_first =
            |results: &VecDeque<ProbeResult>| results.iter().rev().cloned().collect();
        match &container.engine_health {
            Some(health) if !self.is_ours(container) => newest_first(&health.results),
            said => {
                if let Some(said) = said {
                    self.health.learn(container, said);
                }
                let known = self.health.of(&container.id, |it| Some(newest_first(&it.results)));
                known.unwrap_or_default()
            }
        }
    }

    /// How many of the containers that are checked do how, as they were listed.
    pub(super) fn conditions(&self) -> [(Status, usize); 3] {
        let all = self.view.all();
        let all: Vec<_> = all.iter().filter_map(|it| self.health_of(it)).collect();
        [Status::Starting, Status::Healthy, Status::Unhealthy]
            .map(|status| (status, all.iter().filter(|it| it.status == status).count()))
    }

    /// Asks once and takes the answer over.
    async fn ask(self: Arc<Self>, target: Target) {
        let Target { container, check } = target;
        let (at, begin) = (Timestamp::now(), Instant::now());
        let port = match &check.probe {
            Probe::Http { port, .. } | Probe::Tcp { port } | Probe::Grpc { port, .. } => *port,
            Probe::Exec { .. } => return,
        };
        let answer = match place(&container, self.engine.remote_host(), port) {
            Ok(place) => probe::ask(&check.probe, &place, check.timing.timeout).await,
            Err(why) => Err(why),
        };
        // It may have been paused or have ended meanwhile: that is no answer.
        let now = self.view.get(&container.id);
        let same = now.is_some_and(|now| {
            now.state == State::Running && now.started_at == container.started_at
        });
        if !same || !self.view.freshness().synced {
            return;
        }
        let success = answer.is_ok();
        let output = answer.unwrap_or_else(|why| why);
        let result = ProbeResult { at, took: begin.elapsed(), success, output: output.clone() };
        if let Some((status, health)) = self.health.take(&container, &check, result, begin) {
            let healths = vec![(container.id.clone(), health)];
            self.tell_health(&container, status, &output, healths).await;
        }
    }

    /// Tells everybody that a container is well or ill.
    async fn tell_health(
        &self,
        container: &Container,
        status: Status,
        output: &str,
        healths: Vec<(String, Health)>,
    ) {
        let what = match status {
            Status::Healthy => What::Healthy,
            Status::Unhealthy => What::Unhealthy { output: output.to_owned() },
            Status::Starting => return,
        };
        // What the store could not take comes first.
        let mut told = self.health.untold();
        told.push(events::now(Subject::container(container), what));
        let ids = healths.iter().map(|(id, _)| id.clone()).collect();
        if let Err(error) = self.store.put_healths(healths, told.clone()).await {
            tracing::warn!(
                ?error,
                name = container.name(),
                "its health cannot be written down yet"
            );
            self.health.save_again(ids, told);
        }
        // What others do about it comes after it.
        self.view.touch(&container.id);
    }
}

/// Where a TCP port of a container is reached from here.
fn place(
    container: &Container,
    remote_host: Option<&str>,
    port: u16,
) -> Result<(String, u16), String> {
    // All that is asked is asked by TCP, and the same number may be published for UDP too.
    let is_it = |have: &&PublishedPort| have.internal == port && have.protocol == Protocol::Tcp;
    let published = || container.ports.iter().find(is_it);
    match remote_host {
        None if !container.network.ip_address.is_empty() => {
            Ok((container.network.ip_address.clone(), port))
        }
        None => match published() {
            Some(have) => {
                let address = have.address.map(|address| address.to_string());
                Ok((address.unwrap_or_else(|| "127.0.0.1".to_owned()), have.host))
            }
            None => Err("the container has no address; publish the port".to_owned()),
        },
        Some(host) => match published() {
            Some(have) => Ok((host.to_owned(), have.host)),
            None => Err(format!(
                "the engine is on another machine, and TCP port {port} is not published"
            )),
        },
    }
}

/// Probes containers until the service stops.
pub async fn ask_all(app: Arc<App>) {
    let mut latest = app.view.subscribe();
    let mut prober = Prober::default();
    let mut work = FuturesUnordered::new();
    loop {
        latest.borrow_and_update();
        prober.look(&app);
        while work.len() < AT_ONCE
            && let Some(turn) = prober.next(&app)
        {
            let app = app.clone();
            work.push(async move {
                match turn {
                    Turn::Ask(id, begin, target) => {
                        let interval = target.check.timing.interval;
                        app.ask(target).await;
                        Some((id, begin + interval))
                    }
                    Turn::Tell(container, status) => {
                        let health = container.engine_health.as_ref();
                        let output = health.and_then(|health| health.results.back());
                        let output = output.map_or("", |result| result.output.as_str());
                        let known = app.health.of(&container.id, |it| Some(it.clone()));
                        let run = container.started_at;
                        let told = Health { run, status, ..known.unwrap_or_default() };
                        let healths = vec![(container.id.clone(), told)];
                        app.tell_health(&container, status, output, healths).await;
                        None
                    }
                }
            });
        }
        let due = prober.next_due().filter(|_| work.len() < AT_ONCE);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            Some(done) = work.next() => if let Some((id, due)) = done { prober.done(id, due) },
            () = wait => {}
        }
    }
}

/// Writes to the store what it does not have, until the service stops.
pub async fn keep(app: Arc<App>) {
    let mut ticks = tokio::time::interval(KEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let gone = match app.view.freshness().synced {
            true => app.health.retain(|id| app.view.has(id)),
            false => Vec::new(),
        };
        let (healths, told) = (app.health.unsaved(), app.health.untold());
        let ids: Vec<String> = healths.iter().map(|(id, _)| id.clone()).collect();
        let kept = match healths.is_empty() && told.is_empty() {
            true => Ok(()),
            false => app.store.put_healths(healths, told.clone()).await,
        };
        if kept.is_err() {
            app.health.save_again(ids, told);
        }
        let forgotten = match gone.is_empty() {
            true => Ok(()),
            false => app.store.forget_healths(gone).await,
        };
        if let Err(error) = kept.and(forgotten) {
            tracing::warn!(?error, "how containers do cannot be written down; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::domain::container::{Network, tests::named};

    #[test]
    fn a_port_is_asked_where_tcp_is_published() {
        let published = |protocol, host, address| PublishedPort {
            internal: 53,
            host,
            protocol,
            address,
            protocol_set: true,
        };
        let udp = published(Protocol::Udp, 8053, None);
        let tcp = published(Protocol::Tcp, 9053, None);
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let at = |ports: &[&PublishedPort], host| {
            let ports = ports.iter().copied().cloned().collect();
            place(&Container { ports, ..named("dns") }, host, 53)
        };
        for both in [[&udp, &tcp], [&tcp, &udp]] {
            assert_eq!(at(&both, Some("there")), Ok(("there".to_owned(), 9053)));
            assert_eq!(at(&both, None), Ok(("127.0.0.1".to_owned(), 9053)));
        }
        let bound = published(Protocol::Tcp, 7053, Some(local));
        assert_eq!(at(&[&udp, &bound], None), Ok((local.to_string(), 7053)));
        let why = at(&[&udp], Some("there")).expect_err("TCP is not published");
        assert!(why.contains("TCP port 53 is not published"), "{why}");
        at(&[&udp], None).expect_err("TCP is not published");
        let network = Network { ip_address: "10.0.0.2".into(), ..Network::default() };
        let inside = Container { network, ports: vec![udp.clone()], ..named("dns") };
        assert_eq!(place(&inside, None, 53), Ok(("10.0.0.2".to_owned(), 53)));
    }
}
