//! A service of its own for each test, on a real engine, cleaned up afterwards.

use std::{
    future::Future,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use container_svc::{
    config::{Config, Listen, ServeArgs},
    rpc::pb::{self, container_service_client::ContainerServiceClient},
};
use futures_util::FutureExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Request, metadata::MetadataValue, transport::Channel};

/// How long a condition may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The image that tests run, made by `scripts/demo-image`.
pub fn image() -> &'static str {
    static IMAGE: OnceLock<&'static str> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let root = env!("CARGO_MANIFEST_DIR");
        let tag = "container-svc-test:1";
        let made = Command::new(format!("{root}/scripts/demo-image")).arg(tag).output();
        let made = made.expect("scripts/demo-image runs");
        assert!(
            made.status.success(),
            "no test image; does an engine run? try `make engine tools`: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        tag
    })
}

/// What the program logs in most tests.
const QUIET: &str = "error";

/// Runs the docker command against the engine of the tests.
pub fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).output().expect("the docker command");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("cst-{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for a condition, within the deadline.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl FnMut() -> F) {
    within(DEADLINE, what, holds).await;
}

/// The same for what may take longer, or must not take so long.
pub async fn within<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> F,
) {
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while !holds().await {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        ticks.tick().await;
    }
}

/// Host ports for one service. Tests run at once, in several processes too, and
/// on one engine: without this, one would choose what another counts on.
pub struct Ports {
    /// First and last.
    pub range: (u16, u16),
    /// The port before the first. The kernel lets one process hold it, and
    /// frees it when that ends, however it ends.
    _claim: TcpListener,
}

impl Ports {
    /// Above what a service chooses by default, below what the kernel gives out.
    const FIRST: u16 = 30_000;
    const SIZE: u16 = 20;
    const SLICES: u16 = 138;

    fn take() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = std::process::id().wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let from = u16::try_from(turn % u32::from(Self::SLICES)).expect("small");
        let bind = |port| TcpListener::bind(("0.0.0.0", port)).ok();
        let claim = |step| {
            let claim = Self::FIRST + (from + step) % Self::SLICES * Self::SIZE;
            let range = (claim + 1, claim + Self::SIZE - 1);
            let held = bind(claim)?;
            let free = (range.0..=range.1).all(|port| bind(port).is_some());
            free.then_some(Self { range, _claim: held })
        };
        (0..Self::SLICES).find_map(claim).expect("free host ports from 30000 on")
    }
}

/// A running service; what it made is removed when it is dropped.
pub struct Service {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// Its admin token.
    pub token: String,
    /// Its node id, which labels all that it makes.
    pub node: String,
    /// Host ports that it may choose, and no other test's service.
    pub ports: Ports,
    dir: Option<TempDir>,
    config: Config,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    /// Where it is the program and not a task of this one.
    program: bool,
    /// What the program finds in its environment.
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Service {
    /// Starts one on the engine of this machine.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts one with another configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut service = Self::prepare(change);
        service.resume().await;
        service
    }

    /// Starts the program itself, as a process that can be killed.
    pub async fn program(change: impl FnOnce(&mut Config)) -> Self {
        Self::program_in(Vec::new(), change).await
    }

    /// The same in an environment.
    pub async fn program_in(
        environment: Vec<(String, String)>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut service = Self::prepare(|config| {
            config.log = QUIET.into();
            change(config);
        });
        service.program = true;
        service.environment = environment;
        // The kernel gives this port to no connection while the program is down.
        let address = ([127, 0, 0, 1], service.ports.range.1).into();
        service.config.listen = vec![Listen::Tcp(address)];
        service.resume().await;
        service
    }

    fn prepare(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().to_string_lossy().into_owned();
        let node = unique("node");
        let env = |key: &str| match key {
            "CONTAINER_SVC_DATA_DIR" => Some(data.clone()),
            "CONTAINER_SVC_NODE_ID" | "CONTAINER_SVC_NETWORK" => Some(node.clone()),
            "DOCKER_HOST" => std::env::var("DOCKER_HOST").ok(),
            _ => None,
        };
        let mut config = Config::load(&ServeArgs::default(), env).expect("a valid configuration");
        config.listen = vec![Listen::Tcp(free_address())];
        let ports = Ports::take();
        config.port_range = ports.range;
        change(&mut config);
        Self {
            url: String::new(),
            token: String::new(),
            node,
            ports,
            dir: Some(dir),
            config,
            stop: None,
            task: None,
            program: false,
            environment: Vec::new(),
            process: None,
        }
    }

    /// Starts it again over the same data.
    pub async fn resume(&mut self) {
        self.launch();
        self.listens().await;
        let file = self.config.token_file.clone();
        eventually("the admin token is written", || async {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        })
        .await;
        self.token = std::fs::read_to_string(file).expect("the token").trim().to_owned();
    }

