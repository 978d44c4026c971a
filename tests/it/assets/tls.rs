//! Sources behind TLS, with a certificate of an authority of the test's own.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use super::*;

/// TLS in front of a server that speaks none.
pub(crate) struct Secure {
    port: u16,
    dir: TempDir,
    task: JoinHandle<()>,
}

impl Secure {
    #[expect(clippy::disallowed_methods, reason = "the test owns the proxy")]
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let mut authority = CertificateParams::new(Vec::<String>::new()).expect("an authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = authority.self_signed(&key).expect("a certificate").pem();
        let authority = Issuer::new(authority, key);
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names).expect("names");
        let certificate = certificate.signed_by(&own, &authority).expect("a certificate");
        let key = PrivateKeyDer::try_from(own.serialize_der()).expect("a key");
        let ring = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that trusts nobody here leaves during the handshake.
                    let Ok(mut caller) = acceptor.accept(stream).await else { return };
                    let mut server = TcpStream::connect(server).await.expect("the server");
                    let _ = copy_bidirectional(&mut caller, &mut server).await;
                });
            }
        });
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ca.pem"), ca).expect("a file");
        Self { port, dir, task }
    }

    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.port)
    }

    /// A service that is told of the authority.
    pub(crate) async fn trusting(&self) -> Service {
        let file = self.dir.path().join("ca.pem").display().to_string();
        let told = vec![("SSL_CERT_FILE".to_owned(), file)];
        Service::program_in(told, lenient).await.synced().await
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_comes_over_https_from_whom_an_authority_that_is_trusted_vouches_for() {
    let source = Source::of(b"weights".to_vec(), "\"a\"").await;
    let secure = Secure::before(source.address).await;
    let service = secure.trusting().await;
    let name = unique("asset");
    // By name, which is resolved once, and by address.
    let assets = [
        asset("NAMED", &secure.url("localhost", "/named")),
        asset("NUMBERED", &secure.url("127.0.0.1", "/numbered")),
    ];
    run(&service, with(&service, &name, &assets)).await;
    assert_eq!(exec(&name, "cat $NAMED; echo; cat $NUMBERED"), "weights\nweights");
    assert_eq!(source.seen().len(), 2);

    // Without the authority, the certificate is nobody's.
    let stranger = super::service().await;
    let url = secure.url("localhost", "/named");
    let told = refused(&stranger, json!([{"envVarKey": "A", "url": url}])).await;
    assert!(told.contains("cannot be reached"), "{told}");
    assert_eq!(source.seen().len(), 2, "it was not even asked");
}
