//! What it costs to place containers on GPUs, and to look at GPUs.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use container_svc::{
    domain::gpu::{Booking, Device, Inventory, Memory, Wish, placement::place, request::Which},
    gpu::Gpus,
};
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::Child,
    measure::by_turns,
    report::{Bar, Row, Unit, say},
};

const DEVICES: u32 = 8;
/// Requests that are placed.
const REQUESTS: usize = 10_000;
/// Containers that have GPUs at once.
const RUNNING: usize = 32;
/// Longer than a look is shared.
const APART: Duration = Duration::from_millis(250);

/// All rows on GPUs.
pub(crate) async fn rows(plan: Plan) -> Result<Vec<Row>, Failure> {
    let mut rows = vec![placed()];
    rows.push(sampled(plan).await?);
    rows.extend(refreshed(plan).await?);
    Ok(rows)
}

/// Requests one after the other, each beside those that run; the oldest ends.
fn placed() -> Row {
    let memory = Memory { total: 80 << 30, free: 80 << 30, used: 0, reserved: 1 << 30 };
    let device = |index| Device {
        index,
        uuid: format!("GPU-{index}"),
        memory: Some(memory),
        ..Device::default()
    };
    let node = Inventory { devices: (0..DEVICES).map(device).collect(), ..Inventory::default() };
    let mut booked: Vec<Booking> = Vec::new();
    let mut placements = 0;
    let begin = Instant::now();
    for at in 0..REQUESTS {
        let wish = Wish {
            which: Which::Count(1 + u32::try_from(at % 4).unwrap_or(0)),
            memory_mb: 1024 * (1 + at as u64 % 16),
            compute: 0,
            exclusive: at % 10 == 0,
            profile: String::new(),
            spread: at % 2 == 0,
            queue: None,
            on_overrun: None,
        };
        let over = booked.len().saturating_sub(RUNNING);
        booked.drain(..over);
        match place(&wish, "bench", &node, &booked, &[]) {
            Ok(placed) => {
                placements += 1;
                booked.extend(placed);
            }
            Err(_) => drop(booked.drain(..booked.len() / 2)),
        }
    }
    let took = begin.elapsed();
    say(&format!("{placements} of {REQUESTS} requests were placed\n"));
    figure("Placement of 10,000 requests on 8 GPUs", took.as_secs_f64() * 1e3, 500.0)
}

/// Processor time in a second of a service that looks at 8 devices each second, beside
/// one that has none.
async fn sampled(plan: Plan) -> Result<Row, Failure> {
    let (dir, data) = (TempDir::new()?, TempDir::new()?);
    let library = dir.path().join("libnvml.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/gpus/nvml.c"))
        .status()?;
    if !built.success() {
        return Err("the stub of NVIDIA's library cannot be built".into());
    }
    let lines: String = (0..DEVICES)
        .map(|at| {
            format!(
                "device uuid=GPU-{at} name=NVIDIA_A100 total=85899345920 reserved=1073741824 \
                 used=1073741824 busy=40 temp=50 power=61500 limit=400000 ecc=1 errors=0\n\
                 process pid={} used=1073741824\n",
                std::process::id()
            )
        })
        .collect();
    let lines = format!("driver version=550.54.15 cuda=12040\n{lines}");
    std::fs::write(dir.path().join("libnvml.so.conf"), lines)?;
    let library = library.display().to_string();
    let settings =
        [("CONTAINER_SVC_NVML_LIBRARY", library.as_str()), ("CONTAINER_SVC_GPU_INTERVAL", "1s")];
    let child = Child::start_with(data.path(), &settings).await?;
    let data = TempDir::new()?;
    let without = Child::start(data.path()).await?;
    // At once, so that both see as much of the engine.
    let span = plan.steady * 2;
    let before = (child.cpu()?, without.cpu()?);
    tokio::time::sleep(span).await;
    let a_second = |cpu: Duration| cpu.as_secs_f64() * 1e3 / span.as_secs_f64();
    Ok(Row {
        what: "8 GPUs looked at each second (stub), processor time in a second",
        against: "a service without GPUs",
        ours: a_second(child.cpu()? - before.0),
        beside: a_second(without.cpu()? - before.1),
        unit: Unit::Milliseconds,
        bar: Bar::FigureAtMost(20.0),
    })
}

/// One look at the real driver, beside nvidia-smi; nothing where there is no GPU.
async fn refreshed(plan: Plan) -> Result<Option<Row>, Failure> {
    let gpus = Gpus::new("libnvidia-ml.so.1", Duration::from_secs(600))?;
    if let Some(why) = &gpus.look().await.missing {
        say(&format!("skipped, a look at the real GPUs beside nvidia-smi: {why}\n"));
        return Ok(None);
    }
    let fields = "--query-gpu=index,uuid,name,memory.total,memory.used,utilization.gpu,\
                  temperature.gpu,power.draw";
    let smi = async || {
        let out = Command::new("nvidia-smi").args([fields, "--format=csv"]).output()?;
        if out.status.success() { Ok(()) } else { Err("nvidia-smi fails".into()) }
    };
    if smi().await.is_err() {
        say("skipped, a look at the real GPUs beside nvidia-smi: that does not run here\n");
        return Ok(None);
    }
    let mut looks = Vec::new();
    let look = async || {
        tokio::time::sleep(APART).await;
        let begin = Instant::now();
        gpus.look().await;
        looks.push(begin.elapsed());
        Ok(())
    };
    let (_, beside) = by_turns(plan.questions.min(20), look, smi).await?;
    Ok(Some(Row {
        what: "A look at all GPUs",
        against: "nvidia-smi --query-gpu",
        ours: crate::measure::median(looks),
        beside,
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(0.5),
    }))
}

fn figure(what: &'static str, ours: f64, bar: f64) -> Row {
    let unit = Unit::Milliseconds;
    Row { what, against: "", ours, beside: f64::NAN, unit, bar: Bar::FigureAtMost(bar) }
}
