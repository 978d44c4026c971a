//! A build: what may be asked for, and what is told while it goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{
    Error, Result,
    error::FieldViolation,
    image::ImageRef,
    source::{Given, Login, Rules, Source},
};

mod mask;

pub use mask::Mask;

/// Most further tags, build args, labels, secrets and images to take layers from.
const MOST: usize = 256;
/// Longest secret.
const LONGEST_SECRET: usize = 512 << 10;
/// What all that the engine is asked with may take: its API has it in one URL, of which
/// HTTP libraries take 64 KiB. What is left is for the rest of that URL.
const LONGEST_QUESTION: usize = 63 << 10;

/// What builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    /// The engine's older one, step by step.
    Classic,
    /// BuildKit.
    BuildKit,
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::BuildKit => "BuildKit",
        })
    }
}

/// A power that a plain step of a build does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// The network of the node.
    NetworkHost,
    /// No sandbox.
    SecurityInsecure,
}

impl Entitlement {
    /// What BuildKit calls it.
    pub fn buildkit(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkHost => "NETWORK_HOST",
            Self::SecurityInsecure => "SECURITY_INSECURE",
        })
    }
}

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A build as it is asked for.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Name of the image.
    pub name: String,
    /// Folder on the node; empty where there is another source.
    pub context_path: String,
    /// What else the folder comes from.
    pub source: Option<Given>,
    /// Dockerfile, from that folder; empty is `Dockerfile`.
    pub dockerfile_path: String,
    /// Further names.
    pub tags: Vec<String>,
    /// Arguments of the Dockerfile's ARGs.
    pub args: Vec<(String, String)>,
    /// Stage to end with; empty is the last.
    pub target: String,
    /// Platform, as `linux/arm64`; empty is the engine's own.
    pub platform: String,
    /// Take no step from the cache.
    pub no_cache: bool,
    /// Ask the registries for newer base images.
    pub pull: bool,
    /// Labels of the image.
    pub labels: Vec<(String, String)>,
    /// Secrets by id.
    pub secrets: Vec<(String, Secret)>,
    /// Images whose layers may be taken.
    pub cache_from: Vec<String>,
    /// What shall build; `None` chooses.
    pub builder: Option<Builder>,
    /// What opens the registries of its images, by their hosts.
    pub logins: Vec<(String, Login)>,
    /// What its steps may do beyond plain ones; `None` is one that nobody knows.
    pub entitlements: Vec<Option<Entitlement>>,
}

/// A build whose request makes sense.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// All names of the image, at least one, each once.
    pub names: Vec<ImageRef>,
    /// Where the folder comes from.
    pub source: Source,
    /// Dockerfile; empty is `Dockerfile`.
    pub dockerfile_path: String,
    /// Arguments.
    pub args: BTreeMap<String, String>,
    /// Stage to end with; empty is the last.
    pub target: String,
    /// Platform; empty is the engine's own.
    pub platform: String,
    /// Take no step from the cache.
    pub no_cache: bool,
    /// Ask for newer base images.
    pub pull: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: BTreeMap<String, Secret>,
    /// Images whose layers may be taken.
    pub cache_from: Vec<ImageRef>,
    /// What shall build; `None` chooses.
    pub builder: Option<Builder>,
    /// What opens registries, by their hosts as images name them.
    pub logins: BTreeMap<String, Login>,
    /// What its steps may do beyond plain ones.
    pub entitlements: BTreeSet<Entitlement>,
}

/// Something that happens in a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// The build begins.
    Started(Builder),
    /// A step begins.
    Step(Step),
    /// The step was taken from the cache.
    Cached {
        /// Which step.
        vertex: String,
    },
    /// A step wrote something.
    Log {
        /// Which step; empty for what belongs to none.
        vertex: String,
        /// To its standard error.
        stderr: bool,
        /// The exact bytes.
        data: Vec<u8>,
    },
    /// Something is under way that can be counted.
    Progress {
        /// What: "context", or the id of a layer.
        id: String,
        /// In words.
        status: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 when nobody knows.
        total: u64,
    },
    /// Something that does not end the build.
    Warning(String),
    /// The build failed; the error follows.
    Failed(Failure),
    /// The image is there.
    Finished(Built),
}

