//! Contexts of builds, beside those of the docker command on the same engine.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use container_svc::rpc::pb::{
    self,
    BuilderKind::{Buildkit, Classic},
};
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::{Child, cpu_of_programs},
    engine::docker,
    measure::median,
    report::{Bar, Row, Unit},
};

/// Rounds, besides the one that warms up.
const ROUNDS: usize = 5;
/// One file is copied, so that the engine has little to do but to take the context.
const DOCKERFILE: &str = "FROM scratch\nCOPY Dockerfile /\n";
const NAME: &str = "container-svc-bench-build:1";

/// What builds took in all but the first round: the median of the time, and all the
/// processor's.
#[derive(Debug, Default)]
struct Took {
    times: Vec<Duration>,
    cpu: Duration,
}

/// Many small files, and one large one: time, processor time and memory.
pub(crate) async fn contexts(plan: Plan) -> Result<[Row; 8], Failure> {
    let data = TempDir::new()?;
    let (many, large) = (data.path().join("many"), data.path().join("large"));
    for folder in 0..plan.files.div_ceil(200) {
        let folder = many.join(folder.to_string());
        fs::create_dir_all(&folder)?;
        for file in 0..200 {
            fs::write(folder.join(file.to_string()), file.to_string())?;
        }
    }
    fs::create_dir_all(&large)?;
    let mut file = fs::File::create(large.join("file"))?;
    // No holes, and nothing that packs well.
    let piece: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes()).collect();
    for _ in 0..plan.file_bytes >> 20 {
        file.write_all(&piece)?;
    }
    for folder in [&many, &large] {
        fs::write(folder.join("Dockerfile"), DOCKERFILE)?;
    }
    let child = Child::start(data.path()).await?;
    let one = by_turns(&child, &large, Classic).await?;
    let memory = child.memory()?;
    let builds = u32::try_from(ROUNDS)?;
    let bytes = plan.file_bytes as f64;
    let cpu = (one[0].cpu / builds).as_secs_f64();
    let row = |what, ours, beside, bar| Row {
        what,
        against: "docker build",
        ours,
        beside,
        unit: Unit::Milliseconds,
        bar,
    };
    let alone = |what, ours, unit, bar| Row { what, against: "", ours, beside: 1.0, unit, bar };
    let again = by_turns(&child, &many, Buildkit).await?;
    let many = by_turns(&child, &many, Classic).await?;
    docker(&["rmi", "-f", NAME]);
    let rows = |what, of, [ours, beside]: [Took; 2]| {
        let bar = || Bar::AtMost(1.05);
        let cpu = |took: &Took| (took.cpu / builds).as_secs_f64() * 1e3;
        let cost = row(of, cpu(&ours), cpu(&beside), bar());
        [row(what, median(ours.times), median(beside.times), bar()), cost]
    };
    let [many, many_cost] = rows(
        "Build with a context of many files",
        "the same, processor time without the engine's",
        many,
    );
    let [large, large_cost] = rows(
        "Build with a context of one large file",
        "the same of one large file, processor time without the engine's",
        one,
    );
    let [again, again_cost] = rows(
        "Build by BuildKit again, of many files",
        "the same by BuildKit, processor time without the engine's",
        again,
    );
    Ok([
        many,
        many_cost,
        again,
        again_cost,
        large,
        large_cost,
        alone(
            "Sending a large context, by one core",
            bytes / cpu / 1e9,
            Unit::GigabytesPerSecond,
            Bar::FigureAtLeast(1.0),
        ),
        alone(
            "Memory after large contexts",
            memory as f64 / 1e6,
            Unit::Megabytes,
            Bar::FigureAtMost(40.0),
        ),
    ])
}

/// What ours took, and the docker command.
async fn by_turns(
    child: &Child,
    folder: &Path,
    builder: pb::BuilderKind,
) -> Result<[Took; 2], Failure> {
    let (mut ours, mut beside) = (Took::default(), Took::default());
    for turn in 0..=ROUNDS {
        for our_turn in [turn % 2 == 0, turn % 2 != 0] {
            let cpu = || if our_turn { child.cpu() } else { cpu_of_programs() };
            let (before, begin) = (cpu()?, Instant::now());
            if our_turn {
                build(child, folder, builder).await?;
            } else {
                by_docker(folder, builder)?;
            }
            let (time, cost) = (begin.elapsed(), cpu()? - before);
            if turn > 0 {
                let took = if our_turn { &mut ours } else { &mut beside };
                took.times.push(time);
                took.cpu += cost;
            }
        }
    }
    Ok([ours, beside])
}

async fn build(child: &Child, folder: &Path, builder: pb::BuilderKind) -> Result<(), Failure> {
    let request = pb::BuildImageRequest {
        name: NAME.to_owned(),
        context_path: folder.display().to_string(),
        builder: builder.into(),
        ..Default::default()
    };
    child.builds.clone().build_image(request).await?;
    Ok(())
}

fn by_docker(folder: &Path, builder: pb::BuilderKind) -> Result<(), Failure> {
    // Where two are installed, the newer one may lack BuildKit.
    const OLDER: &str = "/usr/bin/docker";
    let kit = builder == Buildkit;
    let program = if kit && Path::new(OLDER).exists() { OLDER } else { "docker" };
    let mut build = Command::new(program);
    build.env("DOCKER_BUILDKIT", if kit { "1" } else { "0" });
    let out = build.args(["build", "-q", "-t", NAME]).arg(folder).output()?;
    match out.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned().into()),
    }
}
