//! A real registry of the test's own, on loopback, open or with a password.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::support::{DEADLINE, Service, docker, image, unique};

pub mod fault_proxy;

/// `alice` with the password `sesame`.
const HTPASSWD: &str = "alice:$2b$04$lPSyKFuOywoT/1jzyan9TuDAqz13n0JMafNAkTPL.L5GWQV9wLgb2\n";
/// The same for a Docker config file.
pub const ALICE: &str = "YWxpY2U6c2VzYW1l";

/// A real registry; it and what it gave are gone when it is dropped.
pub struct Registry {
    /// As it stands in an image's name.
    pub host: String,
    dir: TempDir,
    _process: Child,
    reader: JoinHandle<()>,
}

impl Registry {
    #[expect(clippy::disallowed_methods, reason = "the test owns the registry")]
    /// Starts one, open or with a password.
    pub async fn start(auth: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n"
        );
        if auth {
            std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("a file");
            config += &format!("auth: {{htpasswd: {{realm: test, path: {at}/htpasswd}}}}\n");
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).expect("a file");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("no docker-registry to test against: run `make engine`");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    return rest.split(['"', ' ', ',']).next().unwrap_or_default().to_owned();
                }
            }
            panic!("docker-registry ended before it listened")
        };
        let host = tokio::time::timeout(DEADLINE, listening).await.expect("it listens in time");
        // Its log must be read on, else the full pipe would stop it.
        let reader =
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let registry = Self { host, dir, _process: process, reader };
        registry.write_config("alice", ALICE);
        registry.write_config("nobody", "");
        registry
    }

    /// The Docker config of `alice` or `nobody`, by its directory.
    pub fn config_of(&self, who: &str) -> PathBuf {
        self.dir.path().join(who)
    }

    /// Gives somebody a Docker config with this login.
    pub fn write_config(&self, who: &str, auth: &str) {
        let dir = self.config_of(who);
        std::fs::create_dir_all(&dir).expect("a directory");
        let auths = match auth {
            "" => String::new(),
            auth => format!("\"{}\":{{\"auth\":\"{auth}\"}}", self.host),
        };
        std::fs::write(dir.join("config.json"), format!("{{\"auths\":{{{auths}}}}}"))
            .expect("a file");
    }

    /// A service whose own Docker config holds no credentials.
    pub async fn service(&self) -> Service {
        let config = self.config_of("nobody");
        Service::with(|with| with.docker_config = Some(config)).await.synced().await
    }

    /// Pushes an image with a layer of its own; it is not on the node then.
    pub fn push(&self, repository: &str) -> String {
        let name = self.make(repository);
        let config = self.config_of("alice");
        let pushed = docker(&["--config", &config.to_string_lossy(), "push", &name]);
        assert!(pushed.contains("digest: sha256:"), "{pushed}");
        docker(&["rmi", &name]);
        assert_eq!(docker(&["images", "-q", &name]), "");
        name
    }

    /// Makes an image with a layer of its own.
    pub fn make(&self, repository: &str) -> String {
        let name = format!("{}/{repository}:1", self.host);
        let made = unique("layer");
        let file = self.dir.path().join(&made);
        std::fs::write(&file, noise()).expect("a file");
        docker(&["create", "--name", &made, image(), "true"]);
        docker(&["cp", &file.to_string_lossy(), &format!("{made}:/noise")]);
        let id = docker(&["commit", &made, &name]);
        docker(&["rm", "-f", &made]);
        assert!(id.starts_with("sha256:"), "{id}");
        name
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.reader.abort();
        let mine = format!("reference={}/**", self.host);
        for name in
            docker(&["images", "--filter", &mine, "--format", "{{.Repository}}:{{.Tag}}"]).lines()
        {
            docker(&["rmi", "-f", name]);
        }
    }
}

/// A mebibyte that does not compress.
fn noise() -> Vec<u8> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let random = std::fs::File::open(Path::new("/dev/urandom")).expect("noise");
    random.take(1 << 20).read_to_end(&mut bytes).expect("noise");
    bytes
}
