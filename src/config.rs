//! Flags, environment and file become one validated configuration, before any bind.

mod args;
mod describe;
mod error;
mod host;
mod layers;
mod load;
mod parse;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use args::ServeArgs;
pub use error::ConfigError;
pub use host::default_data_dir;
pub use parse::{duration, size};

use crate::domain::{address::Range, asset::HostRule, source::GitProtocol};
pub use crate::domain::{gpu::overrun::OnOverrun, logs::SourceChoice, restart::Policy};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Everything that the server needs to know. A flag wins over the environment,
/// the environment over the file, the file over the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the API is served, at least one. Port 0 lets the kernel choose.
    /// Default `tcp://127.0.0.1:11337`.
    pub listen: Vec<Listen>,
    /// Directory for all that must outlive the process, absolute. Default
    /// `/var/lib/container-svc` for root, else `$XDG_DATA_HOME/container-svc` or
    /// `~/.local/share/container-svc`.
    pub data_dir: PathBuf,
    /// What the engine's host calls the data directory, where that cannot be found
    /// out. Default: found out, where the service runs in a container of the engine,
    /// else the same.
    pub host_data_dir: Option<PathBuf>,
    /// File to which the first start writes the admin token. Default `admin.token`
    /// in the data directory.
    pub token_file: PathBuf,
    /// Address of the Docker engine: `unix://`, `tcp://` or `http://`. Default
    /// `unix:///var/run/docker.sock`. `DOCKER_HOST` sets it too.
    pub engine: String,
    /// Id of this node, 1 to 128 of `[a-zA-Z0-9_.-]`. Default: the host name.
    /// `OB_NODE_ID` sets it too.
    pub node_id: String,
    /// URL of the 1Backend server, http or https. Default: none. `OB_SERVER_URL`
    /// sets it too.
    pub server_url: Option<String>,
    /// URL at which others reach this service, http or https. Default: none.
    /// `OB_SELF_URL` sets it too.
    pub self_url: Option<String>,
    /// Docker network that our containers join. Default `container-svc`; `bridge`
    /// is the engine's own, in which names do not resolve.
    pub network: String,
    /// First and last host port from which ports are chosen, 1024 to 65535.
    /// Default 20000 to 29999.
    pub port_range: (u16, u16),
    /// Host address on which ports are published when a request names none.
    /// Default `0.0.0.0`.
    pub port_address: IpAddr,
    /// Docker config file, or the directory of its `config.json`, that holds the
    /// credentials of registries. Default: where the docker command looks.
    pub docker_config: Option<PathBuf>,
    /// Folders below which builds may read their contexts and Dockerfiles, absolute.
    /// Default: none, so that no build reads this machine's files.
    pub build_roots: Vec<PathBuf>,
    /// How builds may ask git repositories: `https`, `ssh`, `git`. Default `https`.
    pub git_protocols: Vec<GitProtocol>,
    /// Further certificate authorities for git over https, a PEM file. Default: none.
    pub git_ca_file: Option<PathBuf>,
    /// Most bytes of a build's source that is fetched or uploaded, from 1 KiB on.
    /// Default 4 GiB.
    pub build_source_max_bytes: u64,
    /// How long fetching or uploading one may take, 1 s to 7 d. Default 30 m.
    pub build_source_max_time: Duration,
    /// How long an uploaded context waits for its build, 1 s to 7 d. Default 1 h.
    pub build_upload_max_age: Duration,
    /// Registries, `host` or `host:port`, that are spoken to without TLS. Default: none.
    pub insecure_registries: Vec<String>,
    /// How long nothing may come of a pull before it is tried again, and nothing be taken
    /// of a push, or come of an image of a build, before it is given up, 1 s to 1 h. Default
    /// 60 s.
    pub pull_stall_timeout: Duration,
    /// Origins whose web pages may call the API, as in `https://ui.example.com`, or
    /// `*`. Default: none.
    pub cors_origins: Vec<String>,
    /// Largest request body in bytes, 1 KiB to 256 MiB. Default 4 MiB.
    pub max_body_bytes: usize,
    /// Whether health, reflection and `/openapi.json` answer without a token.
    /// Default true.
    pub public_meta: bool,
    /// Whether everything answers without a token. Only where all listeners are
    /// loopback or Unix sockets. Default false.
    pub anonymous: bool,
    /// What is logged, in the syntax of `RUST_LOG`. Default `info`.
    pub log: String,
    /// How log lines look. Default text.
    pub log_format: LogFormat,
    /// Where log lines are collected from. Default auto: from the engine's files
    /// where they can be read, else from its API.
    pub logs_source: SourceChoice,
    /// How long log lines are kept, 1 m to 3650 d. Default 30 d.
    pub logs_max_age: Duration,
    /// Most bytes that the stored logs of one container take, from 1 MiB on.
    /// Default 1 GiB.
    pub logs_max_bytes_each: u64,
    /// Most bytes that all stored logs take, from 1 MiB on. Default 10 GiB.
    pub logs_max_bytes: u64,
    /// Largest log file that the engine writes for a container that this service
    /// makes, from 4 KiB on. Default 10 MiB.
    pub container_log_bytes: u64,
    /// How many of these files it keeps, 1 to 100. Default 3.
    pub container_log_files: u32,
    /// How long events are kept, 1 m to 3650 d. Default 90 d.
    pub events_max_age: Duration,
    /// How many events are kept, 100 to 1000000. Default 100000.
    pub events_max_count: u64,
    /// NVIDIA's management library: a name that the loader finds, or an absolute path.
    /// Default `libnvidia-ml.so.1`. A node without it has no GPU.
    pub nvml_library: String,
    /// How often GPUs are looked at while containers have some, 250 ms to 7 s. Default 5 s.
    pub gpu_interval: Duration,
    /// Whether containers are asked, every second look, whether they still see their
    /// GPUs: `nvidia-smi -L` is run in those that have it. Default true.
    pub gpu_check: bool,
    /// What is done about a container that uses more GPU memory than it booked where its
    /// request says nothing. Default report.
    pub gpu_overrun: OnOverrun,
    /// How long a GPU is given to nobody after an XID that tells that it is broken, 1 s
    /// to 7 d. Default 10 m.
    pub gpu_drain_time: Duration,
    /// Where the control daemon of NVIDIA's MPS has its pipes, absolute, on the engine's
    /// host. While it is there, containers that book a share of a GPU are its clients and
    /// are kept within. Default `/tmp/nvidia-mps`.
    pub gpu_mps_directory: PathBuf,
    /// Hosts from which assets may be fetched without TLS: `host`, `host:port`, `*.host`
    /// or `*`. Default: none.
    pub asset_allow_http: Vec<HostRule>,
    /// Addresses, or ranges as `10.0.0.0/8`, from which assets may be fetched although
    /// they are loopback, link-local or the like. Default: none.
    pub asset_allow_addresses: Vec<Range>,
    /// Folders from which assets may be taken by `file://`, absolute. Default: none.
    pub asset_file_roots: Vec<PathBuf>,
    /// URL of the 1Backend server whose File Svc is asked for an asset before its own
    /// source. Default: none.
    pub asset_file_svc: Option<String>,
    /// Most bytes of one asset, from 1 KiB on. Default 100 GiB.
    pub asset_max_bytes: u64,
    /// How long fetching one asset may take, 1 s to 7 d. Default 6 h.
    pub asset_max_time: Duration,
    /// Least bytes a second that an asset, or an upload for a build, must come with.
    /// Default 1 KiB.
    pub asset_min_rate: u64,
    /// How long the source of an asset may take to answer, and over which its rate is
    /// measured, and how long a git server may send nothing, 1 s to 1 h. Default 30 s.
    pub asset_stall_timeout: Duration,
    /// Bytes that assets leave free on their disk. Default 256 MiB.
    pub asset_min_free_bytes: u64,
    /// How long an asset stays that no container has, 1 s to 3650 d. Default 30 d.
    pub asset_max_age: Duration,
    /// Most bytes of all assets; those that no container has go when there are more.
    /// Default 500 GiB.
    pub asset_max_total_bytes: u64,
    /// Which ends of a named container are followed by a start where its request says
    /// nothing. Default on-failure.
    pub restart_policy: Policy,
    /// How long open calls may go on after a stop signal, at most 1 h. Default 10 s.
    pub drain_timeout: Duration,
    /// How long one call to the engine may take, 1 s to 1 h; creating, starting and
    /// removing may take four times as long, pulls and log streams are not bound by
    /// it. Default 30 s.
    pub engine_timeout: Duration,
}

/// A place at which the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// The file of the database.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("container-svc.db")
    }

    /// The file of the log database.
    pub fn log_database(&self) -> PathBuf {
        self.data_dir.join("logs.db")
    }

    /// The folder of the asset cache.
    pub fn asset_folder(&self) -> PathBuf {
        self.data_dir.join("assets")
    }

    /// The settings in force, as a file that `--config` accepts. Holds no secrets.
    pub fn describe(&self) -> String {
        describe::describe(self)
    }
}

impl Listen {
    /// True when only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Display for SourceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Files => "files",
            Self::Engine => "engine",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
