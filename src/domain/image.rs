//! Image references: registry, repository, tag and digest.
//!
//! The grammar is that of the distribution project, as the Docker engine reads it. What the
//! engine would take for another image than the one that we checked is refused.

use std::{fmt, str::FromStr};

use super::{Error, Result};

/// The registry of a name that does not say one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Its older name, still seen in files and scripts.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Longest repository, as the distribution grammar has it; also our limit for a registry.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// One image, in full: what is pulled, asked about and compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageRef {
    /// Reads a reference as `docker pull` does; `latest` when it has neither tag nor digest.
    pub fn parse(text: &str) -> Result<Self> {
        parse(text).map_err(|why| Error::field("image", format!("{} {why}", quoted(text))))
    }

    /// Host and port of the registry, `docker.io` when the name did not say one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where the registry answers HTTP; `docker.io` itself is only a web site.
    pub fn registry_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { &self.registry }
    }

    /// Path inside the registry, as in `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// True when both are in one repository of one registry.
    pub fn same_repository(&self, other: &Self) -> bool {
        (&self.registry, &self.repository) == (&other.registry, &other.repository)
    }

    /// The tag, if the reference has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, as in `sha256:...`, if the reference has one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What a manifest URL ends in: the digest, which pins, before the tag.
    pub fn reference(&self) -> &str {
        self.digest().or(self.tag()).unwrap_or("latest")
    }

    /// The short form that `docker ps` shows; the engine reads it as this same image.
    pub fn familiar(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.to_string();
        }
        let name = match self.repository.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.repository,
        };
        match name.split_once('/') {
            // Without its registry this path would name one: keep the full form.
            Some((first, _)) if looks_like_registry(first) => self.to_string(),
            _ => self.suffixed(name),
        }
    }

    fn suffixed(&self, name: &str) -> String {
        let tag = self.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{name}{tag}{digest}")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(&format!("{}/{}", self.registry, self.repository)))
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

type Why = &'static str;

fn parse(text: &str) -> Result<ImageRef, Why> {
    if text.is_empty() {
        return Err("is empty: name an image, as in \"nginx:1.27\"");
    }
    if text.contains("://") {
        return Err("is a URL: leave out the scheme, as in \"registry.example.com/team/app\"");
    }
    if text.len() == 64 && text.bytes().all(is_lower_hex) {
        return Err("is an image id, not a name: use a name, or name@sha256:<id> for a digest");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; before it, a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if looks_like_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
    check_registry(registry)?;
    let repository = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    check_repository(path)?;
    if repository.len() > NAME_MAX {
        return Err("has a repository of more than 255 characters: shorten it");
    }
    tag.map_or(Ok(()), check_tag)?;
    digest.map_or(Ok(()), check_digest)?;
    let tag = if digest.is_none() { tag.or(Some("latest")) } else { tag };
    Ok(ImageRef {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

fn looks_like_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn check_registry(registry: &str) -> Result<(), Why> {
    const BAD_HOST: Why = "has a bad registry: use a host name or address, as in \"host:5000/app\"";
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err("has a bad registry port: use 1 to 65535");
        }
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().map(|_| ()).map_err(|_| BAD_HOST);
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let good = host.len() <= NAME_MAX && host.split('.').all(label);
    if good { Ok(()) } else { Err(BAD_HOST) }
}

fn check_repository(path: &str) -> Result<(), Why> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has an uppercase letter in its repository: write it in lowercase");
    }
    if path.split('/').all(is_component) {
        return Ok(());
    }
    Err("has a bad repository: each part between slashes is of a-z and 0-9, inside it \
         one \".\", one or two \"_\", or any \"-\", and neither starts nor ends with these")
}

/// Runs of letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    fn alphanumeric(b: &u8) -> bool {
        b.is_ascii_lowercase() || b.is_ascii_digit()
    }
    let ends = part.as_bytes().first().is_some_and(alphanumeric)
        && part.as_bytes().last().is_some_and(alphanumeric);
    ends && part
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), Why> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if good {
        return Ok(());
    }
    Err("has a bad tag: use 1 to 128 of letters, digits, \"_\", \".\" and \"-\", \
         the first neither \".\" nor \"-\"")
}

