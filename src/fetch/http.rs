//! One HTTP client for all questions, and a request that follows redirects safely.

use std::{error::Error as StdError, time::Duration};

use reqwest::{
    Client, Method, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};

use super::guard;
use crate::domain::{Error, Kind, Result};

/// Reason of an error for a connection that could not be made.
pub(super) const UNREACHABLE: &str = "REGISTRY_UNREACHABLE";
/// Reason of an error for a registry that took a request and said nothing.
pub(super) const TIMEOUT: &str = "REGISTRY_TIMEOUT";
/// Reason of an error for a registry that takes no more requests, and the seconds that it
/// asks to wait among its facts.
pub(super) const RATE_LIMIT: &str = "REGISTRY_RATE_LIMIT";
pub(super) const WAIT: &str = "retryAfter";
const REDIRECTS_MAX: usize = 3;

/// The client that all questions share. `timeout` bounds one request.
pub(super) fn client(timeout: Duration) -> Result<Client> {
    // Another part of the process may have installed one already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("container-svc/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(guard::GuardedResolver)
        .redirect(Policy::none())
        .connect_timeout(timeout / 3)
        .timeout(timeout)
        .build()
        .map_err(|cause| {
            let advice = "The HTTPS client cannot start: install the ca-certificates package.";
            Error::precondition("HTTP_CLIENT", advice).because(cause)
        })
}

/// Where the requests about one registry may go.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Registry as the image names it, for messages.
    pub(super) registry: String,
    /// True where the registry itself is asked by plain http.
    pub(super) plain: bool,
    /// True where the registry is this machine.
    pub(super) local: bool,
}

impl Rules {
    /// Refuses a URL that a registry must not send us to.
    pub(super) fn check(&self, url: &Url) -> Result<()> {
        let host = url.host_str().unwrap_or_default();
        let why = if guard::literal(host).is_some_and(guard::is_refused) {
            "is a link-local, metadata or unspecified address"
        } else if guard::is_loopback(host) && !self.local && !self.plain {
            "is this machine, and the registry is not"
        } else if url.scheme() != "https" && !(self.plain && url.scheme() == "http") {
            "is not https"
        } else if !url.username().is_empty() || url.password().is_some() {
            "carries a user name"
        } else {
            return Ok(());
        };
        let registry = &self.registry;
        Err(self.refused(format!("Registry {registry} leads to {host:?}, which {why}: refused.")))
    }

    /// The registry, or what it sends us to, said nothing in time.
    pub(super) fn late(&self) -> Error {
        let told = format!("Registry {} did not answer in time: try again later.", self.registry);
        Error::new(Kind::Unavailable, TIMEOUT, told).with("registry", &self.registry)
    }

    /// The registry cannot be asked now.
    pub(super) fn unavailable(&self, what: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            "REGISTRY_UNAVAILABLE",
            format!("Registry {} {what}: try again later.", self.registry),
        )
        .with("registry", &self.registry)
    }

    fn refused(&self, message: String) -> Error {
        Error::precondition("REGISTRY_TARGET_REFUSED", message).with("registry", &self.registry)
    }

    /// What stopped a request, without its URL, which may be signed.
    pub(super) fn failed(&self, cause: reqwest::Error) -> Error {
        let registry = &self.registry;
        let cause = cause.without_url();
        let mut link: Option<&(dyn StdError + 'static)> = Some(&cause);
        while let Some(error) = link {
            if error.is::<guard::Refused>() {
                return self.refused(format!("Registry {registry} is refused: {error}."));
            }
            link = error.source();
        }
        if cause.is_timeout() && !cause.is_connect() {
            return self.late().because(cause);
        }
        let (reason, what) = if cause.is_connect() {
            (UNREACHABLE, "cannot be reached: check its name, the network and its certificate")
        } else {
            ("REGISTRY_UNAVAILABLE", "broke the connection: try again later")
        };
        Error::new(Kind::Unavailable, reason, format!("Registry {registry} {what}."))
            .with("registry", registry)
            .because(cause)
    }

    /// The answers that say nothing about the image: too many requests, and server errors.
    pub(super) fn unusable(&self, answer: &Response) -> Error {
        let status = answer.status();
        if status.as_u16() != 429 {
            return self.unavailable(&format!("answered {status}"));
        }
        let asked = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = match asked.filter(|wait| wait.len() <= 64) {
            Some(wait) if wait.bytes().all(|b| b.is_ascii_digit()) => {
                format!("retry after {wait} seconds")
            }
            Some(wait) => format!("retry after {wait}"),
            None => "retry later".to_owned(),
        };
        let message = format!("Registry {} limits our requests: {wait}.", self.registry);
        let error = Error::new(Kind::ResourceExhausted, "REGISTRY_RATE_LIMIT", message)
            .with("registry", &self.registry);
        match asked.and_then(seconds) {
            Some(seconds) => error.with(WAIT, seconds.to_string()),
            None => error,
        }
    }
}

/// The seconds that `Retry-After` asks for, by their number or by a time.
fn seconds(asked: &str) -> Option<u64> {
    if let Ok(seconds) = asked.trim().parse() {
        return Some(seconds);
    }
    let until = jiff::fmt::rfc2822::parse(asked.trim()).ok()?.timestamp();
    let wait = until.duration_since(jiff::Timestamp::now());
    Some(u64::try_from(wait.as_secs()).unwrap_or(0))
}

/// Sends a request without a body, follows at most three redirects, checks each target, and
/// gives `Authorization` to the first origin only.
pub(super) async fn follow(
    client: &Client,
    rules: &Rules,
    method: Method,
    first: &Url,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
) -> Result<Response> {
    let mut url = first.clone();
    for _ in 0..=REDIRECTS_MAX {
        rules.check(&url)?;
        let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(value) = authorization.as_ref().filter(|_| same_origin(&url, first)) {
            request = request.header(AUTHORIZATION, value);
        }
        let answer = request.send().await.map_err(|cause| rules.failed(cause))?;
        if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(answer);
        }
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        url = location
            .and_then(|location| url.join(location).ok())
            .ok_or_else(|| rules.unavailable("sent a redirect without a usable address"))?;
    }
    Err(rules.unavailable("redirected more than 3 times"))
}

/// True where a secret for one may go to the other.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    let origin = |url: &Url| (url.scheme().to_owned(), url.port_or_known_default());
    a.host_str() == b.host_str() && origin(a) == origin(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_number_of_seconds_or_a_time() {
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0), "that has passed");
        assert!(seconds("Wed, 21 Oct 2099 07:28:00 GMT").is_some_and(|wait| wait > 1_000_000));
        assert!(seconds("soon").is_none() && seconds("-1").is_none());
    }
}
