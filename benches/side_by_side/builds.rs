//! Contexts of builds, beside those of the docker command on the same engine.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use container_svc::rpc::pb;
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::Child,
    engine::docker,
    measure::median,
    report::{Bar, Row, Unit},
};

/// Rounds, besides the one that warms up.
const ROUNDS: usize = 3;
/// One file is copied, so that the engine has little to do but to take the context.
const DOCKERFILE: &str = "FROM scratch\nCOPY Dockerfile /\n";
const NAME: &str = "container-svc-bench-build:1";

/// Many small files, and one large one; then what the large one took of memory and
/// processor.
pub(crate) async fn contexts(plan: Plan) -> Result<[Row; 4], Failure> {
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
    let before = (child.cpu()?, child.memory()?);
    let (ours, beside) = by_turns(&child, &large).await?;
    let after = (child.cpu()?, child.memory()?);
    let builds = u32::try_from(ROUNDS + 1)?;
    let bytes = plan.file_bytes as f64;
    let cpu = ((after.0 - before.0) / builds).as_secs_f64();
    let row = |what, ours, beside, bar| Row {
        what,
        against: "docker build",
        ours,
        beside,
        unit: Unit::Milliseconds,
        bar,
    };
    let alone = |what, ours, unit, bar| Row { what, against: "", ours, beside: 1.0, unit, bar };
    let large = row("Build with a context of one large file", ours, beside, Bar::AtMost(1.05));
    let (ours, beside) = by_turns(&child, &many).await?;
    docker(&["rmi", "-f", NAME]);
    Ok([
        row("Build with a context of many files", ours, beside, Bar::AtMost(1.05)),
        large,
        alone(
            "Sending a large context, by one core",
            bytes / cpu / 1e9,
            Unit::GigabytesPerSecond,
            Bar::FigureAtLeast(1.0),
        ),
        alone(
            "Memory after large contexts",
            after.1 as f64 / 1e6,
            Unit::Megabytes,
            Bar::FigureAtMost(40.0),
        ),
    ])
}

/// Median times of ours and of the docker command.
async fn by_turns(child: &Child, folder: &Path) -> Result<(f64, f64), Failure> {
    let (mut ours, mut beside) = (Vec::new(), Vec::new());
    for turn in 0..=ROUNDS {
        for our_turn in [turn % 2 == 0, turn % 2 != 0] {
            let begin = Instant::now();
            if our_turn {
                build(child, folder).await?;
            } else {
                by_docker(folder)?;
            }
            let took: Duration = begin.elapsed();
            match (turn, our_turn) {
                (0, _) => {}
                (_, true) => ours.push(took),
                (_, false) => beside.push(took),
            }
        }
    }
    Ok((median(ours), median(beside)))
}

async fn build(child: &Child, folder: &Path) -> Result<(), Failure> {
    let request = pb::BuildImageRequest {
        name: NAME.to_owned(),
        context_path: folder.display().to_string(),
        ..Default::default()
    };
    child.builds.clone().build_image(request).await?;
    Ok(())
}

fn by_docker(folder: &Path) -> Result<(), Failure> {
    let mut build = Command::new("docker");
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", NAME]).arg(folder);
    let out = build.output()?;
    match out.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned().into()),
    }
}
