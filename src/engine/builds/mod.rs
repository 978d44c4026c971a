//! Builds: the engine gets a context, what happens comes back as events.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use futures_util::{FutureExt as _, TryStreamExt as _, future::BoxFuture};
use http::{Request, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::{
    Credential, Engine,
    body::{Body, Sent},
    context::{Archived, Shared},
    errors,
    lines::{Lines, Message},
};
use crate::domain::{
    Error, Kind, Result,
    build::{BuildEvent, BuildSpec, Entitlement, Failure, Step},
    dockerfile::Instruction,
    image::ImageRef,
    spec::hex,
};

mod active;
mod classic;
mod control;
mod found;
mod session;
mod trace;

use classic::Classic;
use control::Control;
use session::Answers;
use trace::Trace;

/// How docker.io is called where credentials are given.
const DOCKER_IO: &str = "https://index.docker.io/v1/";
/// Longest that is told of a failure.
const LONGEST_FAILURE: usize = 32 << 10;

/// A build that the engine does.
pub struct Building(Reader);

/// What reads the engine's words.
enum Reader {
    Classic(Box<Lines>, Box<Classic>),
    BuildKit(Words, Box<Trace>),
}

/// Where BuildKit's words come from.
enum Words {
    /// The build API.
    Lines(Box<Lines>),
    /// Its own interface.
    Control(Box<Control>),
}

impl Words {
    /// Reads what comes next; `false` at the end.
    async fn next(&mut self, trace: &mut Trace) -> Result<bool> {
        match self {
            Self::Lines(lines) => {
                let message = lines.next().await?;
                Ok(message.inspect(|message| trace.message(message)).is_some())
            }
            Self::Control(control) => control.next(trace).await,
        }
    }
}

/// Where BuildKit asks for the context, credentials and secrets.
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Answers, for ever; it must be polled as long as the build goes on, whatever else
    /// its caller waits for.
    pub served: BoxFuture<'static, Infallible>,
}

/// What the engine needs beside the context.
pub struct NewBuild<'a> {
    /// What was asked for.
    pub spec: &'a BuildSpec,
    /// Where the Dockerfile is in what is sent.
    pub dockerfile_path: &'a str,
    /// Its instructions.
    pub instructions: Vec<Instruction>,
    /// By their registries.
    pub credentials: &'a BTreeMap<String, Credential>,
}

/// How the engine gets the context.
pub enum Given {
    /// As an archive: the classic builder builds.
    Archive(Archived),
    /// By the session that was opened for it: BuildKit builds.
    Session(SessionId),
}

/// Names a session in the engine.
#[derive(Debug, Clone)]
pub struct SessionId(String);

/// How a build goes on.
#[derive(Debug)]
pub enum Next {
    /// Something happened.
    Event(BuildEvent),
    /// It failed.
    Failed(Failure),
    /// The image of this id was made.
    Made(String),
    /// It goes on, in a way that is not told.
    Moved,
}

/// An image that a build fetches while nothing else of it goes on.
#[derive(Debug)]
pub struct Fetch {
    /// The step that needs it.
    pub step: Step,
    /// The engine may work on it for long without a word.
    pub quiet: bool,
    /// Nothing is fetched if this image is on the node; the step only works on it then.
    pub unless_here: Option<ImageRef>,
}

impl Engine {
    /// Opens a session for a build by BuildKit.
    pub async fn build_session(
        &self,
        spec: &BuildSpec,
        credentials: &BTreeMap<String, Credential>,
        context: Arc<Shared>,
    ) -> Result<Session> {
        let id = session_id()?;
        let (credentials, secrets) = (credentials.clone(), spec.secrets.clone());
        let answers = Answers { credentials, secrets, context };
        let version = self.build_version().await?;
        let served = session::open(&self.address, &version, &id, answers).await?;
        let served = async move {
            served.await;
            std::future::pending().await
        };
        Ok(Session { id: SessionId(id), served: served.boxed() })
    }

    /// Builds; dropping the answer, or this call, ends the build.
    pub async fn build(&self, new: NewBuild<'_>, given: Given) -> Result<Building> {
        let version = self.build_version().await?;
        match given {
            Given::Archive(archive) => {
                let sent = StreamBody::new(archive.map_ok(Frame::data)).boxed_unsync();
                let lines = self.post_build(&version, &new, "", sent).await?;
                Ok(Building(Reader::Classic(lines, Box::new(Classic::new(new.instructions)))))
            }
            Given::Session(SessionId(id)) => {
                let insecure = new.spec.entitlements.contains(&Entitlement::SecurityInsecure);
                let words = if insecure {
                    let control = Control::begin(&self.address, &version, &new, id).await?;
                    Words::Control(Box::new(control))
                } else {
                    let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
                    let more = format!("&version=2&remote=client-session&session={id}");
                    Words::Lines(self.post_build(&version, &new, &more, nothing).await?)
                };
                Ok(Building(Reader::BuildKit(words, Box::new(Trace::new(new.instructions)))))
            }
        }
    }

