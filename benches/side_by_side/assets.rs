//! Assets: how soon one is here, in how little memory, and what they cost a run.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use container_svc::rpc::pb;
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::Child,
    engine::{Extras, Raw},
    measure::{SETTLE, by_turns, median},
    report::{Bar, Row, Unit},
    service::{Service, eventually},
};

/// Settings of a service that may fetch from here.
pub(crate) const FROM_HERE: [(&str, &str); 2] = [
    ("CONTAINER_SVC_ASSET_ALLOW_HTTP", "127.0.0.1"),
    ("CONTAINER_SVC_ASSET_ALLOW_ADDRESSES", "127.0.0.0/8"),
];
/// And of one that forgets soon, so that each turn finds the disk as it was.
const FORGETS: (&str, &str) = ("CONTAINER_SVC_ASSET_MAX_AGE", "1s");
/// Keeps and assets of one container.
const EACH: usize = 5;

/// Fetching one, beside curl. Both end when the file is on the disk, not before.
pub(crate) async fn download(plan: Plan, raw: &Raw) -> Result<[Row; 2], Failure> {
    let (length, rounds) = plan.fetched;
    let source = source(length)?;
    let data = TempDir::new()?;
    let settings: Vec<_> = FROM_HERE.into_iter().chain([FORGETS]).collect();
    let child = Child::start_with(data.path(), &settings).await?;
    let idle = child.memory()?;
    let (mut ours, mut beside) = (Vec::new(), Vec::new());
    // The first pair warms both up.
    for turn in 0..=rounds {
        for our_turn in [turn % 2 == 0, turn % 2 != 0] {
            let url = format!("http://{source}/{turn}.bin");
            let (took, samples) = match our_turn {
                true => (by_service(&child, &raw.image, &url, turn).await?, &mut ours),
                false => (by_curl(data.path(), &url)?, &mut beside),
            };
            if turn > 0 {
                samples.push(took);
            }
            tokio::time::sleep(SETTLE).await;
        }
    }
    let grown = child.most_memory()?.saturating_sub(idle);
    Ok([
        Row {
            what: "Asset fetched and on the disk",
            against: "curl -o, and sync of the file",
            ours: median(ours),
            beside: median(beside),
            unit: Unit::Milliseconds,
            bar: Bar::AtMost(1.05),
        },
        Row {
            what: "Memory that fetching it takes, beyond idle",
            against: "",
            ours: f64::from(u32::try_from(grown)?) / 1e6,
            beside: f64::NAN,
            unit: Unit::Megabytes,
            bar: Bar::FigureAtMost(32.0),
        },
    ])
}

/// From the request until the asset is done; then what came of it is taken away.
async fn by_service(
    child: &Child,
    image: &str,
    url: &str,
    turn: usize,
) -> Result<Duration, Failure> {
    let mut client = child.containers.clone();
    let name = format!("csb-asset-{}-{turn}", std::process::id());
    let run = pb::RunContainerRequest {
        image: image.to_owned(),
        names: vec![name.clone()],
        command: vec!["sleep".into(), "1000".into()],
        assets: vec![asset(0, url)],
        ..Default::default()
    };
    let begin = Instant::now();
    let request = pb::RunContainerStreamRequest { run: Some(run) };
    let mut steps = client.run_container_stream(request).await?.into_inner();
    let mut took = None;
    while let Some(step) = steps.message().await? {
        if step.download.is_some_and(|download| download.done) {
            took = Some(begin.elapsed());
        }
    }
    let request = pb::RemoveContainerRequest { name, force: true, ..Default::default() };
    client.remove_container(request).await?;
    // A file that waits to be written would slow the next turn down.
    let files = child.data.join("assets/files");
    eventually("the asset is gone", || async {
        std::fs::read_dir(&files).ok()?.next().is_none().then_some(())
    })
    .await?;
    took.ok_or_else(|| "no download was told".into())
}

fn by_curl(folder: &Path, url: &str) -> Result<Duration, Failure> {
    let file = folder.join("by-curl");
    let begin = Instant::now();
    let done = Command::new("curl").args(["-sf", "-o"]).arg(&file).arg(url).status()?.success()
        && Command::new("sync").arg(&file).status()?.success();
    let took = begin.elapsed();
    std::fs::remove_file(&file)?;
    if done { Ok(took) } else { Err("curl did not fetch it".into()) }
}

/// RunContainer with keeps and cached assets: a new container beside the same by the
/// engine, and one that runs already beside one question to the engine.
pub(crate) async fn cached(plan: Plan, service: &Service, raw: &Raw) -> Result<[Row; 2], Failure> {
    let source = source(1 << 10)?;
    let folder = TempDir::new()?;
    let extras = Extras::make(folder.path(), EACH)?;
    let with = |name: &str| pb::RunContainerRequest {
        keeps: (0..EACH).map(|at| pb::Keep { path: path(at), read_only: None }).collect(),
        assets: (0..EACH).map(|at| asset(at, &format!("http://{source}/{at}.bin"))).collect(),
        ..service.request(name)
    };
    let (mut ours, mut beside) = (Vec::new(), Vec::new());
    let mut client = service.client.clone();
    for turn in 0..=plan.runs {
        for our_turn in [turn % 2 == 0, turn % 2 != 0] {
            // The same name each time, so that the keeps are found and not made.
            let name = format!("{}-kept-{our_turn}", service.network);
            let begin = Instant::now();
            let (id, samples) = if our_turn {
                (client.run_container(with(&name)).await?.into_inner().id, &mut ours)
            } else {
                let id = raw.create_kept(&name, &service.network, &extras).await?;
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
    let created = Row {
        what: "RunContainer with 5 keeps and 5 assets cached, nothing running",
        against: "create + start on the engine, with the same mounts",
        ours: median(ours),
        beside: median(beside),
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(1.05),
    };

    let name = format!("{}-kept-true", service.network);
    let id = client.run_container(with(&name)).await?.into_inner().id;
    tokio::time::sleep(SETTLE).await;
    let asked = async || {
        let answer = client.clone().run_container(with(&name)).await?.into_inner();
        match answer.action() {
            pb::RunAction::Unchanged => Ok(()),
            other => Err(Failure::from(format!("{name} was not unchanged: {other:?}"))),
        }
    };
    let engine = async || raw.get("/containers/json").await.map(drop);
    let (ours, beside) = by_turns(plan.questions, asked, engine).await?;
    raw.remove(&id).await?;
    let unchanged = Row {
        what: "RunContainer with 5 keeps and 5 assets cached, already running",
        against: "GET /containers/json",
        ours,
        beside,
        unit: Unit::Milliseconds,
        bar: Bar::AtMost(1.0 / 50.0),
    };
    Ok([created, unchanged])
}

fn path(at: usize) -> String {
    format!("/keep/{at}")
}

fn asset(at: usize, url: &str) -> pb::Asset {
    pb::Asset { env_var_key: format!("ASSET_{at}"), url: url.to_owned(), ..Default::default() }
}

/// A web server that has so many bytes under every path. It lives as long as this process.
fn source(length: u64) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever asked may leave.
            thread::spawn(move || drop(give(stream, length)));
        }
    });
    Ok(address)
}

fn give(mut stream: TcpStream, length: u64) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"{length}\"\r\n\r\n")?;
    std::io::copy(&mut std::io::repeat(b'x').take(length), &mut stream)?;
    Ok(())
}
