//! The flags of `serve`. They are kept as text, so that one parser serves all layers.

use std::{collections::BTreeMap, path::PathBuf};

/// Settings of the server. Each can also stand in the file, under the flag's name
/// with `_` for `-`, and in the environment, as CONTAINER_SVC_ and that name in
/// capitals. A flag wins over the environment, the environment over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// TOML file with settings [env: CONTAINER_SVC_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to serve, as 127.0.0.1:11337, tcp://127.0.0.1:0 or unix:///run/c.sock;
    /// repeatable [default: 127.0.0.1:11337]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Directory for the database and the admin token
    /// [default: /var/lib/container-svc for root, else the user's data directory]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// What the engine's host calls the data directory [default: found out]
    #[arg(long, value_name = "DIR")]
    pub host_data_dir: Option<String>,
    /// File for the admin token, which the client's flag of the same name sets.
    #[arg(skip)]
    pub token_file: Option<String>,
    /// Address of the Docker engine: unix://, tcp:// or http:// [env: DOCKER_HOST]
    /// [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "ADDRESS")]
    pub engine: Option<String>,
    /// Id of this node [env: OB_NODE_ID] [default: the host name]
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// URL of the 1Backend server [env: OB_SERVER_URL]
    #[arg(long, value_name = "URL")]
    pub server_url: Option<String>,
    /// URL at which others reach this service [env: OB_SELF_URL]
    #[arg(long, value_name = "URL")]
    pub self_url: Option<String>,
    /// Docker network that containers join [default: container-svc]
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Host ports to choose from [default: 20000-29999]
    #[arg(long, value_name = "FIRST-LAST")]
    pub port_range: Option<String>,
    /// Host address on which ports are published [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub port_address: Option<String>,
    /// Docker config file or directory with the credentials of registries
    #[arg(long, value_name = "PATH")]
    pub docker_config: Option<String>,
    /// Folder below which builds may read; repeatable [default: none]
    #[arg(long = "build-roots", alias = "build-root", value_name = "DIR")]
    pub build_roots: Vec<String>,
    /// How builds may ask git repositories: https, ssh or git; repeatable [default: https]
    #[arg(long = "git-protocols", alias = "git-protocol", value_name = "PROTOCOL")]
    pub git_protocols: Vec<String>,
    /// PEM file with further certificate authorities for git over https
    #[arg(long, value_name = "FILE")]
    pub git_ca_file: Option<String>,
    /// Most bytes of a build's source that is fetched or uploaded [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub build_source_max_bytes: Option<String>,
    /// How long fetching or uploading one may take [default: 30m]
    #[arg(long, value_name = "TIME")]
    pub build_source_max_time: Option<String>,
    /// How long an uploaded context waits for its build [default: 1h]
    #[arg(long, value_name = "TIME")]
    pub build_upload_max_age: Option<String>,
    /// Registry that is spoken to without TLS, host or host:port; repeatable
    #[arg(long = "insecure-registries", alias = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
    /// How long nothing may come of a pull before it is tried again [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub pull_stall_timeout: Option<String>,
    /// Origin whose web pages may call the API, scheme and host; repeatable
    #[arg(long = "cors-origins", alias = "cors-origin", value_name = "ORIGIN")]
    pub cors_origins: Vec<String>,
    /// Largest request body, as 4194304 or 4MiB [default: 4MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_body_bytes: Option<String>,
    /// Whether health, reflection, /openapi.json and /metrics need no token [default: true]
    #[arg(long, value_name = "BOOL")]
    pub public_meta: Option<String>,
    /// Let everybody on this machine do all without a token; refused unless every
    /// listener is loopback or a Unix socket
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub anonymous: Option<String>,
    /// What is logged, as info or container_svc=debug,warn [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Where log lines are collected from: auto, files or engine [default: auto]
    #[arg(long, value_name = "SOURCE")]
    pub logs_source: Option<String>,
    /// How long log lines are kept [default: 30d]
    #[arg(long, value_name = "TIME")]
    pub logs_max_age: Option<String>,
    /// Most bytes that the stored logs of one container take [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub logs_max_bytes_each: Option<String>,
    /// Most bytes that all stored logs take [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub logs_max_bytes: Option<String>,
    /// Largest log file that the engine writes for a container of ours [default: 10MiB]
    #[arg(long, value_name = "SIZE")]
    pub container_log_bytes: Option<String>,
    /// How many of these files it keeps [default: 3]
    #[arg(long, value_name = "COUNT")]
    pub container_log_files: Option<String>,
    /// How long events are kept [default: 90d]
    #[arg(long, value_name = "TIME")]
    pub events_max_age: Option<String>,
    /// How many events are kept [default: 100000]
    #[arg(long, value_name = "COUNT")]
    pub events_max_count: Option<String>,
    /// NVIDIA's management library, by name or absolute path [default: libnvidia-ml.so.1]
    #[arg(long, value_name = "LIBRARY")]
    pub nvml_library: Option<String>,
    /// How often GPUs are looked at while containers have some [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub gpu_interval: Option<String>,
    /// Whether containers are asked whether they still see their GPUs [default: true]
    #[arg(long, value_name = "BOOL")]
    pub gpu_check: Option<String>,
    /// What is done about a container that uses more GPU memory than it booked: report,
    /// restart or stop [default: report]
    #[arg(long, value_name = "ACTION")]
    pub gpu_overrun: Option<String>,
    /// How long a GPU is given to nobody after a fatal XID [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub gpu_drain_time: Option<String>,
    /// Where the control daemon of NVIDIA's MPS has its pipes [default: /tmp/nvidia-mps]
    #[arg(long, value_name = "DIR")]
    pub gpu_mps_directory: Option<String>,
    /// Host from which assets may come without TLS, as host, host:port or *.host;
    /// repeatable
    #[arg(long, value_name = "HOST")]
    pub asset_allow_http: Vec<String>,
    /// Address or range from which assets may come although it is loopback or the like;
    /// repeatable
    #[arg(long, value_name = "RANGE")]
    pub asset_allow_addresses: Vec<String>,
    /// Folder from which assets may be taken by file://; repeatable
    #[arg(long, value_name = "DIR")]
    pub asset_file_roots: Vec<String>,
    /// URL of the 1Backend server whose File Svc is asked for assets first
    #[arg(long, value_name = "URL")]
    pub asset_file_svc: Option<String>,
    /// Most bytes of one asset [default: 100GiB]
    #[arg(long, value_name = "SIZE")]
    pub asset_max_bytes: Option<String>,
    /// How long fetching one asset may take [default: 6h]
    #[arg(long, value_name = "TIME")]
    pub asset_max_time: Option<String>,
    /// Least bytes a second of an asset [default: 1KiB]
    #[arg(long, value_name = "SIZE")]
    pub asset_min_rate: Option<String>,
    /// How long the source of an asset may take to answer [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub asset_stall_timeout: Option<String>,
    /// Bytes that assets leave free on their disk [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub asset_min_free_bytes: Option<String>,
    /// How long an asset stays that no container has [default: 30d]
    #[arg(long, value_name = "TIME")]
    pub asset_max_age: Option<String>,
    /// Most bytes of all assets [default: 500GiB]
    #[arg(long, value_name = "SIZE")]
    pub asset_max_total_bytes: Option<String>,
    /// Which ends of a named container are followed by a start where its request says
    /// nothing: never, on-failure or always [default: on-failure]
    #[arg(long, value_name = "POLICY")]
    pub restart_policy: Option<String>,
    /// How long open calls may go on after a stop signal [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub drain_timeout: Option<String>,
    /// How long one call to the engine may take [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub engine_timeout: Option<String>,
}

