//! Opens the connection to the service, over TCP or a Unix socket, with a token.

use std::{env, fs, net::IpAddr, path::PathBuf};

use container_svc_client::{Client, ConnectError};

use crate::config::default_data_dir;

use super::{ClientArgs, Failure};

/// An open connection to the service.
pub(super) type Session = Client;

/// Connects to the address of the flags, with their token.
pub(super) async fn open(args: &ClientArgs) -> Result<Session, Failure> {
    let mut client = Client::builder(&args.address);
    if let Some(token) = token(args)? {
        client = client.token(token);
    }
    client.connect().await.map_err(|why| match why {
        ConnectError::Address(..) => Failure::Usage(format!("--address {why}")),
        ConnectError::Token | ConnectError::Tls(_) => Failure::Usage(why.to_string()),
        ConnectError::Unreachable(..) => Failure::Unreachable(format!(
            "{why}\n  start it by `container-svc serve`, or say where it is by --address"
        )),
    })
}

/// The token of the flags, else of the file that they name, else, for a server on
/// this machine, of its own file where this user may read it.
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
    // That token opens everything here: no other machine is to get it.
    if !is_here(&args.address) {
        return Ok(None);
    }
    let env = |key: &str| env::var(key).ok().filter(|value| !value.is_empty());
    let dir = env("CONTAINER_SVC_DATA_DIR").map(PathBuf::from).or_else(|| default_data_dir(env));
    let text = dir.and_then(|dir| fs::read_to_string(dir.join("admin.token")).ok());
    Ok(text.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// True for an address of this machine alone.
fn is_here(address: &str) -> bool {
    let host = match address.split_once("://") {
        Some(("unix", _)) => return true,
        Some(("http" | "https" | "tcp", host)) => host,
        Some(_) => return false,
        None => address,
    };
    // Read as it is when the connection is made.
    let Ok(uri) = format!("http://{host}").parse::<http::Uri>() else { return false };
    match uri.host().unwrap_or_default() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, Status, transport::Server};

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
        let session = open(&args).await.unwrap();
        let answer = session.node().get_host(pb::GetHostRequest {}).await.unwrap();
        assert_eq!(answer.get_ref().host, "Bearer secret");
        let refused = session.node().get_node(pb::GetNodeRequest {}).await.unwrap_err();
        assert_eq!(Failure::from(refused).code(), 3);
        server.abort();
    }

    #[test]
    fn the_servers_own_token_is_for_this_machine_only() {
        let here = ["http://127.0.0.1:11337", "http://localhost:1", "https://[::1]:1"];
        let short = ["127.0.0.1:11337", "tcp://127.0.0.1:1", "unix:///run/container-svc.sock"];
        for address in here.into_iter().chain(short) {
            assert!(is_here(address), "{address}");
        }
        let other = ["http://192.0.2.1:11337", "https://host:1", "http://localhost.host:1", ""];
        for address in
            other.into_iter().chain(["127.0.0.1@host:1", "//127.0.0.1", "ftp://127.0.0.1"])
        {
            assert!(!is_here(address), "{address}");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_named_with_the_remedy() {
        let at = |address: &str| ClientArgs {
            address: address.to_owned(),
            token: Some("t".to_owned()),
            token_file: None,
            json: false,
        };
        let failure = open(&at("unix:///nowhere/s.sock")).await.err().unwrap();
        let said = failure.to_string();
        assert!(said.contains("unix:///nowhere/s.sock") && said.contains("serve"), "{said}");
        assert_eq!(failure.code(), 5);
        assert_eq!(open(&at("ftp://host")).await.err().unwrap().code(), 2);
    }
}
