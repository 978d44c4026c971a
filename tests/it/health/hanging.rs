//! Many probes that hang, and one that is on time beside them.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinHandle,
};

use super::*;
use crate::proxy::{answer, engine_socket, head};

const HANGING: usize = 200;
const INTERVAL: Duration = Duration::from_millis(200);

/// The engine, which tells of containers that are not there in place of its own.
struct Crowd {
    dir: TempDir,
    told: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Crowd {
    #[expect(clippy::disallowed_methods, reason = "the test owns it")]
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("sock")).expect("a socket");
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let of = told.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let told = of.clone();
                tokio::spawn(async move { drop(tell(client, &told).await) });
            }
        });
        Self { dir, told, task }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("sock").display())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tell(mut client: UnixStream, told: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let head = head(&mut client).await?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = {
        let told = told.lock().expect("no panic");
        let asked = |it: &&Value| {
            let id = it["Id"].as_str().expect("an id");
            path.contains(&format!("/containers/{id}/json"))
        };
        match told.iter().find(asked) {
            Some(one) => Some(one.to_string()),
            None if !told.is_empty() && path.contains("/containers/json") => {
                Some(told.iter().map(listed).collect::<Value>().to_string())
            }
            None => None,
        }
    };
    if let Some(body) = body {
        return answer(client, "200 OK", &body).await;
    }
    let mut engine = UnixStream::connect(engine_socket()).await?;
    engine.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut engine).await.map(drop)
}

/// A container as a listing has it.
fn listed(it: &Value) -> Value {
    json!({
        "Id": it["Id"], "Names": [it["Name"]], "Image": it["Config"]["Image"],
        "ImageID": it["Image"], "Created": 1, "State": "running", "Status": "Up",
        "Labels": it["Config"]["Labels"], "Ports": [], "Mounts": [],
        "HostConfig": {"NetworkMode": it["HostConfig"]["NetworkMode"]},
        "NetworkSettings": {"Networks": it["NetworkSettings"]["Networks"]},
    })
}

/// Another container just like one, that is asked at a port of this machine.
fn like(one: &Value, name: &str, number: usize, port: u16) -> Value {
    let id = one["Id"].as_str().expect("an id");
    let text = one.to_string();
    let text = text.replace(id, &format!("{number:064x}"));
    let text = text.replace(name, &format!("{name}-{number}"));
    let mut copy: Value = serde_json::from_str(&text).expect("JSON");
    let mode = copy["HostConfig"]["NetworkMode"].as_str().expect("a network").to_owned();
    copy["NetworkSettings"]["Networks"] = json!({ mode: {"IPAddress": "127.0.0.1"} });
    let health = &mut copy["Config"]["Labels"]["container-svc.health"];
    let mut check: Value = serde_json::from_str(health.as_str().expect("text")).expect("JSON");
    check["probe"]["http"]["port"] = port.into();
    *health = check.to_string().into();
    copy
}

/// A server on this machine that notes when it was asked, and may answer.
#[expect(clippy::disallowed_methods, reason = "the test owns the server")]
async fn server(answers: bool) -> (u16, Arc<Mutex<Vec<Instant>>>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::<Mutex<Vec<Instant>>>::default();
    let log = asked.clone();
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            log.lock().expect("no panic").push(Instant::now());
            if answers {
                let _ = stream.read(&mut [0; 1024]).await;
                let well = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(well).await;
            } else {
                open.push(stream);
            }
        }
    });
    (port, asked, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_probes_that_hang_make_no_other_late() {
    let (silent, hanging, _silence) = server(false).await;
    let (well, asked, _answers) = server(true).await;
    let crowd = Crowd::start();
    let mut service = Service::with(|config| config.engine = crowd.address()).await.synced().await;
    let name = unique("model");
    let check = pb::HealthCheck {
        probe: Some(pb::health_check::Probe::Http(pb::HttpProbe { port: 80, path: "/".into() })),
        interval: INTERVAL.try_into().ok(),
        timeout: ms(300_000),
        ..Default::default()
    };
    let restart = pb::RestartOptions { on_unhealthy: Some(false), ..Default::default() };
    let request = pb::RunContainerRequest {
        health_check: Some(check),
        restart: Some(restart),
        ..service.request(&name)
    };
    run(&service, request).await;
    let one: Value = serde_json::from_str(&docker(&["inspect", &name])).expect("JSON");

    service.stop().await;
    let crowded = (1..=HANGING).map(|number| like(&one[0], &name, number, silent));
    let crowded: Vec<_> = crowded.chain([like(&one[0], &name, HANGING + 1, well)]).collect();
    *crowd.told.lock().expect("no panic") = crowded;
    service.resume().await;
    let service = service.synced().await;
    eventually("all of them hang", || async { hanging.lock().expect("no panic").len() == HANGING })
        .await;
    let begin = Instant::now();
    let since = || {
        let asked = asked.lock().expect("no panic");
        asked.iter().filter(|at| **at >= begin).copied().collect::<Vec<_>>()
    };
    eventually("the other one is asked on and on", || async { since().len() > 10 }).await;
    let mut gaps: Vec<_> = since().windows(2).map(|two| two[1] - two[0]).collect();
    gaps.sort_unstable();
    // A busy machine may be late once; those that hang do so for minutes.
    let (usual, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    assert!(usual < INTERVAL * 5 && longest < INTERVAL * 50, "{gaps:?}");
    let last = format!("{name}-{}", HANGING + 1);
    assert_eq!(health(&service, &last).await, Some(pb::HealthState::Healthy));
    assert_eq!(health(&service, &format!("{name}-1")).await, Some(pb::HealthState::Starting));
}
