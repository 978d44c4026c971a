//! What a client's own tests need: a live server, a registry, tokens, TLS.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use container_svc::config::Config;

use crate::{
    registry::Registry,
    support::{Service, image, unique},
};

/// The top of the repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How long the tests of one client may take.
const LIMIT: Duration = Duration::from_secs(300);

/// All of it, for one client.
pub struct Stage {
    /// The server.
    pub service: Service,
    /// What names of containers begin with.
    pub name: String,
    viewer: String,
    pull: String,
    dir: TempDir,
    tls: Tls,
    _registry: Registry,
}

impl Stage {
    /// Sets it for a client of this language.
    pub async fn set(language: &str) -> Self {
        let (dir, registry) = (folder(), Registry::start(false).await);
        let root = dir.path().to_path_buf();
        let roots = |config: &mut Config| {
            config.build_roots = vec![root.clone()];
            config.asset_file_roots = vec![root];
        };
        let service = Service::with(roots).await.synced().await;
        let body = r#"{"name":"viewer","grantSet":"viewer"}"#;
        let (status, made) = service.rest("POST", "/container-svc/token", body).await;
        assert_eq!(status, 200, "{made}");
        let viewer = made["secret"].as_str().expect("a token").to_owned();
        let tls = Tls::before(service.url.trim_start_matches("http://").to_owned()).await;
        std::fs::write(dir.path().join("ca.pem"), &tls.certificate).expect("a file");
        let name = format!("{}-", unique(language));
        let pull = registry.push(&format!("contract-{language}"));
        Self { service, name, viewer, pull, dir, tls, _registry: registry }
    }

    /// Tells a command where everything is.
    pub fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs([
            ("CONTRACT_ADDRESS", &self.service.url),
            ("CONTRACT_TOKEN", &self.service.token),
            ("CONTRACT_VIEWER", &self.viewer),
            ("CONTRACT_IMAGE", &image().to_owned()),
            ("CONTRACT_NAME", &self.name),
            ("CONTRACT_BUILD", &self.build().display().to_string()),
            ("CONTRACT_GOOD_BUILD", &self.good_build().display().to_string()),
            ("CONTRACT_ASSET", &format!("file://{}", self.dir.path().join("model").display())),
            ("CONTRACT_PULL", &self.pull),
            ("CONTRACT_TLS", &self.tls.url),
            ("CONTRACT_CA", &self.ca().display().to_string()),
        ])
    }

    /// A folder whose build fails at its third step, with exit code 7.
    pub fn build(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// A folder that builds.
    pub fn good_build(&self) -> PathBuf {
        self.dir.path().join("good")
    }

    /// The authority to trust.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// An image that only the registry has.
    pub fn pull(&self) -> &str {
        &self.pull
    }

    /// The token of a viewer.
    pub fn viewer(&self) -> &str {
        &self.viewer
    }

    /// The same server behind TLS.
    pub fn tls(&self) -> &str {
        &self.tls.url
    }
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!("FROM {}\nWORKDIR /a\nRUN echo about to fail && exit 7\n", image());
    std::fs::write(dir.path().join("Dockerfile"), text).expect("a file");
    std::fs::create_dir(dir.path().join("good")).expect("a folder");
    let text = format!("FROM {}\nLABEL good=1\n", image());
    std::fs::write(dir.path().join("good/Dockerfile"), text).expect("a file");
    std::fs::write(dir.path().join("model"), "weights").expect("a file");
    dir
}

/// Runs a command to its end, for what it printed; all is shown when it fails.
pub async fn succeeds(command: &mut Command) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let out = tokio::time::timeout(LIMIT, command.output()).await;
    let out = out.expect("it ends in time").expect("it begins");
    assert!(
        out.status.success(),
        "{:?}: {}\n{}\n{}",
        command.as_std(),
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// TLS in front of a server that speaks none, as a proxy does it.
struct Tls {
    url: String,
    certificate: String,
    task: JoinHandle<()>,
}

impl Tls {
    #[expect(clippy::disallowed_methods, reason = "the test owns the proxy")]
    async fn before(server: String) -> Self {
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a key");
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let ring = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                tokio::spawn(async move {
                    // A client that trusts nobody here leaves during the handshake.
                    let Ok(mut caller) = acceptor.accept(stream).await else { return };
                    let mut server = TcpStream::connect(server).await.expect("the server");
                    let _ = copy_bidirectional(&mut caller, &mut server).await;
                });
            }
        });
        Self { url, certificate: own.cert.pem(), task }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes sure that our client for Node and browsers is compiled, once.
pub async fn built() {
    static BUILT: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    BUILT
        .get_or_init(|| async {
            let mut tsc = Command::new("node_modules/.bin/tsc");
            succeeds(tsc.current_dir(format!("{ROOT}/clients/typescript"))).await;
        })
        .await;
}
