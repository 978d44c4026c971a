//! A Unix socket in front of the engine's that can go wrong in many ways.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::{
    future::Future,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use container_svc::config::Config;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use super::support::docker;

mod put_back;

/// How the engine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it is.
    Pass,
    /// Closes every connection, those that are open too.
    Refuse,
    /// Does what it is asked, sends the headers of its answer and no more.
    HangAfterHeaders,
    /// Answers 200 with what is no JSON.
    Garbage,
    /// Does what it is asked and closes in the middle of its answer.
    Truncate,
    /// Answers 500.
    Status500,
    /// Answers 404, as an engine does that does not know the path.
    Status404,
    /// Answers 500 to the n-th request, from 1, and is as it is for the others.
    Fail(usize),
    /// Keeps a request until the mode changes, and does then what it is asked.
    Late,
    /// The same with so many requests; it is as it is for the later ones.
    LateFirst(usize),
    /// Passes what the engine sends on a second later, but for past events.
    Delay,
    /// Ends its side of the connection without a word.
    HalfClose,
    /// Does what it is asked and keeps the answer until the mode changes.
    Hold,
    /// Before a container starts, takes its host ports as another process
    /// would, as long as it holds fewer than so many.
    Steal(usize),
    /// Keeps back the n-th request that changes something: before the engine has it,
    /// or its answer when it is done.
    Cut {
        /// Number of the request, from 1.
        step: usize,
        /// The engine does it.
        done: bool,
    },
    /// Its clock was put back then: what was before is ahead now. Its stream of what
    /// happens from now on is as it is.
    PutBack(Timestamp),
}

/// Host ports that the proxy has taken.
type Stolen = Arc<Mutex<Vec<TcpListener>>>;

/// The real engine's socket.
pub(crate) fn engine_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

/// The proxy; it ends when it is dropped.
pub(crate) struct Proxy {
    dir: TempDir,
    mode: watch::Sender<(Mode, String)>,
    seen: watch::Sender<u64>,
    /// Requests since the mode was set that count for it.
    changes: Arc<AtomicUsize>,
    stolen: Stolen,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of the engine of this machine.
    pub(crate) fn start() -> Self {
        Self::before(engine_socket())
    }

    /// In front of another socket.
    #[expect(clippy::disallowed_methods, reason = "the test owns the proxy")]
    pub(crate) fn before(real: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("sock")).expect("a socket");
        let mode = watch::Sender::new((Mode::Pass, String::new()));
        let seen = watch::Sender::new(0);
        let (stolen, changes) = (Stolen::default(), Arc::new(AtomicUsize::new(0)));
        let changes_of = changes.clone();
        let (mode_of, seen_of, stolen_of) = (mode.clone(), seen.clone(), stolen.clone());
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let (mode, seen, real) = (mode_of.subscribe(), seen_of.clone(), real.clone());
                let (stolen, changes) = (stolen_of.clone(), changes_of.clone());
                // Errors are what the proxy is for.
                tokio::spawn(async move {
                    drop(serve(client, real, mode, seen, stolen, changes).await);
                });
            }
        });
        Self { dir, mode, seen, changes, stolen, accepting }
    }

    /// Its socket, for another proxy before it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Its address, for a service.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Makes a service use it, and wait a second for its answers.
    pub(crate) fn under(&self, config: &mut Config) {
        config.engine = self.address();
        config.engine_timeout = Duration::from_secs(1);
    }

    /// Behaves so from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.set_for(mode, "");
    }

    /// Behaves so for requests whose first line contains the text.
    pub(crate) fn set_for(&self, mode: Mode, only: &str) {
        self.changes.store(0, Ordering::Relaxed);
        self.mode.send_replace((mode, only.to_owned()));
    }

    /// Host ports that it has taken and holds.
    pub(crate) fn stolen(&self) -> Vec<u16> {
        let stolen = self.stolen.lock().expect("no panic");
        stolen.iter().filter_map(|held| Some(held.local_addr().ok()?.port())).collect()
    }

    /// Frees them.
    pub(crate) fn give_back(&self) {
        self.stolen.lock().expect("no panic").clear();
    }

    /// Resolves when one more request than now has met the fault.
    pub(crate) fn met_now(&self) -> impl Future<Output = ()> + use<> {
        let mut seen = self.seen.subscribe();
        let before = *seen.borrow_and_update();
        async move { drop(seen.wait_for(|now| *now > before).await.expect("the proxy lives")) }
    }

    /// How many requests have met a fault.
    pub(crate) fn times_met(&self) -> u64 {
        *self.seen.borrow()
    }

    /// Waits until one more request has met the fault.
    pub(crate) async fn met(&self) {
        let mut seen = self.seen.subscribe();
        let before = *seen.borrow_and_update();
        let more = seen.wait_for(|now| *now > before);
        let met = tokio::time::timeout(super::support::DEADLINE, more).await;
        drop(met.expect("in time").expect("the proxy lives"));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Mode::Refuse);
    }
}

