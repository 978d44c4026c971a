//! Opens the connection to the service, over TCP or a Unix socket, with a token.

use std::{env, error::Error, fs, io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    config::default_data_dir,
    rpc::pb::{
        build_service_client::BuildServiceClient, container_service_client::ContainerServiceClient,
        event_service_client::EventServiceClient, gpu_service_client::GpuServiceClient,
        image_service_client::ImageServiceClient, keep_service_client::KeepServiceClient,
        log_service_client::LogServiceClient, node_service_client::NodeServiceClient,
        token_service_client::TokenServiceClient,
    },
};

use super::{ClientArgs, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of lines ends after 4 MiB of text; its last line may have 1 MiB more, and
/// what is no text comes twice.
const LARGEST_PAGE: usize = 16 << 20;

/// A connection that sends the token with every call.
pub(super) type Wire = InterceptedService<Channel, Bearer>;

/// An open connection to the service.
#[derive(Clone)]
pub(super) struct Session {
    channel: Channel,
    bearer: Bearer,
}

/// Puts the token into the Authorization header.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Session {
    /// Connects to the address of the flags, with their token.
    pub(super) async fn open(args: &ClientArgs) -> Result<Self, Failure> {
        let bearer = Bearer::new(token(args)?)?;
        let channel = connect(&args.address).await?;
        Ok(Self { channel, bearer })
    }

    /// The client for containers.
    pub(super) fn containers(&self) -> ContainerServiceClient<Wire> {
        ContainerServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for events.
    pub(super) fn events(&self) -> EventServiceClient<Wire> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for GPUs.
    pub(super) fn gpus(&self) -> GpuServiceClient<Wire> {
        GpuServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for builds.
    pub(super) fn builds(&self) -> BuildServiceClient<Wire> {
        BuildServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for images.
    pub(super) fn images(&self) -> ImageServiceClient<Wire> {
        ImageServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for keeps.
    pub(super) fn keeps(&self) -> KeepServiceClient<Wire> {
        KeepServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for logs.
    pub(super) fn logs(&self) -> LogServiceClient<Wire> {
        LogServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(LARGEST_PAGE)
    }

    /// The client for the node.
    pub(super) fn node(&self) -> NodeServiceClient<Wire> {
        NodeServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The client for tokens.
    pub(super) fn tokens(&self) -> TokenServiceClient<Wire> {
        TokenServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }
}

impl Bearer {
    fn new(token: Option<String>) -> Result<Self, Failure> {
        let Some(token) = token else {
            return Ok(Self(None));
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| {
            Failure::Usage("the token has characters that a header cannot carry".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

async fn connect(address: &str) -> Result<Channel, Failure> {
    let wrong = |why: &str| {
        Failure::Usage(format!(
            "--address {address:?} {why}; write http://host:port or unix:///path"
        ))
    };
    let unreachable = |why: &dyn Error| {
        let mut text = format!("cannot reach container-svc at {address}: {why}");
        let mut cause = why.source();
        while let Some(error) = cause {
            // Transports repeat what their cause says.
            let said = error.to_string();
            if !text.ends_with(&said) {
                text.push_str(&format!(": {said}"));
            }
            cause = error.source();
        }
        text.push_str("\n  start it by `container-svc serve`, or say where it is by --address");
        Failure::Unreachable(text)
    };
    let endpoint = |uri: String| {
        let endpoint = Endpoint::from_shared(uri).map_err(|_| wrong("is not an address"))?;
        Ok::<_, Failure>(endpoint.connect_timeout(CONNECT_TIMEOUT))
    };
    if let Some(path) = address.strip_prefix("unix://") {
        let path = PathBuf::from(path);
        // The URI only fills the Host header; the connector knows the socket.
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let endpoint = endpoint("http://localhost".to_owned())?;
        return endpoint.connect_with_connector(connector).await.map_err(|why| unreachable(&why));
    }
    let uri = match address.split_once("://") {
        Some(("http", _)) => address.to_owned(),
        Some(("tcp", host)) => format!("http://{host}"),
        Some(("https", _)) => return Err(wrong("asks for TLS, which this client does not speak")),
        Some(_) => return Err(wrong("has an unknown scheme")),
        None => format!("http://{address}"),
    };
    endpoint(uri)?.connect().await.map_err(|why| unreachable(&why))
}

/// The token of the flags, else of the file that they name, else of the server's
/// own file where this user may read it.
fn token(args: &ClientArgs) -> Result<Option<String>, Failure> {
    if let Some(token) = args.token.as_deref().map(str::trim).filter(|token| !token.is_empty()) {
        return Ok(Some(token.to_owned()));
    }
    if let Some(path) = &args.token_file {
        let text = fs::read_to_string(path).map_err(|why| {
            Failure::Usage(format!("cannot read --token-file {}: {why}", path.display()))
        })?;
        return match text.trim() {
            "" => Err(Failure::Usage(format!("--token-file {} is empty", path.display()))),
            token => Ok(Some(token.to_owned())),
        };
    }
    let env = |key: &str| env::var(key).ok().filter(|value| !value.is_empty());
    let dir = env("CONTAINER_SVC_DATA_DIR").map(PathBuf::from).or_else(|| default_data_dir(env));
    let text = dir.and_then(|dir| fs::read_to_string(dir.join("admin.token")).ok());
    Ok(text.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty()))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Response, transport::Server};

    use crate::rpc::pb::{self, node_service_server::NodeServiceServer};

    use super::*;

    /// Answers with the Authorization header that it got.
    struct Echo;

    #[tonic::async_trait]
    impl pb::node_service_server::NodeService for Echo {
        async fn get_daemon_info(
            &self,
            _: Request<pb::GetDaemonInfoRequest>,
        ) -> Result<Response<pb::GetDaemonInfoResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn get_host(
            &self,
            request: Request<pb::GetHostRequest>,
        ) -> Result<Response<pb::GetHostResponse>, Status> {
            let header = request.metadata().get("authorization");
            let host = header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            Ok(Response::new(pb::GetHostResponse { host }))
        }

        async fn get_node(
            &self,
            _: Request<pb::GetNodeRequest>,
        ) -> Result<Response<pb::GetNodeResponse>, Status> {
            Err(Status::not_found("no"))
        }
    }

    #[tokio::test]
    async fn a_token_from_a_file_goes_over_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let token_file = dir.path().join("token");
        fs::write(&token_file, "secret\n").unwrap();
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let server = Server::builder().add_service(NodeServiceServer::new(Echo));
        #[expect(clippy::disallowed_methods, reason = "the test ends it")]
        let server = tokio::spawn(server.serve_with_incoming(incoming));
        let args = ClientArgs {
            address: format!("unix://{}", socket.display()),
            token: None,
            token_file: Some(token_file),
            json: false,
        };
        let session = Session::open(&args).await.unwrap();
        let answer = session.node().get_host(pb::GetHostRequest {}).await.unwrap();
        assert_eq!(answer.get_ref().host, "Bearer secret");
        let refused = session.node().get_node(pb::GetNodeRequest {}).await.unwrap_err();
        assert_eq!(Failure::from(refused).code(), 3);
        server.abort();
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_named_with_the_remedy() {
        let failure = connect("unix:///nowhere/s.sock").await.unwrap_err();
        let said = failure.to_string();
        assert!(said.contains("unix:///nowhere/s.sock") && said.contains("serve"), "{said}");
        assert_eq!(failure.code(), 5);
        assert_eq!(connect("https://host").await.unwrap_err().code(), 2);
    }
}