    /// Asks by the build API.
    async fn post_build(
        &self,
        version: &str,
        new: &NewBuild<'_>,
        more: &str,
        sent: Sent,
    ) -> Result<Box<Lines>> {
        let question = Request::builder()
            .uri(format!("/{version}/build?{}{more}", query(new)))
            .header(header::CONTENT_TYPE, "application/x-tar")
            .header("X-Registry-Config", registries(new.credentials));
        let body = Body::post(self.address.clone(), question, sent).await?;
        Ok(Box::new(Lines::new(self.address.clone(), body)))
    }

    async fn build_version(&self) -> Result<String> {
        let version = self.docker().await?.client_version();
        Ok(format!("v{}.{}", version.major_version, version.minor_version))
    }
}

impl Building {
    /// What happens next; `None` when the engine has nothing more to say.
    pub async fn next(&mut self) -> Result<Option<Next>> {
        loop {
            match &mut self.0 {
                Reader::Classic(lines, classic) => {
                    let Some(message) = lines.next().await? else { return Ok(classic.end()) };
                    return Ok(Some(classic.message(message).unwrap_or(Next::Moved)));
                }
                Reader::BuildKit(words, trace) => {
                    if let Some(next) = trace.waiting() {
                        return Ok(Some(next));
                    }
                    if !words.next(trace).await? {
                        return Ok(trace.end());
                    }
                }
            }
        }
    }

    /// The image that it waits for, when it waits for nothing else.
    pub fn fetch(&self) -> Option<Fetch> {
        match &self.0 {
            Reader::Classic(_, classic) => classic.fetch(),
            Reader::BuildKit(_, trace) => trace.fetch(),
        }
    }

    /// The container in which a step runs now.
    pub fn container(&self) -> Option<&str> {
        match &self.0 {
            Reader::Classic(_, classic) => classic.container(),
            Reader::BuildKit(..) => None,
        }
    }
}

/// What the engine says of a failure. It repeats the command, however long that is;
/// how it ended stands last.
fn bounded(mut message: String) -> String {
    if message.len() > LONGEST_FAILURE {
        let mut from = message.len() - LONGEST_FAILURE;
        while !message.is_char_boundary(from) {
            from += 1;
        }
        message.replace_range(..from, "[...] ");
    }
    message
}

fn session_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal(format!("the system gives no random bytes: {error}")))?;
    Ok(hex(&bytes))
}

/// True for a step that fetches a base image, as the builders call it.
fn is_base(step: &str) -> bool {
    let from = step.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("FROM "));
    from || step.starts_with("load metadata for ")
}

/// True for one that fetches this or another image.
fn fetches(step: &str) -> bool {
    const OTHERS: [&str; 3] =
        ["resolve image config for ", "docker-image://", "importing cache manifest from "];
    is_base(step) || OTHERS.iter().any(|words| step.starts_with(words))
}

/// The error for a build that failed.
pub fn build_error(failure: &Failure) -> Error {
    let told = failure.message.trim();
    // A command that ended by itself may say anything.
    let no_space = failure.exit_code.is_none() && told.contains("no space left on device");
    let (kind, reason) = if no_space {
        (Kind::ResourceExhausted, "NO_SPACE")
    } else if told.contains("target stage ") && told.ends_with("could not be found") {
        // Which the classic builder refuses before it begins.
        (Kind::InvalidArgument, "ENGINE_REFUSED")
    } else if failure.step.as_ref().is_some_and(|step| is_base(&step.name)) {
        let fetched = errors::streamed(told);
        (fetched.kind(), fetched.reason())
    } else {
        (Kind::FailedPrecondition, "BUILD_FAILED")
    };
    let error = failed(failure, kind, reason);
    if told.contains("network.host is not allowed") {
        return error.and("ask for NETWORK_HOST in entitlements, and let the engine's setting builder.entitlements allow it");
    } else if told.contains("security.insecure is not allowed") {
        return error.and("ask for SECURITY_INSECURE in entitlements, and let the engine's setting builder.entitlements allow it");
    }
    error
}

/// The error for a build whose image does not come any more.
pub fn stalled_error(failure: &Failure) -> Error {
    failed(failure, Kind::Unavailable, "PULL_STALLED")
}

