//! Asks a web server for an asset: each address and each redirect is checked, and a part
//! is gone on with only when the server shows that it is of the same content.

use std::{error::Error as StdError, fmt, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::TryStreamExt as _;
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Client, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
        HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
        RETRY_AFTER, TRANSFER_ENCODING,
    },
    redirect::Policy as Redirects,
};

use super::{
    AssetFetcher, AssetSettings, Failure, LONGEST_PAUSE, Question, Tell, Validator, failed,
    part::Part, pour::pour, prepare, refused, retry_after,
};
use crate::domain::{Error, Result, asset, asset::Policy};

/// Most redirects of one question.
const REDIRECTS_MAX: usize = 5;
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The client for sources, behind the guard, and the one for File Svc.
///
/// None takes a proxy from the environment: it would resolve names itself, so that the
/// address could not be checked. None decodes a body: what few bytes say may be large.
pub(super) fn clients(settings: &AssetSettings) -> Result<(Client, Client)> {
    // Another part of the process may have installed one already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let build = |guard: Option<Resolver>| {
        let builder = Client::builder()
            .user_agent(concat!("container-svc/", env!("CARGO_PKG_VERSION")))
            .redirect(Redirects::none())
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.limits.stall.min(CONNECT));
        let builder = match guard {
            Some(guard) => builder.dns_resolver(guard),
            None => builder,
        };
        builder.build().map_err(|cause| {
            let advice = "The HTTPS client cannot start: install the ca-certificates package.";
            Error::precondition("HTTP_CLIENT", advice).because(cause)
        })
    };
    Ok((build(Some(Resolver(settings.policy.clone())))?, build(None)?))
}

/// Resolves as the system does, less what the policy refuses. The connection uses this
/// very answer, so that a name cannot change between check and use.
#[derive(Debug)]
struct Resolver(Arc<Policy>);

/// A name leads only to addresses that are refused, and why.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Refused {}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let (mut kept, mut why) = (Vec::<SocketAddr>::new(), None);
            for found in tokio::net::lookup_host((name.as_str(), 0)).await? {
                match policy.check_address(found.ip()) {
                    Ok(()) => kept.push(found),
                    Err(rule) => why = Some(format!("{}: {rule}", name.as_str())),
                }
            }
            match why {
                Some(why) if kept.is_empty() => Err(Refused(why).into()),
                _ => Ok(Box::new(kept.into_iter()) as Addrs),
            }
        })
    }
}

impl AssetFetcher {
    /// One try to get the rest of a part, or all of another content.
    pub(super) async fn ask(
        &self,
        url: &Url,
        asked: Question<'_>,
        part: &mut Option<Part>,
        first: bool,
        tell: Tell<'_>,
    ) -> Result<Option<Part>, Failure> {
        let have = asked.have;
        let Some(open) = part.as_ref() else {
            return Err(Failure::Never(Error::internal("a part of an asset is missing")));
        };
        // It came whole before, and the service ended before it was published. Whoever
        // wants it fresh must not be told of that.
        if have.is_none() && !asked.fresh && open.is_whole() {
            return Ok(part.take());
        }
        let from_file_svc = match have {
            None if first && !asked.fresh => self.ask_file_svc(url).await,
            _ => None,
        };
        // By what File Svc knows a content the source does not know it.
        let (answer, validator) = match from_file_svc {
            Some(answer) => (answer, Validator::default()),
            None => {
                let answer = self.follow(url, &question(have, open)).await?;
                let validator = validator(answer.headers());
                (answer, validator)
            }
        };
        if answer.status() == StatusCode::NOT_MODIFIED && have.is_some() {
            return Ok(None);
        }
        match judge(url, &answer, &validator, open, asked.checked)? {
            Use::Anew(total) => prepare(part, move |part| part.restart(&validator, total)).await?,
            Use::GoOn(total) => prepare(part, move |part| part.resume(total)).await?,
            Use::Nothing => {
                prepare(part, |part| part.restart(&Validator::default(), 0)).await?;
                let what = "changed while it was fetched; try again later";
                return Err(Failure::Again(failed("ASSET_CHANGED", url.as_str(), what)));
            }
        }
        let broken = |cause: reqwest::Error| {
            let what = "broke the connection; try again later";
            let error = failed("ASSET_TRUNCATED", url.as_str(), what);
            Failure::Again(error.because(cause.without_url()))
        };
        let limits = self.settings.limits;
        let body = answer.bytes_stream().map_err(broken);
        pour(body, part, limits.stall, limits.min_rate, tell).await.map(Some)
    }