    /// The same without waiting for anything.
    #[expect(clippy::disallowed_methods, reason = "the test owns the server")]
    pub fn launch(&mut self) {
        let Some(Listen::Tcp(address)) = self.config.listen.first() else {
            panic!("tests listen on TCP first");
        };
        self.url = format!("http://{address}");
        if self.program {
            let file = self.config.data_dir.join("settings.toml");
            std::fs::create_dir_all(&self.config.data_dir).expect("a directory");
            std::fs::write(&file, self.config.describe()).expect("the settings are written");
            let mut program = Command::new(env!("CARGO_BIN_EXE_container-svc"));
            program.args(["serve", "--config"]).arg(file).env_clear().stdout(Stdio::null());
            program.envs(self.environment.iter().cloned());
            if self.config.log != QUIET {
                program.stderr(std::fs::File::create(self.log_file()).expect("a file"));
            }
            self.process = Some(program.spawn().expect("the program starts"));
            return;
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let config = self.config.clone();
        self.task = Some(tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) }.shared();
            let (begin, mut ticks) =
                (Instant::now(), tokio::time::interval(Duration::from_millis(20)));
            loop {
                ticks.tick().await;
                match container_svc::server::run(config.clone(), stopped.clone()).await {
                    // A program that some test starts just now has a copy of the lock of the
                    // service before, until it is another program.
                    Err(held) if held.reason() == "DATA_DIR_IN_USE" => {
                        assert!(begin.elapsed() < DEADLINE, "{held:?}");
                    }
                    done => return done.expect("the service runs"),
                }
            }
        }));
        self.stop = Some(stop);
    }

    /// What the program logs, where it is told to log more than errors.
    pub fn log_file(&self) -> std::path::PathBuf {
        self.config.data_dir.join("program.log")
    }

    /// Waits until it takes connections.
    pub async fn listens(&self) {
        eventually("the service listens", || async {
            tokio::net::TcpStream::connect(address_of(&self.url)).await.is_ok()
        })
        .await;
    }

    /// Kills the program with SIGKILL: at once, and with nothing finished.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it is the program, and it runs");
        process.kill().expect("killed");
        process.wait().expect("gone");
    }

    /// Most memory that the program ever held, in bytes.
    pub fn most_memory(&self) -> u64 {
        let pid = self.process.as_ref().expect("it is the program, and it runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// Waits until its view follows the engine.
    pub async fn synced(self) -> Self {
        eventually("the view follows the engine", || async {
            let (_, node) = self.get("/container-svc/node").await;
            node["node"]["engine"]["synced"] == true
        })
        .await;
        self
    }

    /// Why it does not start.
    pub async fn refusal(&self) -> container_svc::domain::Error {
        let run = container_svc::server::run(self.config.clone(), std::future::ready(()));
        tokio::time::timeout(DEADLINE, run).await.expect("in time").expect_err("it is refused")
    }

    /// The file of its log database.
    pub fn log_database(&self) -> std::path::PathBuf {
        self.config.log_database()
    }

    /// The folder of its asset cache.
    pub fn asset_folder(&self) -> std::path::PathBuf {
        self.config.asset_folder()
    }

    /// Stops it, as a signal does.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            tokio::time::timeout(DEADLINE, task).await.expect("in time").expect("no panic");
        }
    }

    /// A gRPC client with the admin token.
    pub async fn grpc(
        &self,
    ) -> ContainerServiceClient<
        tonic::service::interceptor::InterceptedService<
            Channel,
            impl tonic::service::Interceptor + Clone + use<>,
        >,
    > {
        let bearer: MetadataValue<_> = format!("Bearer {}", self.token).parse().expect("ascii");
        let channel = Channel::from_shared(self.url.clone()).expect("a url").connect().await;
        ContainerServiceClient::with_interceptor(
            channel.expect("it listens"),
            move |mut request: Request<()>| {
                request.metadata_mut().insert("authorization", bearer.clone());
                Ok(request)
            },
        )
    }

    /// A request of the test image under a name.
    pub fn request(&self, name: &str) -> pb::RunContainerRequest {
        pb::RunContainerRequest {
            image: image().to_owned(),
            names: vec![name.to_owned()],
            command: vec!["sleep".into(), "1000".into()],
            labels: vec![pb::Label { key: "container-svc-test".into(), value: self.node.clone() }],
            ..Default::default()
        }
    }

    /// GET, with the admin token.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.rest("GET", path, "").await
    }

    /// Any method, with the admin token.
    pub async fn rest(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, body, &[]).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// By curl, a client that is not ours; with further arguments.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        body: &str,
        more: &[&str],
    ) -> (u16, String, String) {
        let bearer = format!("Authorization: Bearer {}", self.token);
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-s", "-i", "--max-time", "120", "-X", method, "-H", &bearer])
            .kill_on_drop(true);
        if !body.is_empty() {
            curl.args(["-d", body]);
        }
        let out = curl.args(more).arg(format!("{}{path}", self.url)).output().await.expect("curl");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, head.to_lowercase(), body.to_owned())
    }

    /// Ids of the containers that it made, as the engine tells.
    pub fn made(&self) -> Vec<String> {
        let label = format!("label=container-svc.node={}", self.node);
        let ids = docker(&["ps", "-aq", "--no-trunc", "--filter", &label]);
        ids.lines().map(str::to_owned).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.process.is_some() {
            self.kill();
        }
        let made = self.made();
        if !made.is_empty() {
            let mut args = vec!["rm", "-f"];
            args.extend(made.iter().map(String::as_str));
            docker(&args);
        }
        docker(&["network", "rm", &self.node]);
        drop(self.dir.take());
    }
}

fn address_of(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// A loopback address that no other test process has: what a stranger asks at the usual
/// one does not come there.
pub fn own_loopback() -> std::net::Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    std::net::Ipv4Addr::new(127, 128 | high, middle, low)
}

/// A port that was free a moment ago.
pub fn free_address() -> std::net::SocketAddr {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    probe.local_addr().expect("an address")
}
