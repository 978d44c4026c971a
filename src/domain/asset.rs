//! Assets: files that are fetched for a container and mounted into it, one each.

use std::{
    fmt,
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use super::{
    address::{self, Range},
    keep,
    spec::hex,
};

/// Most assets of one container.
pub const MOST: usize = 64;
/// Longest URL.
const LONGEST_URL: usize = 4096;
/// Longest name of a file in the container, in bytes; file systems take 255.
const LONGEST_NAME: usize = 200;
/// Where assets are mounted that name no path of their own.
const FOLDER: &str = "/assets";
/// What anybody in the container may do with an asset that names no mode.
const DEFAULT_MODE: u32 = 0o444;
/// Paths that the kernel fills.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// An asset as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Environment variable that holds the path in the container.
    pub env_var_key: String,
    /// Where the file comes from.
    pub url: String,
    /// Checksum of its content, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Path in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Mode of the file, in octal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether the source is asked for a newer content.
    #[serde(skip)]
    pub refresh: bool,
}

/// A checked asset with every default made explicit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// As it came.
    pub given: Given,
    /// Its place among the assets of the request.
    pub at: usize,
    /// The URL in its one form.
    pub url: String,
    /// Checksum in lower-case digits; empty is none.
    pub sha256: String,
    /// Path in the container.
    pub path: String,
    /// Permission bits of the file; never one for writing.
    pub mode: u32,
}

impl Given {
    /// The same with its URL as it is shown, for those who may look at a container.
    pub fn as_shown(&self) -> Self {
        Self { url: shown(&self.url), ..self.clone() }
    }
}

impl Asset {
    /// Checks one; each error names the part of it that is wrong and says what to do.
    pub fn resolve(
        given: Given,
        at: usize,
        policy: &Policy,
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut note = |field: &'static str, why| wrong.push((field, why));
        if let Err(why) = env_var_key(&given.env_var_key) {
            note("envVarKey", why);
        }
        let url = policy.source(&given.url).map_err(|why| note("url", why)).ok();
        let sha256 = given.sha256.as_deref().map_or(Ok(String::new()), checksum);
        let sha256 = sha256.map_err(|why| note("sha256", why)).unwrap_or_default();
        let mode = given.mode.as_deref().map_or(Ok(DEFAULT_MODE), mode);
        let mode = mode.map_err(|why| note("mode", why)).unwrap_or_default();
        let path = match (given.path.as_deref(), &url) {
            (Some(path), _) => self::path(path).map_err(|why| note("path", why)).ok(),
            (None, Some(url)) => Some(format!("{FOLDER}/{}/{}", given.env_var_key, file_name(url))),
            (None, None) => None,
        };
        match (url, path, wrong.is_empty()) {
            (Some(url), Some(path), true) => {
                Ok(Self { url: url.into(), sha256, path, mode, at, given })
            }
            _ => Err(wrong),
        }
    }

    /// What stands in the canonical form of a spec.
    pub fn canonical(&self) -> [String; 5] {
        let mode = format!("{:04o}", self.mode);
        [
            self.given.env_var_key.clone(),
            self.url.clone(),
            self.sha256.clone(),
            self.path.clone(),
            mode,
        ]
    }

    /// What the cache knows it by.
    pub fn id(&self) -> String {
        id(&self.url)
    }
}

/// What the cache knows a URL by, in its one form: 32 hexadecimal digits.
pub fn id(url: &str) -> String {
    hex(&Sha256::digest(url))[..32].to_owned()
}

/// Brings a URL into its one form without asking whether it may be fetched.
pub fn plain_url(text: &str) -> Result<Url, String> {
    if text.len() > LONGEST_URL {
        return Err(format!("has {} bytes; at most {LONGEST_URL}", text.len()));
    }
    let remedy = "write one as https://host/path/file";
    let mut url = Url::parse(text)
        .map_err(|why| format!("\"{}\" is no URL: {why}; {remedy}", shown(text)))?;
    url.set_fragment(None);
    Ok(url)
}

/// A URL, or what was meant for one, as it is shown: what stands in a query may be a
/// signature, and what stands before the host a password.
pub fn shown(url: &str) -> String {
    let (plain, query) = match url.split_once('?') {
        Some((plain, _)) => (plain, "?[redacted]"),
        None => (url, ""),
    };
    let begin = plain.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = plain.split_at(begin);
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}[redacted]{}{query}", &rest[at..]),
        None => format!("{plain}{query}"),
    }
}

/// The file of the cache that holds a content under a mode.
pub fn cache_file(sha256: &str, mode: u32) -> String {
    format!("{sha256}-{mode:04o}")
}

/// The content that a file of the cache holds; `None` for a file that is none.
pub fn content_of(file: &str) -> Option<&str> {
    let (content, mode) = file.split_once('-')?;
    let digits = content.len() == 64 && content.bytes().all(|byte| byte.is_ascii_hexdigit());
    (digits && u32::from_str_radix(mode, 8).is_ok()).then_some(content)
}

/// Where assets may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Hosts that may be asked without TLS.
    pub http_hosts: Vec<HostRule>,
    /// Addresses that may be asked although a rule refuses them.
    pub addresses: Vec<Range>,
    /// Folders of this machine from which files may be taken.
    pub file_roots: Vec<PathBuf>,
}