    /// What File Svc has of the URL; it is not at fault when it has nothing.
    async fn ask_file_svc(&self, url: &Url) -> Option<Response> {
        let base = self.settings.file_svc.as_deref()?.trim_end_matches('/');
        let segment = utf8_percent_encode(url.as_str(), NON_ALPHANUMERIC);
        let asked = self.file_svc.get(format!("{base}/file-svc/serve/download/{segment}")).send();
        match tokio::time::timeout(self.settings.limits.stall, asked).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => Some(answer),
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                tracing::warn!(error = %error.without_url(), "File Svc cannot be asked");
                None
            }
            Err(_) => {
                tracing::warn!("File Svc does not answer");
                None
            }
        }
    }

    /// Asks, and follows redirects as far as the policy allows.
    async fn follow(&self, first: &Url, headers: &HeaderMap) -> Result<Response, Failure> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            self.settings.policy.check_http(&url).map_err(|why| {
                let why = match url == *first {
                    true => why,
                    false => format!("{} redirects: {why}", asset::shown(first.as_str())),
                };
                Failure::Never(refused(first.as_str(), &why))
            })?;
            let asked = self.client.get(url.clone()).headers(headers.clone()).send();
            let answer = match tokio::time::timeout(self.settings.limits.stall, asked).await {
                Ok(answer) => answer.map_err(|cause| unanswered(first, cause))?,
                Err(_) => {
                    let what = "did not answer in time; try again later";
                    return Err(Failure::Again(failed("ASSET_TOO_SLOW", first.as_str(), what)));
                }
            };
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target = text(answer.headers(), LOCATION);
            url = url.join(target).ok().filter(|_| !target.is_empty()).ok_or_else(|| {
                let what = "redirects to no usable address; use another URL";
                Failure::Never(failed("ASSET_REDIRECT", first.as_str(), what))
            })?;
        }
        let what = format!("redirects more than {REDIRECTS_MAX} times; use another URL");
        Err(Failure::Never(failed("ASSET_REDIRECT", first.as_str(), &what)))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The headers of a question about what we have, or have a part of.
fn question(have: Option<&Validator>, part: &Part) -> HeaderMap {
    let mut headers =
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    let mut set = |name: HeaderName, value: &str| {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    if let Some(have) = have {
        set(IF_NONE_MATCH, &have.etag);
        if have.etag.is_empty() {
            set(IF_MODIFIED_SINCE, &have.last_modified);
        }
    }
    let validator = part.validator();
    if part.length() > 0 && !part.is_whole() && !strong(&validator).is_empty() {
        set(RANGE, &format!("bytes={}-", part.length()));
        set(IF_RANGE, strong(&validator));
    }
    headers
}

/// The validator that says that two contents are the same to the byte.
fn strong(validator: &Validator) -> &str {
    match validator.etag.as_str() {
        "" => &validator.last_modified,
        weak if weak.starts_with("W/") => "",
        etag => etag,
    }
}

fn validator(headers: &HeaderMap) -> Validator {
    let (changed, now) = (text(headers, LAST_MODIFIED), text(headers, DATE));
    let last_modified = if is_settled(changed, now) { changed } else { "" };
    Validator { etag: text(headers, ETAG).to_owned(), last_modified: last_modified.to_owned() }
}

/// True when a file cannot change any more without another date of change: dates have
/// whole seconds, and that one is over by the server's own clock (RFC 9110, 8.8.2.2).
fn is_settled(changed: &str, now: &str) -> bool {
    static PARSER: DateTimeParser = DateTimeParser::new();
    let read = |text| PARSER.parse_timestamp(text).ok();
    read(changed).zip(read(now)).is_some_and(|(changed, now)| now.as_second() > changed.as_second())
}

/// What to do with the body of an answer.
enum Use {
    /// It is a whole content of so many bytes; 0 is not known.
    Anew(u64),
    /// It is the rest of what is there, which will have so many bytes.
    GoOn(u64),
    /// None: it is of another content than what is there, which is of no use either.
    Nothing,
}

/// Says what an answer is good for, or why for nothing.
fn judge(
    url: &Url,
    answer: &Response,
    validator: &Validator,
    part: &Part,
    checked: bool,
) -> Result<Use, Failure> {
    let never = |reason, what: &str| Failure::Never(failed(reason, url.as_str(), what));
    let headers = answer.headers();
    let encoding = text(headers, CONTENT_ENCODING);
    match answer.status().as_u16() {
        200 | 206 if !matches!(encoding, "" | "identity") => {
            let what = format!(
                "sends its bytes encoded as {encoding:?} though that was not asked for; \
                 use a URL that gives the file itself"
            );
            Err(never("ASSET_ENCODED", &what))
        }
        200 => match answer.content_length() {
            Some(total) => Ok(Use::Anew(total)),
            None if checked || shows_its_end(answer) => Ok(Use::Anew(0)),
            None => {
                let what = "does not say how long it is, so a whole file and one that was cut look \
                            the same; give its sha256, or use https or a server that tells";
                Err(never("ASSET_UNMEASURED", what))
            }
        },
        206 => {
            let known = part.validator();
            let same = strong(&known) == strong(validator) && !strong(&known).is_empty();
            Ok(match range(text(headers, CONTENT_RANGE)) {
                Some((from, total))
                    if same
                        && from == part.length()
                        && (part.total() == 0 || part.total() == total) =>
                {
                    Use::GoOn(total)
                }
                _ => Use::Nothing,
            })
        }
        416 => Ok(Use::Nothing),
        404 | 410 => Err(never("ASSET_NOT_FOUND", "is not there; check the URL")),
        408 | 425 | 429 | 500.. => {
            let asked = retry_after::read(text(headers, RETRY_AFTER), Timestamp::now());
            let wait = asked.unwrap_or_default();
            let when = match wait > LONGEST_PAUSE {
                true => format!("in {} s, as it asks", wait.as_secs()),
                false => "later".to_owned(),
            };
            let what = format!("answers {}; try again {when}", answer.status());
            Err(Failure::Later(failed("ASSET_UNAVAILABLE", url.as_str(), &what), wait))
        }
        _ => {
            let what = format!("answers {}; check the URL", answer.status());
            Err(never("ASSET_REFUSED_BY_SERVER", &what))
        }
    }
}

/// True when a body that is cut ends otherwise than one that is whole: chunks have an
/// end of their own, and so has TLS.
fn shows_its_end(answer: &Response) -> bool {
    let encoding = text(answer.headers(), TRANSFER_ENCODING).to_ascii_lowercase();
    encoding.contains("chunked") || answer.url().scheme() == "https"
}

/// The first byte and the length of the whole of `bytes 5-9/10`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = span.split_once('-')?;
    let (from, to, total): (u64, u64, u64) =
        (from.parse().ok()?, to.parse().ok()?, total.parse().ok()?);
    (from <= to && to.checked_add(1)? == total).then_some((from, total))
}

