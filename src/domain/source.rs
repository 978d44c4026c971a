//! Where the folder of a build comes from, when it is not one of the node.

use std::{fmt, net::IpAddr, sync::Arc};

use url::{Host, Url};

use super::{
    Error, Kind,
    asset::{self, Policy},
    build::Secret,
};

/// Most files, folders and links of a source.
pub const MOST_ENTRIES: u64 = 1_000_000;

/// Longest name of a branch, a tag or a folder.
const LONGEST: usize = 1024;

/// A user and a password, which is never printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub username: String,
    /// Password or access token.
    pub password: Secret,
}

/// A source as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// A git repository.
    Git {
        /// Where it is.
        url: String,
        /// Branch, tag or commit; empty is the default branch.
        reference: String,
        /// Folder in it; empty is its root.
        subdirectory: String,
        /// What opens it.
        login: Option<Login>,
    },
    /// A tarball of a web server.
    Tarball {
        /// Where it is.
        url: String,
        /// Checksum; empty is any.
        sha256: String,
        /// Folder in it; empty is its root.
        subdirectory: String,
    },
    /// What was uploaded before, by its id.
    Upload(String),
}

/// A source that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder of the node.
    Path(String),
    /// A git repository.
    Git(Git),
    /// A tarball of a web server.
    Tarball(Tarball),
    /// What was uploaded before, by its id.
    Upload(String),
}

/// A git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// Where it is.
    pub url: Url,
    /// Branch, tag or commit, or `HEAD`.
    pub reference: String,
    /// Folder in it; empty is its root.
    pub subdirectory: String,
    /// What opens it.
    pub login: Option<Login>,
}

/// A tarball of a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tarball {
    /// Where it is, in its one form.
    pub url: String,
    /// Checksum in lower-case digits; empty is any.
    pub sha256: String,
    /// Folder in it; empty is its root.
    pub subdirectory: String,
}

/// How a repository may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitProtocol {
    /// Over HTTP, with TLS but where `asset_allow_http` says otherwise.
    Https,
    /// By the service's own keys.
    Ssh,
    /// Git's own, which nothing protects.
    Git,
}

impl GitProtocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Https, Self::Ssh, Self::Git];

    /// As the configuration writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
            Self::Git => "git",
        }
    }
}

impl fmt::Display for GitProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where sources may be.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Hosts and addresses, the same as for assets.
    pub policy: Arc<Policy>,
    /// How repositories may be asked.
    pub git_protocols: Vec<GitProtocol>,
}

type Wrong = (&'static str, String);

impl Rules {
    /// Checks a source; the error names the field below `source` and says what to do.
    pub fn check(&self, given: Given) -> Result<Source, Wrong> {
        match given {
            Given::Git { url, reference, subdirectory, login } => {
                let url = self.git_url(&url).map_err(|why| ("git.url", why))?;
                if login.is_some() && !matches!(url.scheme(), "https" | "http") {
                    let why = "is for https; ssh takes the service's own keys".to_owned();
                    return Err(("git.credential", why));
                }
                let reference = reference_of(reference).map_err(|why| ("git.ref", why))?;
                let subdirectory =
                    folder(&subdirectory).map_err(|why| ("git.subdirectory", why))?;
                Ok(Source::Git(Git { url, reference, subdirectory, login }))
            }
            Given::Tarball { url, sha256, subdirectory } => {
                let url = self.policy.source(&url).map_err(|why| ("tarball.url", why))?;
                let sha256 = match sha256.as_str() {
                    "" => String::new(),
                    text => asset::checksum(text).map_err(|why| ("tarball.sha256", why))?,
                };
                let subdirectory =
                    folder(&subdirectory).map_err(|why| ("tarball.subdirectory", why))?;
                Ok(Source::Tarball(Tarball { url: url.into(), sha256, subdirectory }))
            }
            Given::Upload(id) => {
                match id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    true => Ok(Source::Upload(id)),
                    false => Err((
                        "uploadId",
                        "is no id of an upload; take the one that UploadBuildContext answered"
                            .to_owned(),
                    )),
                }
            }
        }
    }

    fn git_url(&self, text: &str) -> Result<Url, String> {
        let url = asset::plain_url(text).map_err(|why| match text.contains("://") {
            true => why,
            false => format!("{why}; write user@host:path as ssh://user@host/path"),
        })?;
        let protocol = match url.scheme() {
            "https" | "http" => GitProtocol::Https,
            "ssh" => GitProtocol::Ssh,
            "git" => GitProtocol::Git,
            other => {
                return Err(format!("has the scheme \"{other}\"; use https, ssh or git"));
            }
        };
        if !self.git_protocols.contains(&protocol) {
            return Err(format!(
                "uses {protocol}, which git_protocols does not list; use another, or have it \
                 allowed"
            ));
        }
        if protocol == GitProtocol::Https {
            self.policy.check_http(&url)?;
            return Ok(url);
        }
        let user = url.username();
        let plain = user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let user_fits = plain && !user.starts_with('-') && protocol == GitProtocol::Ssh;
        if url.password().is_some() || (!user.is_empty() && !user_fits) {
            return Err("carries a password, or a user name that is no name".to_owned());
        }
        // What begins so would be an option to the programs that git calls.
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() || host.starts_with('-') || url.path().starts_with("/-") {
            return Err(format!("\"{url}\" has no host; write one as ssh://git@host/path"));
        }
        // It becomes part of a command, which git gives to a shell.
        let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !named && !matches!(url.host(), Some(Host::Ipv6(_))) {
            return Err(format!(
                "{host:?} is no name of a host; use letters, digits, \".\", \"-\" and \"_\", or \
                 an address"
            ));
        }
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            // Other schemes than http keep the text of an address.
            Some(Host::Domain(name)) => name.parse().ok(),
            None => None,
        };
        literal.map_or(Ok(()), |ip| self.policy.check_address(ip))?;
        Ok(url)
    }
}