/// A step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Names it in other events.
    pub vertex: String,
    /// What it does, as the Dockerfile says.
    pub name: String,
    /// Its number, from 1; 0 where the builder counts none.
    pub number: u32,
    /// Steps in all.
    pub total: u32,
    /// Line of the Dockerfile on which it begins; 0 when it is not known.
    pub line: u32,
}

/// Where a build failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub message: String,
    /// The step that failed.
    pub step: Option<Step>,
    /// The exit code of its command.
    pub exit_code: Option<i32>,
}

/// What a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Content id.
    pub image_id: String,
    /// Digest under which a registry has it; empty while none has.
    pub digest: String,
    /// Bytes of the image.
    pub size: u64,
    /// How long it took.
    pub took: Duration,
    /// What built it.
    pub builder: Builder,
}

impl BuildSpec {
    /// Checks a request; all that is wrong is told at once.
    pub fn resolve(request: BuildRequest, rules: &Rules) -> Result<Self> {
        let mut wrong = Wrong(Vec::new());
        let mut names = Vec::new();
        let all = std::iter::once(("name".to_owned(), &request.name))
            .chain(request.tags.iter().enumerate().map(|(at, tag)| (format!("tags[{at}]"), tag)));
        for (field, text) in all {
            match wrong.image(&field, text) {
                Some(image) if image.digest().is_some() => {
                    wrong.add(
                        &field,
                        format!(
                            "{text:?} has a digest, which only its content decides; give a tag"
                        ),
                    );
                }
                Some(image) if !names.contains(&image) => names.push(image),
                _ => {}
            }
        }
        let mut cache_from = Vec::new();
        for (at, text) in request.cache_from.iter().enumerate() {
            cache_from.extend(wrong.image(&format!("cacheFrom[{at}]"), text));
        }
        let source = match request.source {
            None if request.context_path.is_empty() => {
                let why = "is empty; name the folder of the build on the node, or a source";
                wrong.add("contextPath", why);
                Source::Path(String::new())
            }
            None => Source::Path(request.context_path.clone()),
            Some(_) if !request.context_path.is_empty() => {
                wrong.add("source", "is given beside contextPath; leave one of them out");
                Source::Path(String::new())
            }
            Some(given) => rules.check(given).unwrap_or_else(|(field, why)| {
                wrong.add(&format!("source.{field}"), why);
                Source::Path(String::new())
            }),
        };
        let logins: Vec<_> = request
            .logins
            .into_iter()
            .map(|(host, login)| (registry_of(&host).to_owned(), login))
            .collect();
        let logins = wrong.pairs("credentials", logins, |host| {
            !host.contains(['/', '@', ' ', '\0']) && host.len() < 256
        });
        for (field, text) in [
            ("contextPath", &request.context_path),
            ("dockerfilePath", &request.dockerfile_path),
            ("target", &request.target),
            ("platform", &request.platform),
        ] {
            if text.contains('\0') || text.len() > 4096 {
                wrong.add(field, "has a NUL byte or more than 4096 bytes");
            }
        }
        let args = wrong.pairs("buildArgs", request.args, |key| !key.contains(['=', '\0']));
        let labels = wrong.pairs("labels", request.labels, |key| !key.contains('\0'));
        let secrets = wrong.pairs("secrets", request.secrets, |id| {
            id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        });
        for (id, secret) in &secrets {
            if secret.0.len() > LONGEST_SECRET {
                wrong.add("secrets", format!("{id:?} has more than 512 KiB"));
            }
        }
        let entitlements = &request.entitlements;
        if let Some(at) = entitlements.iter().position(Option::is_none) {
            let why = "is none that is known; write NETWORK_HOST or SECURITY_INSECURE";
            wrong.add(&format!("entitlements[{at}]"), why);
        }
        for (field, count) in [
            ("tags", request.tags.len()),
            ("cacheFrom", request.cache_from.len()),
            ("entitlements", entitlements.len()),
        ] {
            if count > MOST {
                wrong.add(field, format!("has {count} entries; at most {MOST}"));
            }
        }
        if !wrong.0.is_empty() {
            return Err(Error::fields(wrong.0));
        }
        let spec = Self {
            names,
            source,
            dockerfile_path: request.dockerfile_path,
            args,
            target: request.target,
            platform: request.platform,
            no_cache: request.no_cache,
            pull: request.pull,
            labels,
            secrets,
            cache_from,
            builder: request.builder,
            logins,
            entitlements: request.entitlements.into_iter().flatten().collect(),
        };
        spec.check_question()?;
        Ok(spec)
    }

