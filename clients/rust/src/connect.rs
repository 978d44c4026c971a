//! Opens the connection, over TCP, TLS or a Unix socket.

use std::{error::Error, fmt, io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{Bearer, Client, Retry};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client needs to know before it connects.
#[derive(Clone)]
pub struct Builder {
    address: String,
    token: Option<String>,
    ca: Option<Vec<u8>>,
    retries: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The address is none; it, and why.
    Address(String, &'static str),
    /// The token has characters that a header cannot carry.
    Token,
    /// The authorities are no certificates in PEM form, or TLS cannot be set up.
    Tls(tonic::transport::Error),
    /// Nobody answers at the address.
    Unreachable(String, tonic::transport::Error),
}

impl Builder {
    pub(crate) fn new(address: String) -> Self {
        Self { address, token: None, ca: None, retries: true }
    }

    /// Sends this token with every call.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Trusts these authorities, in PEM form, in place of the system's.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Sends each call once, also one that may be repeated.
    #[must_use]
    pub fn without_retries(mut self) -> Self {
        self.retries = false;
        self
    }

    /// Connects.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let bearer = self.token.as_deref().map(Bearer::new).transpose()?.unwrap_or_default();
        let retries = self.retries;
        let channel = Retry::new(self.channel().await?, retries);
        Ok(Client { channel, bearer })
    }

    async fn channel(self) -> Result<Channel, ConnectError> {
        let wrong = |why| ConnectError::Address(self.address.clone(), why);
        let endpoint = |uri: String| {
            let endpoint = Endpoint::from_shared(uri).map_err(|_| wrong("is not an address"))?;
            Ok::<_, ConnectError>(endpoint.connect_timeout(CONNECT_TIMEOUT))
        };
        let unreachable = |why| ConnectError::Unreachable(self.address.clone(), why);
        if let Some(path) = self.address.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            // The URI only fills the Host header; the connector knows the socket.
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            let endpoint = endpoint("http://localhost".to_owned())?;
            return endpoint.connect_with_connector(connector).await.map_err(unreachable);
        }
        let endpoint = match self.address.split_once("://") {
            Some(("http", _)) => endpoint(self.address.clone())?,
            Some(("tcp", host)) => endpoint(format!("http://{host}"))?,
            Some(("https", _)) => self.secure(endpoint(self.address.clone())?)?,
            Some(_) => return Err(wrong("has an unknown scheme")),
            None => endpoint(format!("http://{}", self.address))?,
        };
        endpoint.connect().await.map_err(unreachable)
    }

    #[cfg(feature = "tls")]
    fn secure(&self, endpoint: Endpoint) -> Result<Endpoint, ConnectError> {
        use tonic::transport::{Certificate, ClientTlsConfig};

        let tls = match &self.ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint.tls_config(tls).map_err(ConnectError::Tls)
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self, _: Endpoint) -> Result<Endpoint, ConnectError> {
        Err(ConnectError::Address(self.address.clone(), "asks for TLS, which is not built in"))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is nobody's business.
        f.debug_struct("Builder").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, why) => write!(
                f,
                "{address:?} {why}; write http://host:port, https://host:port or unix:///path"
            ),
            Self::Token => f.write_str("the token has characters that a header cannot carry"),
            Self::Tls(why) => causes(f, "TLS cannot be set up".to_owned(), why),
            Self::Unreachable(address, why) => {
                causes(f, format!("cannot reach container-svc at {address}"), why)
            }
        }
    }
}

fn causes(f: &mut fmt::Formatter<'_>, mut text: String, why: &dyn Error) -> fmt::Result {
    let mut cause = Some(why);
    while let Some(error) = cause {
        // Transports repeat what their cause says.
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(&format!(": {said}"));
        }
        cause = error.source();
    }
    f.write_str(&text)
}

impl Error for ConnectError {}