/// One request a connection: the engine is told to close after its answer.
async fn serve(
    mut client: UnixStream,
    real: PathBuf,
    mut mode: watch::Receiver<(Mode, String)>,
    seen: watch::Sender<u64>,
    stolen: Stolen,
    changes: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    if mode.borrow().0 == Mode::Refuse && mode.borrow().1.is_empty() {
        return Ok(());
    }
    let head = head(&mut client).await?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let (now, only) = mode.borrow_and_update().clone();
    let now = if line.contains(&only) { now } else { Mode::Pass };
    let mut met = now;
    if let Mode::Cut { step, .. } = now {
        let changing = !line.starts_with("GET ") && !line.starts_with("HEAD ");
        let cut = changing && changes.fetch_add(1, Ordering::Relaxed) + 1 == step;
        met = if cut { now } else { Mode::Pass };
    }
    if let Mode::Fail(nth) = now {
        let fails = changes.fetch_add(1, Ordering::Relaxed) + 1 == nth;
        met = if fails { Mode::Status500 } else { Mode::Pass };
    }
    if let Mode::LateFirst(most) = now {
        let late = changes.fetch_add(1, Ordering::Relaxed) < most;
        met = if late { Mode::Late } else { Mode::Pass };
    }
    if now == Mode::Delay && line.contains("until=") {
        met = Mode::Pass;
    }
    let now = met;
    // What is done first is met when it is done.
    let first = matches!(now, Mode::Cut { done: true, .. });
    if now != Mode::Pass && !first {
        seen.send_modify(|seen| *seen += 1);
    }
    match now {
        Mode::Refuse => return Ok(()),
        Mode::Garbage => return answer(client, "200 OK", "{\"Id\": [}, \u{0}").await,
        Mode::Status500 => {
            return answer(client, "500 Internal Server Error", "{\"message\":\"it broke\"}").await;
        }
        Mode::Status404 => {
            return answer(client, "404 Not Found", "{\"message\":\"page not found\"}").await;
        }
        Mode::HalfClose => {
            client.shutdown().await?;
            drop(mode.changed().await);
            return Ok(());
        }
        Mode::Cut { done: false, .. } => {
            drop(mode.changed().await);
            return Ok(());
        }
        Mode::Late => drop(mode.changed().await),
        Mode::Steal(most) => steal(&line, most, &stolen),
        Mode::PutBack(then) if put_back::concerns(&line) => {
            return put_back::answer(client, UnixStream::connect(real).await?, &head, then).await;
        }
        Mode::Pass
        | Mode::Delay
        | Mode::LateFirst(_)
        | Mode::Fail(_)
        | Mode::HangAfterHeaders
        | Mode::Truncate
        | Mode::Hold
        | Mode::PutBack(_)
        | Mode::Cut { .. } => {}
    }

    let mut engine = UnixStream::connect(real).await?;
    engine.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_engine, mut to_engine) = engine.split();
    let ask = async {
        tokio::io::copy(&mut from_client, &mut to_engine).await?;
        // A client that has left needs no answer.
        Ok::<_, std::io::Error>(())
    };
    let tell = async {
        match now {
            Mode::Pass | Mode::Late | Mode::Steal(_) | Mode::PutBack(_) => {
                tokio::io::copy(&mut from_engine, &mut to_client).await?;
            }
            Mode::Delay => delay(&mut from_engine, &mut to_client).await?,
            Mode::Hold | Mode::Cut { .. } => {
                let mut whole = Vec::new();
                from_engine.read_to_end(&mut whole).await?;
                if first {
                    seen.send_modify(|seen| *seen += 1);
                }
                drop(mode.clone().changed().await);
                to_client.write_all(&whole).await?;
            }
            _ => {
                let mut whole = Vec::new();
                from_engine.read_to_end(&mut whole).await?;
                let mark = whole.windows(4).position(|four| four == b"\r\n\r\n");
                let body = mark.map_or(whole.len(), |mark| mark + 4);
                let end = match now {
                    Mode::Truncate => body + (whole.len() - body) / 2,
                    _ => body,
                };
                to_client.write_all(&whole[..end]).await?;
                if now == Mode::HangAfterHeaders {
                    drop(mode.clone().changed().await);
                }
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let mut mode_now = mode.clone();
    let refused = async {
        let all = |state: &(Mode, String)| state.0 == Mode::Refuse && line.contains(&state.1);
        drop(mode_now.wait_for(all).await);
    };
    tokio::select! {
        told = tell => told,
        asked = ask => asked,
        () = refused => Ok(()),
    }
}

/// Takes the host ports that the container of `POST /containers/ID/start` shall
/// have, as the engine knows them since it was created.
fn steal(line: &str, most: usize, stolen: &Stolen) {
    let id = line.split_once("/containers/").and_then(|(_, rest)| rest.split('/').next());
    let bindings = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}";
    let ports = docker(&["inspect", "-f", bindings, id.expect("a container's id")]);
    let mut stolen = stolen.lock().expect("no panic");
    for port in ports.split_whitespace().map(|port| port.parse::<u16>().expect("a port")) {
        if stolen.len() < most {
            stolen.extend(TcpListener::bind(("0.0.0.0", port)));
        }
    }
}

/// Passes each piece on a second after it came.
async fn delay(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let (send, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut piece = vec![0; 16 << 10];
        loop {
            let length = from.read(&mut piece).await?;
            let at = Instant::now() + Duration::from_secs(1);
            if length == 0 || send.send((at, piece[..length].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((at, piece)) = pieces.recv().await {
            tokio::time::sleep_until(at).await;
            to.write_all(&piece).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(drop)
}

/// The head of one request.
pub(crate) async fn head(client: &mut UnixStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Answers a request, and closes.
pub(crate) async fn answer(
    mut client: UnixStream,
    status: &str,
    body: &str,
) -> std::io::Result<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await
}

/// One request to the real engine without a body; its status.
pub(crate) async fn engine(method: &str, path: &str) -> u16 {
    let mut engine = UnixStream::connect(engine_socket()).await.expect("an engine");
    let text = format!("{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n");
    engine.write_all(text.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    engine.read_to_string(&mut answer).await.expect("an answer");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
