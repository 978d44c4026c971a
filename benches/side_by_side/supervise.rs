//! What it costs to ask many containers whether they are well.

use std::time::Duration;

use container_svc::rpc::pb::{self, health_check::Probe};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::Child,
    engine::{self, Raw},
    report::{Bar, Row, Unit},
    service::eventually,
};

/// Containers that are run at once.
const AT_ONCE: usize = 4;
/// How long is measured.
const SPAN: Duration = Duration::from_secs(20);

/// Processor time in a second, and memory, while each container is asked each second.
pub(crate) async fn probes(plan: Plan, raw: &Raw) -> Result<[Row; 2], Failure> {
    let data = TempDir::new()?;
    let child = Child::start(data.path()).await?;
    let made = Made;
    let run = |number: usize| {
        let mut client = child.containers.clone();
        let request = pb::RunContainerRequest {
            image: raw.image.clone(),
            names: vec![raw.name(&format!("probed-{number}"))],
            health_check: Some(pb::HealthCheck {
                probe: Some(Probe::Http(pb::HttpProbe { port: 80, path: "/".to_owned() })),
                interval: Some(Duration::from_secs(1).try_into()?),
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok::<_, Failure>(async move { client.run_container(request).await.map(drop) })
    };
    let runs: Vec<_> = (0..plan.probed).map(run).collect::<Result<_, _>>()?;
    stream::iter(runs).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    eventually("all of them are well", || async {
        let mut client = child.containers.clone();
        let request = pb::ListContainersRequest { managed_only: true, ..Default::default() };
        let all = client.list_containers(request).await.ok()?.into_inner().containers;
        let healthy = |it: &&pb::Container| {
            it.health.is_some_and(|health| health.state() == pb::HealthState::Healthy)
        };
        (all.iter().filter(healthy).count() >= plan.probed).then_some(())
    })
    .await?;
    let before = child.cpu()?;
    tokio::time::sleep(SPAN).await;
    let cpu = (child.cpu()? - before).as_secs_f64() * 1e3 / SPAN.as_secs_f64();
    let memory = f64::from(u32::try_from(child.memory()?)?) / 1e6;
    drop((child, made));
    let row = |what, ours, unit, bar| Row {
        what,
        against: "",
        ours,
        beside: f64::NAN,
        unit,
        bar: Bar::FigureAtMost(bar),
    };
    Ok([
        row(
            "200 containers probed over HTTP each second, processor time in a second",
            cpu,
            Unit::Milliseconds,
            100.0,
        ),
        row("200 containers probed over HTTP each second, memory", memory, Unit::Megabytes, 80.0),
    ])
}

/// What the child made goes when this is dropped.
struct Made;

impl Drop for Made {
    fn drop(&mut self) {
        engine::remove(&engine::labelled("container-svc.node=bench"));
    }
}