    /// Refuses what would not fit into the question to the engine, and names the field
    /// that takes most of it.
    fn check_question(&self) -> Result<()> {
        let pairs = |pairs: &BTreeMap<String, String>| -> usize {
            // Each also has four quotes, a colon and a comma.
            pairs.iter().map(|(key, value)| escaped(key) + escaped(value) + 18).sum()
        };
        let images = |images: &[ImageRef]| -> usize {
            images.iter().map(|image| escaped(&image.familiar()) + 9).sum()
        };
        let fields = [
            ("buildArgs", pairs(&self.args)),
            ("labels", pairs(&self.labels)),
            ("tags", images(&self.names)),
            ("cacheFrom", images(&self.cache_from)),
            ("dockerfilePath", escaped(&self.dockerfile_path)),
            ("target", escaped(&self.target) + escaped(&self.platform)),
        ];
        let total: usize = fields.iter().map(|(_, bytes)| bytes).sum();
        let largest = fields.into_iter().max_by_key(|(_, bytes)| *bytes);
        let Some((field, bytes)) = largest.filter(|_| total > LONGEST_QUESTION) else {
            return Ok(());
        };
        Err(Error::field(
            field,
            format!(
                "takes {bytes} of {total} bytes, as a URL writes them, and the engine is asked \
                 with at most {LONGEST_QUESTION}; put what is long into a file of the context"
            ),
        ))
    }
}

/// How images name a registry.
fn registry_of(host: &str) -> &str {
    let bare = host.trim_start_matches("https://").trim_end_matches("/v1/").trim_end_matches('/');
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        bare => bare,
    }
}

/// Bytes of a text in JSON in a URL, at most.
fn escaped(text: &str) -> usize {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => 1,
        // JSON puts a backslash before the first two, and six digits for the last.
        b'"' | b'\\' => 6,
        0..=0x1f => 8,
        _ => 3,
    };
    text.bytes().map(byte).sum()
}

struct Wrong(Vec<FieldViolation>);

impl Wrong {
    fn add(&mut self, field: &str, description: impl Into<String>) {
        let (field, description) = (field.to_owned(), description.into());
        self.0.push(FieldViolation { field, description });
    }

    fn image(&mut self, field: &str, text: &str) -> Option<ImageRef> {
        match ImageRef::parse(text) {
            Ok(image) => Some(image),
            Err(error) => {
                let why = error.violations().first().map(|wrong| wrong.description.clone());
                self.add(field, why.unwrap_or_default());
                None
            }
        }
    }

    fn pairs<T>(
        &mut self,
        field: &str,
        given: Vec<(String, T)>,
        good: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, T> {
        if given.len() > MOST {
            self.add(field, format!("has {} entries; at most {MOST}", given.len()));
        }
        let mut pairs = BTreeMap::new();
        for (at, (key, value)) in given.into_iter().enumerate() {
            if key.is_empty() || key.len() > 1024 || !good(&key) {
                self.add(&format!("{field}[{at}]"), format!("{key:?} is no good name"));
            } else if pairs.insert(key.clone(), value).is_some() {
                self.add(&format!("{field}[{at}]"), format!("{key:?} is given twice"));
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests;
