//! Each setting from its layers, with its default and its range; then the rules that
//! join several.

use std::time::Duration;

use super::{
    Config, ConfigError, DAY, GitProtocol, Listen, LogFormat, OnOverrun, Policy, ServeArgs,
    SourceChoice, host::Host, layers::Layers, parse,
};

impl Config {
    /// Reads the file that the flags or the environment name, and puts all together.
    pub fn load(
        args: &ServeArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::load_on(&Host::detect(&env), args, env)
    }

    pub(super) fn load_on(
        host: &Host,
        args: &ServeArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let layers = Layers::read(args, env)?;
        let data_dir = match layers.one("data_dir", parse::path)? {
            Some(path) => path,
            None => host.data_dir.clone().ok_or_else(ConfigError::no_data_dir)?,
        };
        let listen = layers.many("listen", parse::listen)?;
        let config = Self {
            listen: listen.unwrap_or_else(|| vec![Listen::Tcp(([127, 0, 0, 1], 11337).into())]),
            token_file: layers.or("token_file", parse::path, data_dir.join("admin.token"))?,
            host_data_dir: layers.one("host_data_dir", parse::path)?,
            data_dir,
            engine: layers.or("engine", parse::engine, "unix:///var/run/docker.sock".into())?,
            node_id: match layers.one("node_id", parse::node_id)? {
                Some(id) => id,
                None => parse::node_id(&host.name).map_err(|problem| {
                    ConfigError::new("node_id", "the host name", &host.name, problem)
                })?,
            },
            server_url: layers.one("server_url", parse::url)?,
            self_url: layers.one("self_url", parse::url)?,
            network: layers.or("network", parse::network, "container-svc".into())?,
            port_range: layers.or("port_range", parse::port_range, (20_000, 29_999))?,
            port_address: layers.or("port_address", parse::ip, [0, 0, 0, 0].into())?,
            docker_config: layers.one("docker_config", parse::path)?,
            build_roots: layers.many("build_roots", parse::path)?.unwrap_or_default(),
            git_protocols: layers
                .many("git_protocols", parse::git_protocol)?
                .unwrap_or_else(|| vec![GitProtocol::Https]),
            git_ca_file: layers.one("git_ca_file", parse::path)?,
            build_source_max_bytes: layers.or(
                "build_source_max_bytes",
                |v| parse::size(v, 1 << 10..=1 << 50),
                4 << 30,
            )?,
            build_source_max_time: layers.or(
                "build_source_max_time",
                |v| parse::duration_up_to(v, DAY * 7, "7d"),
                Duration::from_secs(30 * 60),
            )?,
            build_upload_max_age: layers.or(
                "build_upload_max_age",
                |v| parse::duration_up_to(v, DAY * 7, "7d"),
                Duration::from_secs(3_600),
            )?,
            insecure_registries: layers
                .many("insecure_registries", parse::registry)?
                .unwrap_or_default(),
            pull_stall_timeout: layers.or(
                "pull_stall_timeout",
                |v| parse::duration_in(v, Duration::from_secs(1)),
                Duration::from_secs(60),
            )?,
            cors_origins: layers.many("cors_origins", parse::origin)?.unwrap_or_default(),
            max_body_bytes: layers.or("max_body_bytes", parse::body_bytes, 4 << 20)?,
            public_meta: layers.or("public_meta", parse::boolean, true)?,
            anonymous: layers.or("anonymous", parse::boolean, false)?,
            log: layers.or("log", parse::log_filter, "info".into())?,
            log_format: layers.or("log_format", parse::log_format, LogFormat::Text)?,
            logs_source: layers.or("logs_source", parse::log_source, SourceChoice::Auto)?,
            logs_max_age: layers.or("logs_max_age", parse::log_age, DAY * 30)?,
            logs_max_bytes_each: layers.or(
                "logs_max_bytes_each",
                |v| parse::size(v, 1 << 20..=1 << 50),
                1 << 30,
            )?,
            logs_max_bytes: layers.or(
                "logs_max_bytes",
                |v| parse::size(v, 1 << 20..=1 << 50),
                10 << 30,
            )?,
            container_log_bytes: layers.or(
                "container_log_bytes",
                |v| parse::size(v, 4 << 10..=1 << 40),
                10 << 20,
            )?,
            container_log_files: layers.or("container_log_files", parse::log_files, 3)?,
            events_max_age: layers.or("events_max_age", parse::log_age, DAY * 90)?,
            events_max_count: layers.or("events_max_count", parse::event_count, 100_000)?,
            nvml_library: layers.or("nvml_library", parse::library, "libnvidia-ml.so.1".into())?,
            gpu_interval: layers.or("gpu_interval", parse::gpu_interval, Duration::from_secs(5))?,
            gpu_check: layers.or("gpu_check", parse::boolean, true)?,
            gpu_overrun: layers.or("gpu_overrun", parse::overrun, OnOverrun::Report)?,
            gpu_drain_time: layers.or(
                "gpu_drain_time",
                |v| parse::duration_up_to(v, DAY * 7, "7d"),
                Duration::from_secs(600),
            )?,
            gpu_mps_directory: layers.or(
                "gpu_mps_directory",
                parse::path,
                "/tmp/nvidia-mps".into(),
            )?,
            asset_allow_http: layers.many("asset_allow_http", parse::host)?.unwrap_or_default(),
            asset_allow_addresses: layers
                .many("asset_allow_addresses", parse::range)?
                .unwrap_or_default(),
            asset_file_roots: layers.many("asset_file_roots", parse::path)?.unwrap_or_default(),
            asset_file_svc: layers.one("asset_file_svc", parse::url)?,
            asset_max_bytes: layers.or(
                "asset_max_bytes",
                |v| parse::size(v, 1 << 10..=1 << 50),
                100 << 30,
            )?,
            asset_max_time: layers.or(
                "asset_max_time",
                |v| parse::duration_up_to(v, DAY * 7, "7d"),
                Duration::from_secs(6 * 3_600),
            )?,
            asset_min_rate: layers.or(
                "asset_min_rate",
                |v| parse::size(v, 1..=1 << 40),
                1 << 10,
            )?,
            asset_stall_timeout: layers.or(
                "asset_stall_timeout",
                |v| parse::duration_in(v, Duration::from_secs(1)),
                Duration::from_secs(30),
            )?,
            asset_min_free_bytes: layers.or(
                "asset_min_free_bytes",
                |v| parse::size(v, 0..=1 << 50),
                256 << 20,
            )?,
            asset_max_age: layers.or(
                "asset_max_age",
                |v| parse::duration_up_to(v, DAY * 3650, "3650d"),
                DAY * 30,
            )?,
            asset_max_total_bytes: layers.or(
                "asset_max_total_bytes",
                |v| parse::size(v, 1 << 10..=1 << 50),
                500 << 30,
            )?,
            restart_policy: layers.or(
                "restart_policy",
                parse::restart_policy,
                Policy::OnFailure,
            )?,
            drain_timeout: layers.or(
                "drain_timeout",
                |v| parse::duration_in(v, Duration::ZERO),
                Duration::from_secs(10),
            )?,
            engine_timeout: layers.or(
                "engine_timeout",
                |v| parse::duration_in(v, Duration::from_secs(1)),
                Duration::from_secs(30),
            )?,
        };
        config.check()?;
        Ok(config)
    }

    /// The rules that join several settings.
    fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            let problem = "is empty; give at least one address, as 127.0.0.1:11337";
            return Err(ConfigError::new("listen", "the settings", "[]", problem));
        }
        for (index, listen) in self.listen.iter().enumerate() {
            let chosen = matches!(listen, Listen::Tcp(address) if address.port() == 0);
            if !chosen && self.listen[..index].contains(listen) {
                let problem = "is given twice; leave one out";
                return Err(ConfigError::new("listen", "the settings", listen, problem));
            }
        }
        let open = self.listen.iter().find(|listen| !listen.is_local());
        if let (true, Some(open)) = (self.anonymous, open) {
            let problem = format!(
                "would let anybody who reaches {open} run containers; \
                 listen on loopback or a Unix socket only, or leave anonymous out"
            );
            return Err(ConfigError::new("anonymous", "the settings", "true", problem));
        }
        Ok(())
    }
}
