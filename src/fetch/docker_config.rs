//! Registry credentials from the Docker client's own configuration file.

use std::{collections::BTreeMap, env, fmt, io::ErrorKind, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::credential_helper;
use crate::domain::{Error, Result};

/// The key under which Docker keeps what belongs to docker.io.
const DOCKER_IO_KEY: &str = "https://index.docker.io/v1/";
const FILE_MAX: u64 = 1024 * 1024;

/// What a registry knows us by. Printing it for debugging hides the secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// User name; empty with an identity token.
    pub username: String,
    /// Password or access token; empty with an identity token.
    pub password: String,
    /// A refresh token, which the token server takes in place of a password.
    pub identity_token: Option<String>,
}

impl Credential {
    /// A user name and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), identity_token: None }
    }

    /// An identity token.
    pub fn identity(token: impl Into<String>) -> Self {
        let identity_token = Some(token.into());
        Self { username: String::new(), password: String::new(), identity_token }
    }

    /// SHA-256 in hexadecimal: a key that tells credentials apart. It stays in memory, because
    /// a weak password can be guessed from it.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let token = self.identity_token.as_deref().unwrap_or_default();
        for part in [self.username.as_str(), self.password.as_str(), token] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where the file is. It is read at each use, so that a `docker login` counts at once.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    /// The file, or the folder of its `config.json`; else `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    pub file: Option<PathBuf>,
    /// Folder of the `docker-credential-*` programs; else they are searched in `PATH`.
    pub helpers: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct File {
    auths: Option<BTreeMap<String, Auth>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl DockerConfig {
    /// The credential for a registry, named as in an image reference; `None` is anonymous.
    pub async fn credential(&self, registry: &str) -> Result<Option<Credential>> {
        let Some(path) = self.path() else {
            return Ok(None);
        };
        let shown = path.display().to_string();
        let Some(text) = read(path).await? else {
            return Ok(None);
        };
        // Line and column only: serde_json's message can quote a secret.
        let file: File = serde_json::from_slice(&text).map_err(|e| {
            let (line, column) = (e.line(), e.column());
            broken(&shown, &format!("is not valid at line {line}, column {column}: correct it"))
        })?;
        let server = if registry == "docker.io" { DOCKER_IO_KEY } else { registry };
        let own = file.cred_helpers.as_ref().and_then(|helpers| find(helpers, registry));
        let shared = file.creds_store.as_ref().filter(|name| !name.is_empty());
        if let Some(name) = own.or(shared)
            && let Some(found) =
                credential_helper::get(self.helpers.as_deref(), name, server).await?
        {
            return Ok(Some(found));
        }
        match file.auths.as_ref().and_then(|auths| find(auths, registry)) {
            Some(auth) => auth.credential().map_err(|what| {
                broken(&shown, &format!("has for {registry} {what}: run `docker login` again"))
            }),
            None => Ok(None),
        }
    }

    fn path(&self) -> Option<PathBuf> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let in_folder = |path: PathBuf| match path.is_dir() {
            true => path.join("config.json"),
            false => path,
        };
        self.file
            .clone()
            .map(in_folder)
            .or_else(|| set("DOCKER_CONFIG").map(|folder| folder.join("config.json")))
            .or_else(|| set("HOME").map(|home| home.join(".docker/config.json")))
    }
}

impl Auth {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credential::identity(token)));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let bytes = STANDARD.decode(auth.trim()).map_err(|_| "an auth that is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "an auth that is not text")?;
            let (user, password) = text.split_once(':').ok_or("an auth without a colon")?;
            return Ok(Some(Credential::basic(user, password.trim_matches('\0'))));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Ok(Some(Credential::basic(user, password)))
            }
            // With a credential store, Docker leaves an empty entry behind.
            _ => Ok(None),
        }
    }
}

async fn read(path: PathBuf) -> Result<Option<Vec<u8>>> {
    let shown = path.display().to_string();
    let unreadable =
        |cause: std::io::Error| broken(&shown, "cannot be read: check its owner").because(cause);
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let mut text = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut text).await.map_err(unreadable)?;
    if text.len() as u64 > FILE_MAX {
        return Err(broken(&shown, "is larger than 1 MiB: is it the right file?"));
    }
    Ok(Some(text))
}

/// The entry of a registry: by its key, else by the host of a key that is a URL.
fn find<'a, T>(entries: &'a BTreeMap<String, T>, registry: &str) -> Option<&'a T> {
    let host = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        let host = key.split('/').next().unwrap_or(key).to_ascii_lowercase();
        if host == "index.docker.io" { "docker.io".to_owned() } else { host }
    };
    let exact = if registry == "docker.io" { DOCKER_IO_KEY } else { registry };
    let wanted = registry.to_ascii_lowercase();
    entries
        .get(exact)
        .or_else(|| entries.iter().find(|(key, _)| host(key) == wanted).map(|(_, entry)| entry))
}

fn broken(file: &str, what: &str) -> Error {
    Error::precondition("DOCKER_CONFIG", format!("The Docker config file {file} {what}."))
}
