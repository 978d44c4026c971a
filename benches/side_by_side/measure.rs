//! The measurements: ours and what is beside it, by turns.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use container_svc::rpc::pb;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    Failure, Plan,
    engine::Raw,
    report::{Bar, Row, Unit},
    service::{Service, free_address},
};

/// Questions that follow each other on one side before it is the other's turn, ours
/// first: the first after a change find the processor busy with the other side's work.
const BURST: (usize, usize) = (100, 10);
/// Calls under way at once while calls are counted.
const AT_ONCE: usize = 8;
/// Lets what follows a removal come to its end.
pub(crate) const SETTLE: Duration = Duration::from_millis(150);

/// RunContainer of a new container, beside create and start.
pub(crate) async fn run_new(plan: Plan, service: &Service, raw: &Raw) -> Result<Row, Failure> {
    let (mut ours, mut beside) = (Vec::new(), Vec::new());
    let mut client = service.client.clone();
    // The first pair warms both up and makes the network.
    for turn in 0..=plan.runs {
        // Whoever begins changes, so that neither has the better place.
        for our_turn in [turn % 2 == 0, turn % 2 != 0] {
            let name = format!("{}-run-{turn}-{our_turn}", service.network);
            let begin = Instant::now();
            let (id, samples) = if our_turn {
                let answer = client.run_container(service.request(&name)).await?.into_inner();
                if answer.action() != pb::RunAction::Created {
                    return Err(format!("{name} was not created: {:?}", answer.action()).into());
                }
                (answer.id, &mut ours)
            } else {
                let id = raw.create(&name, &service.network).await?;
                raw.start(&id).await?;
                (id, &mut beside)
            };
            let took = begin.elapsed();
            if turn > 0 {
                samples.push(took);
            }
            raw.remove(&id).await?;
            tokio::time::sleep(SETTLE).await;
        }
    }
    Ok(Row {
        what: "RunContainer by gRPC, nothing running",
        against: "create + start on the engine",
        ours: median(ours),
        beside: median(beside),
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(1.05),
    })
}

/// RunContainer of what runs already, beside one question to the engine.
///
/// Told beside it: an empty call over the same kind of connection, which is the least
/// that any call takes here.
pub(crate) async fn run_unchanged(
    plan: Plan,
    service: &Service,
    raw: &Raw,
) -> Result<[Row; 2], Failure> {
    let name = running(service);
    let mut client = service.client.clone();
    client.run_container(service.request(&name)).await?;
    tokio::time::sleep(SETTLE).await;
    let ours = async || {
        let answer = client.clone().run_container(service.request(&name)).await?.into_inner();
        match answer.action() {
            pb::RunAction::Unchanged => Ok(()),
            other => Err(Failure::from(format!("{name} was not unchanged: {other:?}"))),
        }
    };
    let beside = async || raw.get("/containers/json").await.map(drop);
    let (took, beside) = by_turns(plan.questions, ours, beside).await?;
    let engine = Row {
        what: "RunContainer by gRPC, already running, 60 on the engine",
        against: "GET /containers/json",
        ours: took,
        beside,
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(1.0 / 50.0),
    };
    let empty = Empty::start().await?;
    let nothing = async || empty.call().await;
    let (ours, beside) = by_turns(plan.questions, ours, nothing).await?;
    let least = Row {
        what: "the same, beside the least that a call takes",
        against: "an empty tonic unary call",
        ours,
        beside,
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(2.0),
    };
    Ok([engine, least])
}

