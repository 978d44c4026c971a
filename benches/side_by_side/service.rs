//! The service in this process, as `container-svc serve` runs it.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use container_svc::{
    config::{Config, Listen, ServeArgs},
    rpc::pb::{self, container_service_client::ContainerServiceClient},
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{Failure, assets, engine};

/// How long the service may take to know something.
const DEADLINE: Duration = Duration::from_secs(60);

/// Adds the admin token to every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// Reads the token that a service made for itself.
    pub(crate) fn read(token_file: &Path) -> Result<Self, Failure> {
        let token = std::fs::read_to_string(token_file)?;
        Ok(Self(format!("Bearer {}", token.trim()).parse()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A client of the service.
pub(crate) type Client = ContainerServiceClient<InterceptedService<Channel, Bearer>>;

/// A running service; what it made is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    /// By gRPC, with the admin token.
    pub(crate) client: Client,
    /// The network that its containers join; its node id too.
    pub(crate) network: String,
    image: String,
    url: String,
    token: String,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    _dir: TempDir,
}

impl Service {
    /// Starts it and waits until it follows the engine.
    #[expect(clippy::disallowed_methods, reason = "the benchmark owns the server")]
    pub(crate) async fn start(image: &str) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().to_string_lossy().into_owned();
        let network = format!("csb-{}", std::process::id());
        let mut config = Config::load(&ServeArgs::default(), |key| match key {
            "CONTAINER_SVC_DATA_DIR" => Some(data.clone()),
            "CONTAINER_SVC_NODE_ID" | "CONTAINER_SVC_NETWORK" => Some(network.clone()),
            key => {
                let from_here = assets::FROM_HERE.into_iter().find(|(name, _)| *name == key);
                from_here.map(|(_, value)| value.to_owned())
            }
        })?;
        let address = free_address()?;
        config.listen = vec![Listen::Tcp(address)];
        let token_file = config.token_file.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        drop(tokio::spawn(container_svc::server::run(config, async move { drop(stopped.await) })));

        let url = format!("http://{address}");
        let channel = eventually("the service listens", || async {
            Channel::from_shared(url.clone()).ok()?.connect().await.ok()
        })
        .await?;
        let token = eventually("the token is written", || async {
            let text = std::fs::read_to_string(&token_file).ok()?;
            text.ends_with('\n').then(|| text.trim().to_owned())
        })
        .await?;
        let bearer = Bearer::read(&token_file)?;
        let service = Self {
            client: ContainerServiceClient::with_interceptor(channel, bearer),
            network,
            image: image.to_owned(),
            url,
            token,
            http: reqwest::Client::builder().no_proxy().build()?,
            stop: Some(stop),
            _dir: dir,
        };
        eventually("the view follows the engine", || async {
            let node = service.rest("GET", "/container-svc/node").await.ok()?;
            let node: serde_json::Value = serde_json::from_slice(&node).ok()?;
            (node["node"]["engine"]["synced"] == true).then_some(())
        })
        .await?;
        Ok(service)
    }

    /// A request to run a container under a name.
    pub(crate) fn request(&self, name: &str) -> pb::RunContainerRequest {
        pb::RunContainerRequest {
            image: self.image.clone(),
            names: vec![name.to_owned()],
            command: vec!["sleep".into(), "1000".into()],
            ..Default::default()
        }
    }

    /// Waits until it lists so many containers or more.
    pub(crate) async fn knows(&self, count: usize) -> Result<(), Failure> {
        eventually("the view has all containers", || async {
            let mut client = self.client.clone();
            let all = client.list_containers(pb::ListContainersRequest::default());
            (all.await.ok()?.into_inner().containers.len() >= count).then_some(())
        })
        .await
    }

    /// The whole list by REST; its size in bytes.
    pub(crate) async fn list(&self) -> Result<usize, Failure> {
        Ok(self.rest("POST", "/container-svc/containers").await?.len())
    }

    async fn rest(&self, method: &str, path: &str) -> Result<Vec<u8>, Failure> {
        let url = format!("{}{path}", self.url);
        let request =
            if method == "POST" { self.http.post(url).body("{}") } else { self.http.get(url) };
        let answer = request.bearer_auth(&self.token).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.into())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        engine::remove(&engine::labelled(&format!("container-svc.node={}", self.network)));
        engine::docker(&["network", "rm", &self.network]);
        let label = format!("label=container-svc.node={}", self.network);
        for volume in engine::docker(&["volume", "ls", "-q", "--filter", &label]).lines() {
            engine::docker(&["volume", "rm", "-f", volume]);
        }
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, Failure> {
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while begin.elapsed() < DEADLINE {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
    }
    Err(format!("not within {DEADLINE:?}: {what}").into())
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