impl Policy {
    /// The URL in its one form, when an asset may come from there. The error says
    /// which rule refuses it.
    pub fn source(&self, text: &str) -> Result<Url, String> {
        let url = plain_url(text)?;
        match url.scheme() {
            "file" => self.check_file(&url)?,
            _ => self.check_http(&url)?,
        }
        Ok(url)
    }

    /// The same for a URL that a redirect leads to, which is never a file of ours.
    pub fn check_http(&self, url: &Url) -> Result<(), String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("carries a user name or password; leave them out of the URL".to_owned());
        }
        let told = shown(url.as_str());
        if !matches!(url.scheme(), "https" | "http") {
            let scheme = url.scheme();
            return Err(format!(
                "\"{told}\" has the scheme \"{scheme}\"; use https, or http or file where allowed"
            ));
        }
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(name)) if !name.is_empty() => None,
            _ => return Err(format!("\"{told}\" has no host; write one as https://host/file")),
        };
        if url.scheme() == "http" && !self.http_hosts.iter().any(|rule| rule.fits(url)) {
            let host = url.host_str().unwrap_or_default();
            return Err(format!(
                "\"{told}\" is not https, and the host {host} is not in asset_allow_http; \
                 use https, or have it allowed"
            ));
        }
        literal.map_or(Ok(()), |ip| self.check_address(ip))
    }

    /// Refuses an address that a name led to, or that stands in the URL itself.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), String> {
        match address::rule(ip) {
            Some(rule) if !self.addresses.iter().any(|range| range.contains(ip)) => Err(format!(
                "{ip} is {rule}, which is refused; use another host, \
                 or have it allowed by asset_allow_addresses"
            )),
            _ => Ok(()),
        }
    }

    fn check_file(&self, url: &Url) -> Result<(), String> {
        let path = file_path(url)?;
        // Only the words of the path: whether its links lead out is seen when it is opened.
        if path.components().any(|part| part == Component::ParentDir)
            || !self.file_roots.iter().any(|root| path.starts_with(root) && path != *root)
        {
            return Err(format!(
                "\"{url}\" is not below one of asset_file_roots; \
                 use a file there, or have its folder allowed"
            ));
        }
        Ok(())
    }
}

/// The path that a `file://` URL names.
pub fn file_path(url: &Url) -> Result<PathBuf, String> {
    let local = matches!(url.host_str(), None | Some("localhost"));
    let path = percent_decode_str(url.path()).decode_utf8().ok();
    match path.filter(|path| local && !path.contains('\0')) {
        Some(path) => Ok(Path::new(path.as_ref()).to_path_buf()),
        None => Err(format!("\"{url}\" names no file of this machine; write file:///path/file")),
    }
}

/// Hosts that are meant by a setting: `host`, `host:port`, `*.host`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    host: String,
    port: Option<u16>,
}

impl HostRule {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            // The last part of an IPv6 address is no port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (text, None),
        };
        let bare = host.strip_prefix("*.").unwrap_or(host);
        if bare == "*" && host == "*" {
            return Some(Self { host: host.to_owned(), port });
        }
        // A URL has the host in its one form, so the rule has it too.
        let name = Host::parse(bare).ok()?.to_string();
        let host = if bare == host { name } else { format!("*.{name}") };
        Some(Self { host, port })
    }

    fn fits(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let same = match self.host.strip_prefix('*') {
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == self.host,
        };
        same && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// The key is also a part of the path in the container.
fn env_var_key(key: &str) -> Result<(), String> {
    let first = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let rest = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    match first && rest && key.len() <= 128 {
        true => Ok(()),
        false => Err(format!(
            "\"{key}\" is no key; use 1 to 128 of [a-zA-Z0-9_.-], a letter, digit or \"_\" first"
        )),
    }
}

/// A sha256 in lower-case digits.
pub fn checksum(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(digits.to_ascii_lowercase()),
        false => Err(format!("\"{text}\" is no sha256; write its 64 hexadecimal digits")),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(bits) if digits && bits & !0o555 == 0 && bits & 0o444 != 0 => Ok(bits),
        _ => Err(format!(
            "\"{text}\" is no mode of an asset, which nobody writes to; \
             use octal digits that let somebody read, as 0444 or 0555"
        )),
    }
}

fn path(given: &str) -> Result<String, String> {
    if given.ends_with('/') {
        return Err(format!("\"{given}\" is a folder; name the file, as /models/model.gguf"));
    }
    let path = keep::path(given)?;
    if KERNEL.iter().any(|root| Path::new(&path).starts_with(root)) {
        return Err(format!("\"{path}\" belongs to the kernel; use a path elsewhere"));
    }
    Ok(path)
}

/// The file name of a URL, as far as a file may be called so. Programs look at its end.
fn file_name(url: &Url) -> String {
    let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let decoded = percent_decode_str(last).decode_utf8_lossy();
    let safe = |c: char| c != '/' && !c.is_control();
    let name: String = decoded.chars().map(|c| if safe(c) { c } else { '_' }).collect();
    if name.chars().all(|c| c == '.') {
        return "asset".to_owned();
    }
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let (stem, end) = match name.rfind('.') {
        Some(dot) if name.len() - dot <= 32 => name.split_at(dot),
        _ => (name.as_str(), ""),
    };
    let mut most = LONGEST_NAME - end.len();
    while !stem.is_char_boundary(most) {
        most -= 1;
    }
    format!("{}{end}", &stem[..most])
}

#[cfg(test)]
mod tests;