/// What stopped a question, without its URL, which may be signed.
fn unanswered(url: &Url, cause: reqwest::Error) -> Failure {
    let cause = cause.without_url();
    let mut link: Option<&(dyn StdError + 'static)> = Some(&cause);
    while let Some(error) = link {
        if let Some(Refused(why)) = error.downcast_ref() {
            return Failure::Never(refused(url.as_str(), why));
        }
        link = error.source();
    }
    let what = match (cause.is_connect(), cause.is_timeout()) {
        (true, _) => "cannot be reached: check its name, the network and its certificate",
        (false, true) => "did not answer in time; try again later",
        (false, false) => "broke the connection; try again later",
    };
    Failure::Again(failed("ASSET_UNREACHABLE", url.as_str(), what).because(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::address::Range;

    /// Whatever a name says of itself, what it resolves to decides, and is connected to.
    #[tokio::test]
    async fn a_name_that_leads_to_a_refused_address_gives_none() {
        let resolve = |allowed: &[&str]| {
            let ranges = allowed.iter().map(|range| Range::parse(range).expect("a range"));
            let policy = Policy { addresses: ranges.collect(), ..Policy::default() };
            let name = "localhost".parse().expect("a name");
            Resolver(Arc::new(policy)).resolve(name)
        };
        let refused = resolve(&[]).await.err().expect("it is refused");
        let Some(Refused(why)) = refused.downcast_ref() else { panic!("{refused}") };
        assert!(why.starts_with("localhost: ") && why.contains("loopback"), "{why}");
        let found: Vec<_> = resolve(&["127.0.0.0/8"]).await.expect("it is allowed").collect();
        let allowed = |found: &SocketAddr| found.is_ipv4() && found.ip().is_loopback();
        assert!(!found.is_empty() && found.iter().all(allowed), "{found:?}");
    }

    #[test]
    fn only_a_range_up_to_the_end_is_gone_on_with() {
        assert_eq!(range("bytes 5-9/10"), Some((5, 10)));
        for other in ["", "bytes 5-9/*", "bytes 5-8/10", "bytes 9-5/10", "bytes */10", "5-9/10"] {
            assert_eq!(range(other), None, "{other}");
        }
    }

    #[test]
    fn a_date_of_change_says_something_when_its_second_is_over() {
        let [at, later] = [0, 1].map(|s| format!("Tue, 03 Nov 2026 10:00:0{s} GMT"));
        assert!(is_settled(&at, &later));
        for (changed, now) in [(&*at, &*at), (&later, &at), (&at, ""), ("", &at), ("x", &at)] {
            assert!(!is_settled(changed, now), "{changed} {now}");
        }
    }

    #[test]
    fn a_weak_etag_is_no_reason_to_go_on() {
        let validator =
            |etag: &str, at: &str| Validator { etag: etag.into(), last_modified: at.into() };
        assert_eq!(strong(&validator("\"a\"", "Mon")), "\"a\"");
        assert_eq!(strong(&validator("W/\"a\"", "Mon")), "");
        assert_eq!(strong(&validator("", "Mon")), "Mon");
    }
}