fn check_digest(digest: &str) -> Result<(), Why> {
    let length = match digest.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha384", hex)) => (hex, 96),
        Some(("sha512", hex)) => (hex, 128),
        _ => return Err("has a bad digest: use sha256:<64 hexadecimal digits>"),
    };
    match length {
        (hex, length) if hex.len() == length && hex.bytes().all(is_lower_hex) => Ok(()),
        _ => Err("has a bad digest: sha256 takes 64 lowercase hexadecimal digits, \
                  sha384 96 and sha512 128"),
    }
}

fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

/// The value for a message: escaped, and cut where it would fill a log.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(96).collect();
    if short.len() < text.len() { format!("{short:?}...") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_normalise_as_the_engine_does() {
        for (text, full, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
            ("docker.io/team/app", "docker.io/team/app:latest", "team/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("[::1]:5000/a/b", "[::1]:5000/a/b:latest", "[::1]:5000/a/b:latest"),
            ("ghcr.io/a/b__c.d---e:X", "ghcr.io/a/b__c.d---e:X", "ghcr.io/a/b__c.d---e:X"),
            ("app:5000", "docker.io/library/app:5000", "app:5000"),
            // The short form of this one would name a registry.
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ] {
            let image = ImageRef::parse(text).unwrap();
            assert_eq!((image.to_string().as_str(), image.familiar().as_str()), (full, familiar));
        }
        assert_eq!(ImageRef::parse("nginx").unwrap().registry_host(), "registry-1.docker.io");
    }

    #[test]
    fn a_digest_pins_and_adds_no_tag() {
        let image = ImageRef::parse(&format!("nginx@sha256:{HEX}")).unwrap();
        assert_eq!((image.tag(), image.reference().len()), (None, 71));
        let both = ImageRef::parse(&format!("nginx:1@sha256:{HEX}")).unwrap();
        assert_eq!(both.familiar(), format!("nginx:1@sha256:{HEX}"));
        assert_eq!(both.reference(), format!("sha256:{HEX}"));
    }

    #[test]
    fn a_bad_reference_says_why_and_shows_the_value() {
        for (text, why) in [
            ("", "is empty"),
            ("https://ghcr.io/a", "is a URL"),
            (HEX, "image id"),
            ("Nginx", "uppercase"),
            ("ghcr.io/Team/app", "uppercase"),
            ("a//b", "bad repository"),
            ("a/../b", "bad repository"),
            ("a___b", "bad repository"),
            ("-a", "bad repository"),
            (" nginx", "bad repository"),
            ("nginx:", "bad tag"),
            ("nginx:-x", "bad tag"),
            ("nginx\n", "bad repository"),
            ("nginx@sha256:abc", "bad digest"),
            ("nginx@md5:abc", "bad digest"),
            ("host:0/app", "bad registry port"),
            ("host:+5/app", "bad registry port"),
            ("a..b/app", "bad registry"),
            ("user@host.com/app", "bad digest"),
            ("[::g]:1/app", "bad registry"),
        ] {
            let error = ImageRef::parse(text).unwrap_err();
            assert!(error.message().contains(why), "{text:?}: {error}");
            assert_eq!(error.violations()[0].field, "image");
        }
        assert!(ImageRef::parse(&format!("a:{}", "x".repeat(129))).is_err());
        assert!(ImageRef::parse(&"a".repeat(248)).is_err());
        assert!(ImageRef::parse(&"a".repeat(247)).is_ok());
        assert!(ImageRef::parse(&"é".repeat(999)).unwrap_err().message().len() < 600);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn both_printed_forms_read_back_as_the_same_image(
            registry in "(|docker\\.io/|localhost/|index\\.docker\\.io/|[a-z]{1,8}\\.[A-Za-z]{2}(:[1-9][0-9]{0,3})?/)",
            // No dot in the first part: without a registry it would be one.
            path in "[a-z0-9]{1,5}((_|__|-{1,3})[a-z0-9]{1,5})?(/[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5})?){0,3}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
            digest in "(@sha256:[0-9a-f]{64})?",
        ) {
            let image = ImageRef::parse(&format!("{registry}{path}{tag}{digest}")).unwrap();
            prop_assert_eq!(&ImageRef::parse(&image.to_string()).unwrap(), &image);
            prop_assert_eq!(&ImageRef::parse(&image.familiar()).unwrap(), &image);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|[a-zA-Z0-9:@/.\\[\\]_-]{0,80}") {
            if let Ok(image) = ImageRef::parse(&text) {
                prop_assert_eq!(&ImageRef::parse(&image.to_string()).unwrap(), &image);
                prop_assert_eq!(&ImageRef::parse(&image.familiar()).unwrap(), &image);
            }
        }
    }
}
