//! Asks a registry, by the OCI distribution protocol, whether an image can be pulled.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{
    Client, Method, Response, Url,
    header::{ACCEPT, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};

use super::{
    challenge,
    docker_config::{Credential, DockerConfig},
    guard,
    http::{self, Rules},
    token,
};
use crate::domain::{Error, Result, image::ImageRef};

/// Without these a registry may answer 404 for what it has in another form.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How registries are asked.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Registries, as `host` or `host:port`, that may be asked by plain http when https
    /// cannot connect. Those on loopback need no entry.
    pub insecure: Vec<String>,
    /// The Docker config file with credentials; `None` is where the Docker client has it.
    pub docker_config: Option<PathBuf>,
    /// How long one question may take, all of its requests together.
    pub timeout: Duration,
}

/// The registries of this world. Clones share one HTTP client.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Client,
    insecure: Arc<[String]>,
    config: DockerConfig,
    /// In place of what the Docker config file has.
    given: Option<Credential>,
    timeout: Duration,
}

impl Registry {
    /// Opens the HTTP client; nothing is asked yet.
    pub fn new(settings: RegistrySettings) -> Result<Self> {
        Ok(Self {
            client: http::client(settings.timeout)?,
            insecure: settings.insecure.into(),
            config: DockerConfig { file: settings.docker_config, helpers: None },
            given: None,
            timeout: settings.timeout,
        })
    }

    /// True when the registry has the image and lets us, with our credentials, pull it.
    ///
    /// Fails with UNAVAILABLE where the registry does not say, RESOURCE_EXHAUSTED where it
    /// limits us, FAILED_PRECONDITION for a broken Docker config file or a refused address.
    pub async fn pullable(&self, image: &ImageRef) -> Result<bool> {
        let rules = self.rules(image, false);
        match tokio::time::timeout(self.timeout, Box::pin(self.ask(image))).await {
            Ok(answer) => answer,
            Err(_) => Err(rules.late()),
        }
    }

    /// How long a registry that limits us wants us to wait, when it says so: the engine
    /// keeps that to itself. Nothing, and no wait, where it does not limit us any more.
    pub async fn wait_asked_by(&self, image: &ImageRef) -> Option<Duration> {
        match self.pullable(image).await {
            Ok(_) => Some(Duration::from_secs(1)),
            Err(error) if error.reason() == http::RATE_LIMIT => {
                let wait = error.metadata().get(http::WAIT)?.parse().ok()?;
                Some(Duration::from_secs(wait))
            }
            Err(_) => None,
        }
    }

    /// The same, asked with this credential in place of that of the node.
    pub fn with(&self, given: Option<Credential>) -> Self {
        Self { given, ..self.clone() }
    }

    /// Waits until the registry says anything at all of the image, or cannot be reached.
    pub async fn speaks(&self, image: &ImageRef) {
        let mute =
            |told: &Result<bool>| told.as_ref().is_err_and(|error| error.reason() == http::TIMEOUT);
        while mute(&self.pullable(image).await) {}
    }

    /// What the engine should send with a pull; `None` is anonymous.
    pub async fn credential_for(&self, image: &ImageRef) -> Result<Option<Credential>> {
        if let Some(given) = &self.given {
            return Ok(Some(given.clone()));
        }
        self.config.credential(image.registry()).await
    }

    pub(super) fn rules(&self, image: &ImageRef, plain: bool) -> Rules {
        let local = manifest_url("http", image)
            .is_ok_and(|url| guard::is_loopback(url.host_str().unwrap_or_default()));
        Rules { registry: image.registry().to_owned(), plain, local }
    }

    /// How long one question may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How the registry is reached; each further way only when the one before it
    /// cannot connect.
    pub(super) fn schemes(&self, image: &ImageRef) -> &'static [&'static str] {
        if self.rules(image, false).local {
            return &["http"];
        }
        match self.insecure.iter().any(|one| one.eq_ignore_ascii_case(image.registry())) {
            true => &["https", "http"],
            false => &["https"],
        }
    }

    async fn ask(&self, image: &ImageRef) -> Result<bool> {
        let mut answer = Ok(false);
        for scheme in self.schemes(image) {
            answer = self.ask_by(scheme, image).await;
            if !matches!(&answer, Err(error) if error.reason() == http::UNREACHABLE) {
                break;
            }
        }
        answer
    }

    async fn ask_by(&self, scheme: &str, image: &ImageRef) -> Result<bool> {
        let url = manifest_url(scheme, image)?;
        let rules = self.rules(image, scheme == "http");
        let first = self.manifest(&rules, &url, None).await?;
        // Another host's challenge, after a redirect, is not for our credentials.
        if first.status().as_u16() != 401 || !http::same_origin(first.url(), &url) {
            return verdict(&rules, &first);
        }
        match self.authorization(&rules, image, &first).await? {
            None => Ok(false),
            some => verdict(&rules, &self.manifest(&rules, &url, some).await?),
        }
    }

    /// What a challenge wants of us; `None` when the registry wants nothing of ours.
    async fn authorization(
        &self,
        rules: &Rules,
        image: &ImageRef,
        challenge: &Response,
    ) -> Result<Option<HeaderValue>> {
        let headers = challenge.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            headers.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let credential = self.credential_for(image).await?;
        let repository = image.repository();
        token::authorize(&self.client, rules, &challenges, repository, credential.as_ref()).await
    }

    /// A plain question about an image, with our credentials where they are wanted;
    /// the answer may still be a refusal.
    pub(super) async fn get(
        &self,
        rules: &Rules,
        image: &ImageRef,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response> {
        let get = |authorization| {
            http::follow(&self.client, rules, Method::GET, url, headers.clone(), authorization)
        };
        let first = get(None).await?;
        if first.status().as_u16() != 401 || !http::same_origin(first.url(), url) {
            return Ok(first);
        }
        match self.authorization(rules, image, &first).await? {
            None => Ok(first),
            some => get(some).await,
        }
    }

    async fn manifest(
        &self,
        rules: &Rules,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<Response> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))]);
        // HEAD does not count against docker.io's pull limit; GET is for who lacks it.
        let head = http::follow(
            &self.client,
            rules,
            Method::HEAD,
            url,
            headers.clone(),
            authorization.clone(),
        );
        let answer = head.await?;
        if answer.status().as_u16() != 405 {
            return Ok(answer);
        }
        http::follow(&self.client, rules, Method::GET, url, headers, authorization).await
    }
}

fn verdict(rules: &Rules, answer: &Response) -> Result<bool> {
    match answer.status().as_u16() {
        200..=299 => Ok(true),
        401 | 403 | 404 => Ok(false),
        _ => Err(rules.unusable(answer)),
    }
}

fn manifest_url(scheme: &str, image: &ImageRef) -> Result<Url> {
    let (host, path) = (image.registry_host(), image.repository());
    Url::parse(&format!("{scheme}://{host}/v2/{path}/manifests/{}", image.reference())).map_err(
        |cause| {
            let host = image.registry();
            Error::field("image", format!("has the registry {host:?}, which is no host name"))
                .because(cause)
        },
    )
}