/// A tonic server whose one call does nothing.
struct Empty {
    client: HealthClient<tonic::transport::Channel>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Empty {
    #[expect(clippy::disallowed_methods, reason = "the benchmark owns the server")]
    async fn start() -> Result<Self, Failure> {
        let address = free_address()?;
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder().add_service(health).serve(address);
        let server = tokio::spawn(server);
        Ok(Self { client: connect(format!("http://{address}")).await?, server })
    }

    async fn call(&self) -> Result<(), Failure> {
        Ok(self.client.clone().check(HealthCheckRequest::default()).await.map(drop)?)
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Calls of IsContainerRunning in a second, beside those of an empty call.
pub(crate) async fn is_running(plan: Plan, service: &Service) -> Result<Row, Failure> {
    let empty = std::sync::Arc::new(Empty::start().await?);
    let name = running(service);
    let (rounds, millis) = plan.rounds;
    let span = Duration::from_millis(millis);
    let (mut ours, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (client, name) = (service.client.clone(), name.clone());
        let rate = rate(span, move || {
            let (mut client, name) = (client.clone(), name.clone());
            async move {
                let request = pb::IsContainerRunningRequest { name, ..Default::default() };
                let answer = client.is_container_running(request).await?.into_inner();
                if answer.is_running { Ok(()) } else { Err("it does not run".into()) }
            }
        });
        ours.push(rate.await?);
        let empty = empty.clone();
        let rate = self::rate(span, move || {
            let empty = empty.clone();
            async move { empty.call().await }
        });
        beside.push(rate.await?);
    }
    Ok(Row {
        what: "IsContainerRunning by gRPC, 8 at once",
        against: "an empty tonic unary call",
        ours: middle(ours),
        beside: middle(beside),
        unit: Unit::PerSecond,
        bar: Bar::AtLeast(0.8),
    })
}

/// The list of many containers, beside the engine's.
pub(crate) async fn list(plan: Plan, service: &Service, raw: &Raw) -> Result<Row, Failure> {
    let (ours, beside) = by_turns(
        plan.questions,
        async || service.list().await.map(drop),
        async || raw.get("/containers/json?all=1").await.map(drop),
    )
    .await?;
    Ok(Row {
        what: "ListContainers by REST, 200 containers",
        against: "GET /containers/json?all=1",
        ours,
        beside,
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(1.0 / 20.0),
    })
}

/// The same while containers are being made.
pub(crate) async fn list_during_burst(
    plan: Plan,
    service: &Service,
    raw: &Raw,
) -> Result<Row, Failure> {
    let (mut ours, mut beside) = (Vec::new(), Vec::new());
    let asking = async {
        loop {
            ours.push(timed(&mut async || service.list().await.map(drop)).await?);
            let mut asked = async || raw.get("/containers/json?all=1").await.map(drop);
            beside.push(timed(&mut asked).await?);
        }
    };
    tokio::select! {
        made = raw.make_many(plan.burst) => made?,
        failed = asking => return failed,
    }
    Ok(Row {
        what: "the same while 50 are being created",
        against: "GET /containers/json?all=1",
        ours: median(ours),
        beside: median(beside),
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(1.0 / 10.0),
    })
}

/// Name of the container that runs for the questions.
fn running(service: &Service) -> String {
    format!("{}-runs", service.network)
}

async fn connect(url: String) -> Result<HealthClient<tonic::transport::Channel>, Failure> {
    let endpoint = tonic::transport::Endpoint::from_shared(url)?;
    for _ in 0..100 {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(HealthClient::new(channel));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("the empty server does not listen".into())
}

/// Medians in milliseconds of two questions asked by turns, in bursts.
pub(crate) async fn by_turns(
    count: usize,
    mut ours: impl AsyncFnMut() -> Result<(), Failure>,
    mut beside: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<(f64, f64), Failure> {
    ours().await?;
    beside().await?;
    let (mut our_times, mut other_times) = (Vec::new(), Vec::new());
    for _ in 0..count.div_ceil(BURST.1) {
        for _ in 0..BURST.1.min(count) {
            other_times.push(timed(&mut beside).await?);
        }
        for _ in 0..BURST.0 {
            our_times.push(timed(&mut ours).await?);
        }
    }
    Ok((median(our_times), median(other_times)))
}

async fn timed(
    question: &mut impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<Duration, Failure> {
    let begin = Instant::now();
    question().await?;
    Ok(begin.elapsed())
}

/// Calls in a second, over a span.
#[expect(clippy::disallowed_methods, reason = "each task is awaited below")]
async fn rate<F>(
    span: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Result<f64, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let begin = Instant::now();
    let callers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut count = 0_u32;
                while begin.elapsed() < span {
                    call().await?;
                    count += 1;
                }
                Ok::<u32, Failure>(count)
            })
        })
        .collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await??;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// Median in milliseconds.
pub(crate) fn median(times: Vec<Duration>) -> f64 {
    middle(times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect())
}

/// Median.
pub(crate) fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}
