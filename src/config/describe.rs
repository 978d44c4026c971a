//! Writes a configuration as the text that `--config` would read.

use std::fmt::{Display, Write as _};

use super::Config;

/// Every setting on its line, in the order of [`Config`].
pub(super) fn describe(config: &Config) -> String {
    let mut text = Text(String::new());
    text.list("listen", &config.listen);
    text.string("data_dir", config.data_dir.display());
    text.maybe("host_data_dir", config.host_data_dir.as_ref().map(|path| path.display()));
    text.string("token_file", config.token_file.display());
    text.string("engine", &config.engine);
    text.string("node_id", &config.node_id);
    text.maybe("server_url", config.server_url.as_ref());
    text.maybe("self_url", config.self_url.as_ref());
    text.string("network", &config.network);
    let (first, last) = config.port_range;
    text.string("port_range", format_args!("{first}-{last}"));
    text.string("port_address", config.port_address);
    text.maybe("docker_config", config.docker_config.as_ref().map(|path| path.display()));
    let roots: Vec<_> = config.build_roots.iter().map(|path| path.display()).collect();
    text.list("build_roots", &roots);
    text.list("git_protocols", &config.git_protocols);
    text.maybe("git_ca_file", config.git_ca_file.as_ref().map(|path| path.display()));
    text.bare("build_source_max_bytes", config.build_source_max_bytes);
    let time = config.build_source_max_time.as_millis();
    text.string("build_source_max_time", format_args!("{time}ms"));
    let age = config.build_upload_max_age.as_millis();
    text.string("build_upload_max_age", format_args!("{age}ms"));
    text.list("insecure_registries", &config.insecure_registries);
    let stall = config.pull_stall_timeout.as_millis();
    text.string("pull_stall_timeout", format_args!("{stall}ms"));
    text.list("cors_origins", &config.cors_origins);
    text.bare("max_body_bytes", config.max_body_bytes);
    text.bare("public_meta", config.public_meta);
    text.bare("anonymous", config.anonymous);
    text.string("log", &config.log);
    text.string("log_format", config.log_format);
    text.string("logs_source", config.logs_source);
    text.string("logs_max_age", format_args!("{}s", config.logs_max_age.as_secs()));
    text.bare("logs_max_bytes_each", config.logs_max_bytes_each);
    text.bare("logs_max_bytes", config.logs_max_bytes);
    text.bare("container_log_bytes", config.container_log_bytes);
    text.bare("container_log_files", config.container_log_files);
    text.string("events_max_age", format_args!("{}s", config.events_max_age.as_secs()));
    text.bare("events_max_count", config.events_max_count);
    text.string("nvml_library", &config.nvml_library);
    text.string("gpu_interval", format_args!("{}ms", config.gpu_interval.as_millis()));
    text.bare("gpu_check", config.gpu_check);
    text.string("gpu_overrun", config.gpu_overrun.word());
    text.string("gpu_drain_time", format_args!("{}s", config.gpu_drain_time.as_secs()));
    text.string("gpu_mps_directory", config.gpu_mps_directory.display());
    text.list("asset_allow_http", &config.asset_allow_http);
    text.list("asset_allow_addresses", &config.asset_allow_addresses);
    let roots: Vec<_> = config.asset_file_roots.iter().map(|root| root.display()).collect();
    text.list("asset_file_roots", &roots);
    text.maybe("asset_file_svc", config.asset_file_svc.as_ref());
    text.bare("asset_max_bytes", config.asset_max_bytes);
    text.string("asset_max_time", format_args!("{}s", config.asset_max_time.as_secs()));
    text.bare("asset_min_rate", config.asset_min_rate);
    let stall = config.asset_stall_timeout.as_millis();
    text.string("asset_stall_timeout", format_args!("{stall}ms"));
    text.bare("asset_min_free_bytes", config.asset_min_free_bytes);
    text.string("asset_max_age", format_args!("{}s", config.asset_max_age.as_secs()));
    text.bare("asset_max_total_bytes", config.asset_max_total_bytes);
    text.string("restart_policy", config.restart_policy.word());
    text.string("drain_timeout", format_args!("{}ms", config.drain_timeout.as_millis()));
    text.string("engine_timeout", format_args!("{}ms", config.engine_timeout.as_millis()));
    text.0
}

struct Text(String);

impl Text {
    fn bare(&mut self, key: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn string(&mut self, key: &str, value: impl Display) {
        self.bare(key, quoted(value));
    }

    fn maybe(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.string(key, value),
            None => self.0.push_str(&format!("# {key} is not set\n")),
        }
    }

    fn list(&mut self, key: &str, values: &[impl Display]) {
        let values: Vec<_> = values.iter().map(quoted).collect();
        self.bare(key, format_args!("[{}]", values.join(", ")));
    }
}

fn quoted(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}