/// The error for a source that is more than the limits allow.
pub fn too_large(what: &str) -> Error {
    let told = format!("the build context {what}; leave something out");
    Error::new(Kind::ResourceExhausted, "CONTEXT_TOO_LARGE", told)
}

fn reference_of(text: String) -> Result<String, String> {
    let text = if text.is_empty() { "HEAD".to_owned() } else { text };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+@#".contains(&byte) || byte > 127;
    let odd = text.starts_with(['-', '+', '/']) || text.contains("..") || text.contains("@{");
    match text.len() <= LONGEST && !odd && text.bytes().all(fits) {
        true => Ok(text),
        false => Err(format!("{text:?} is no branch, tag or commit")),
    }
}

fn folder(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let odd = text.starts_with('/') || parts.contains(&"..") || text.contains('\0');
    match text.len() <= LONGEST && !odd {
        true => Ok(parts.join("/")),
        false => Err(format!("{text:?} is no folder below the source; write one as services/web")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{address::Range, asset::HostRule};

    fn git(url: &str) -> Given {
        let (reference, subdirectory) = (String::new(), String::new());
        Given::Git { url: url.into(), reference, subdirectory, login: None }
    }

    fn wrong(rules: &Rules, given: Given) -> String {
        let (field, why) = rules.check(given).unwrap_err();
        format!("{field} {why}")
    }

    #[test]
    fn repositories_are_asked_by_what_is_allowed_and_where_it_is() {
        let strict = Rules { git_protocols: vec![GitProtocol::Https], ..Rules::default() };
        assert!(strict.check(git("https://example.com/a.git")).is_ok());
        for (url, words) in [
            ("http://example.com/a", "asset_allow_http"),
            ("ssh://git@example.com/a", "git_protocols"),
            ("git@example.com:a/b", "ssh://user@host/path"),
            ("file:///etc", "scheme"),
            ("ext::sh -c id", "scheme"),
            ("https://me:secret@example.com/a", "user name or password"),
            ("https://127.0.0.1/a", "loopback"),
            ("https://169.254.169.254/a", "refused"),
            ("https://[::ffff:127.0.0.1]/a", "loopback"),
            ("", "no URL"),
        ] {
            let told = wrong(&strict, git(url));
            assert!(told.starts_with("git.url ") && told.contains(words), "{url}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let open = Rules { git_protocols: GitProtocol::ALL.to_vec(), ..Rules::default() };
        for url in [
            "ssh://git@example.com:22/a.git",
            "ssh://git@my_host-1.Example.com/a.git",
            "ssh://git@[2606:4700::1]/a.git",
            "git://example.com/a",
        ] {
            assert!(open.check(git(url)).is_ok(), "{url}");
        }
        for url in [
            "ssh://-oProxyCommand=id/a",
            "ssh://-l@example.com/a",
            "ssh://me:secret@example.com/a",
            "git://user@example.com/a",
            "git://127.0.0.1/a",
            "ssh://[::1]/a",
            "ssh://example.com/-x",
            "ssh://a$(id)/x",
            "ssh://a`id`/x",
            "ssh://a;id/x",
            "ssh://a&id/x",
            "ssh://a'b/x",
            "ssh://a\"b/x",
            "ssh://a*b/x",
            "ssh://a%20b/x",
            "ssh://ä/x",
            "git://a$(id)/x",
        ] {
            assert!(open.check(git(url)).is_err(), "{url}");
        }
        let policy = Policy {
            http_hosts: vec![HostRule::parse("127.0.0.1").unwrap()],
            addresses: vec![Range::parse("127.0.0.0/8").unwrap()],
            file_roots: Vec::new(),
        };
        let local = Rules { policy: policy.into(), ..open };
        for url in ["git://127.0.0.1:9418/a", "http://127.0.0.1:1/a"] {
            assert!(local.check(git(url)).is_ok(), "{url}");
        }
    }

    #[test]
    fn references_folders_and_ids_are_names_and_nothing_else() {
        let rules = Rules { git_protocols: GitProtocol::ALL.to_vec(), ..Rules::default() };
        let of = |reference: &str, subdirectory: &str| Given::Git {
            url: "https://example.com/a".into(),
            reference: reference.into(),
            subdirectory: subdirectory.into(),
            login: None,
        };
        for (reference, folder) in [("v1.0/x", "a//./b/"), ("", ""), ("feature#1", "x y")] {
            assert!(rules.check(of(reference, folder)).is_ok(), "{reference}");
        }
        for reference in ["-x", "a:b", "a..b", "a b", "HEAD^", "@{u}", "+a", "a\n"] {
            assert!(wrong(&rules, of(reference, "")).starts_with("git.ref "), "{reference}");
        }
        for folder in ["..", "a/../..", "/etc", "a\0"] {
            assert!(wrong(&rules, of("", folder)).starts_with("git.subdirectory "), "{folder}");
        }
        assert!(wrong(&rules, Given::Upload("../x".into())).starts_with("uploadId "));
        assert!(rules.check(Given::Upload("0".repeat(32))).is_ok());
    }
}