impl ServeArgs {
    /// What was given, by the key of the file.
    pub(super) fn values(&self) -> BTreeMap<&'static str, Vec<String>> {
        let one = |value: &Option<String>| value.iter().cloned().collect();
        BTreeMap::from([
            ("listen", self.listen.clone()),
            ("data_dir", one(&self.data_dir)),
            ("host_data_dir", one(&self.host_data_dir)),
            ("token_file", one(&self.token_file)),
            ("engine", one(&self.engine)),
            ("node_id", one(&self.node_id)),
            ("server_url", one(&self.server_url)),
            ("self_url", one(&self.self_url)),
            ("network", one(&self.network)),
            ("port_range", one(&self.port_range)),
            ("port_address", one(&self.port_address)),
            ("docker_config", one(&self.docker_config)),
            ("build_roots", self.build_roots.clone()),
            ("git_protocols", self.git_protocols.clone()),
            ("git_ca_file", one(&self.git_ca_file)),
            ("build_source_max_bytes", one(&self.build_source_max_bytes)),
            ("build_source_max_time", one(&self.build_source_max_time)),
            ("build_upload_max_age", one(&self.build_upload_max_age)),
            ("insecure_registries", self.insecure_registries.clone()),
            ("pull_stall_timeout", one(&self.pull_stall_timeout)),
            ("cors_origins", self.cors_origins.clone()),
            ("max_body_bytes", one(&self.max_body_bytes)),
            ("public_meta", one(&self.public_meta)),
            ("anonymous", one(&self.anonymous)),
            ("log", one(&self.log)),
            ("log_format", one(&self.log_format)),
            ("logs_source", one(&self.logs_source)),
            ("logs_max_age", one(&self.logs_max_age)),
            ("logs_max_bytes_each", one(&self.logs_max_bytes_each)),
            ("logs_max_bytes", one(&self.logs_max_bytes)),
            ("container_log_bytes", one(&self.container_log_bytes)),
            ("container_log_files", one(&self.container_log_files)),
            ("events_max_age", one(&self.events_max_age)),
            ("events_max_count", one(&self.events_max_count)),
            ("nvml_library", one(&self.nvml_library)),
            ("gpu_interval", one(&self.gpu_interval)),
            ("gpu_check", one(&self.gpu_check)),
            ("gpu_overrun", one(&self.gpu_overrun)),
            ("gpu_drain_time", one(&self.gpu_drain_time)),
            ("gpu_mps_directory", one(&self.gpu_mps_directory)),
            ("asset_allow_http", self.asset_allow_http.clone()),
            ("asset_allow_addresses", self.asset_allow_addresses.clone()),
            ("asset_file_roots", self.asset_file_roots.clone()),
            ("asset_file_svc", one(&self.asset_file_svc)),
            ("asset_max_bytes", one(&self.asset_max_bytes)),
            ("asset_max_time", one(&self.asset_max_time)),
            ("asset_min_rate", one(&self.asset_min_rate)),
            ("asset_stall_timeout", one(&self.asset_stall_timeout)),
            ("asset_min_free_bytes", one(&self.asset_min_free_bytes)),
            ("asset_max_age", one(&self.asset_max_age)),
            ("asset_max_total_bytes", one(&self.asset_max_total_bytes)),
            ("restart_policy", one(&self.restart_policy)),
            ("drain_timeout", one(&self.drain_timeout)),
            ("engine_timeout", one(&self.engine_timeout)),
        ])
    }
}