fn failed(failure: &Failure, kind: Kind, reason: &'static str) -> Error {
    let at = failure.step.as_ref().map(|step| {
        let line = if step.line > 0 { format!(", line {}", step.line) } else { String::new() };
        match step.number {
            0 => format!("at \"{}\": ", step.name),
            number => format!("at step {number} of {}{line} ({}): ", step.total, step.name),
        }
    });
    let told = failure.message.trim();
    let message = format!("the build failed {}{told}", at.unwrap_or_default());
    let mut error = Error::new(kind, reason, message);
    if let Some(step) = &failure.step {
        error = error.with("step", step.number.to_string()).with("line", step.line.to_string());
    }
    match failure.exit_code {
        Some(code) => error.with("exitCode", code.to_string()),
        None => error,
    }
}

/// Tells where the Dockerfile is wrong, when that is what the engine says.
pub fn refused(error: Error, dockerfile: &str) -> Error {
    const MARK: &str = "dockerfile parse error";
    let Some(at) = error.message().find(MARK) else { return error };
    let told = error.message()[at + MARK.len()..].trim().trim_start_matches("on ").to_owned();
    let rest = told.strip_prefix("line ").unwrap_or(&told);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let line: Option<usize> = rest[..digits].parse().ok();
    let text = line.and_then(|line| dockerfile.lines().nth(line.checked_sub(1)?));
    let why = rest[digits..].trim_start_matches(':').trim();
    let message = match (line, text) {
        (Some(line), Some(text)) => {
            let text: String = text.trim().chars().take(200).collect();
            format!("the Dockerfile is wrong on line {line}, {text:?}: {why}")
        }
        _ => format!("the Dockerfile is wrong: {told}"),
    };
    let line = line.map(|line| line.to_string()).unwrap_or_default();
    Error::new(Kind::InvalidArgument, "DOCKERFILE_SYNTAX", message)
        .with("line", line)
        .with("text", text.unwrap_or_default().trim())
}

fn query(new: &NewBuild<'_>) -> String {
    let spec = new.spec;
    let json = |value: serde_json::Value| value.to_string();
    // Containers of steps are removed, also of the one that fails.
    let mut pairs = vec![
        ("dockerfile", new.dockerfile_path.to_owned()),
        ("rm", "1".to_owned()),
        ("forcerm", "1".to_owned()),
    ];
    pairs.extend(spec.names.iter().map(|name| ("t", name.familiar())));
    let mut set = |key, value: Option<String>| pairs.extend(value.map(|value| (key, value)));
    set("nocache", spec.no_cache.then(|| "1".to_owned()));
    set("pull", spec.pull.then(|| "1".to_owned()));
    set("target", Some(spec.target.clone()).filter(|target| !target.is_empty()));
    set("platform", Some(spec.platform.clone()).filter(|platform| !platform.is_empty()));
    set("buildargs", (!spec.args.is_empty()).then(|| json(json!(spec.args))));
    set("labels", (!spec.labels.is_empty()).then(|| json(json!(spec.labels))));
    // Grants network.host, and makes it what steps have that say nothing of it.
    let network = spec.entitlements.contains(&Entitlement::NetworkHost);
    set("networkmode", network.then(|| "host".to_owned()));
    let images: Vec<_> = spec.cache_from.iter().map(ImageRef::familiar).collect();
    set("cachefrom", (!images.is_empty()).then(|| json(json!(images))));
    let pair = |(key, value): &(&str, String)| {
        format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
    };
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn registries(credentials: &BTreeMap<String, Credential>) -> String {
    let mut all = serde_json::Map::new();
    for (registry, credential) in credentials {
        let host = if registry == "docker.io" { DOCKER_IO } else { registry };
        let login = json!({
            "username": credential.username,
            "password": credential.password,
            "identitytoken": credential.identity_token.clone().unwrap_or_default(),
            "serveraddress": host,
        });
        all.insert(host.to_owned(), login);
    }
    URL_SAFE.encode(serde_json::Value::Object(all).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_tells_the_line_and_its_text() {
        for words in ["dockerfile parse error line 2: x", "dockerfile parse error on line 2: x"] {
            let error = refused(errors::answered(400, words), "FROM a\n RUUN b\n");
            assert_eq!(error.message(), "the Dockerfile is wrong on line 2, \"RUUN b\": x");
            assert_eq!(
                (error.kind(), error.reason()),
                (Kind::InvalidArgument, "DOCKERFILE_SYNTAX")
            );
            assert_eq!(error.metadata()["line"], "2");
        }
        let other = refused(errors::answered(400, "failed to reach build target x"), "FROM a");
        assert_eq!(other.reason(), "ENGINE_REFUSED");
    }
}
