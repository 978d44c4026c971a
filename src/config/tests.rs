//! What the layers and the parsers promise.

use std::{collections::BTreeMap, fs};

use super::{host::Host, *};

fn host() -> Host {
    Host { name: "node-1".into(), data_dir: Some("/data".into()) }
}

fn load(args: &ServeArgs, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    Config::load_on(&host(), args, |key| env.get(key).map(|value| (*value).to_owned()))
}

/// Loads with a file of this text; the directory lives as long as the result is made.
fn load_file(text: &str, args: &ServeArgs, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, text).unwrap();
    load(&ServeArgs { config: Some(path), ..args.clone() }, env)
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn nothing_given_is_a_whole_configuration() {
    let config = load(&ServeArgs::default(), &[]).unwrap();
    assert_eq!(config.listen, [Listen::Tcp("127.0.0.1:11337".parse().unwrap())]);
    assert_eq!(config.database(), PathBuf::from("/data/container-svc.db"));
    assert_eq!(config.token_file, PathBuf::from("/data/admin.token"));
    assert_eq!(config.engine, "unix:///var/run/docker.sock");
    assert_eq!(config.node_id, "node-1");
    assert_eq!(config.port_range, (20_000, 29_999));
    assert_eq!(config.max_body_bytes, 4 << 20);
    assert_eq!(config.log_database(), PathBuf::from("/data/logs.db"));
    assert_eq!(config.logs_source, SourceChoice::Auto);
    assert_eq!((config.logs_max_bytes_each, config.logs_max_bytes), (1 << 30, 10 << 30));
    assert_eq!((config.container_log_bytes, config.container_log_files), (10 << 20, 3));
    assert!(config.public_meta && !config.anonymous);
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let file = "network = \"file\"\n";
    let flag = ServeArgs { network: Some("flag".into()), ..Default::default() };
    let none = ServeArgs::default();
    let env = [("CONTAINER_SVC_NETWORK", "env")];
    assert_eq!(load_file(file, &flag, &env).unwrap().network, "flag");
    assert_eq!(load_file(file, &none, &env).unwrap().network, "env");
    assert_eq!(load_file(file, &none, &[]).unwrap().network, "file");
    assert_eq!(load_file("", &none, &[]).unwrap().network, "container-svc");
    let empty = [("CONTAINER_SVC_NETWORK", "")];
    assert_eq!(load_file(file, &none, &empty).unwrap().network, "file");
}

#[test]
fn variables_of_docker_and_1backend_are_honoured_below_ours() {
    let env = [
        ("DOCKER_HOST", "tcp://10.0.0.1:2375"),
        ("OB_NODE_ID", "ob"),
        ("OB_SERVER_URL", "http://server:11337"),
        ("OB_SELF_URL", "https://me.example.com"),
        ("CONTAINER_SVC_NODE_ID", "ours"),
    ];
    let config = load(&ServeArgs::default(), &env).unwrap();
    assert_eq!(config.engine, "tcp://10.0.0.1:2375");
    assert_eq!(config.node_id, "ours");
    assert_eq!(config.server_url.as_deref(), Some("http://server:11337"));
    assert_eq!(config.self_url.as_deref(), Some("https://me.example.com"));
}

#[test]
fn lists_come_from_commas_repeated_flags_and_arrays() {
    let env = [("CONTAINER_SVC_LISTEN", "127.0.0.1:0, unix:///run/c.sock")];
    assert_eq!(load(&ServeArgs::default(), &env).unwrap().listen.len(), 2);
    let args = ServeArgs {
        listen: vec!["127.0.0.1:0".into(), "tcp://127.0.0.1:0".into()],
        ..Default::default()
    };
    assert_eq!(load(&args, &[]).unwrap().listen.len(), 2);
    let file = "cors_origins = [\"https://a.example\", \"*\"]";
    let config = load_file(file, &ServeArgs::default(), &[]).unwrap();
    assert_eq!(config.cors_origins, ["https://a.example", "*"]);
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let said = message(load_file("lisen = \"x\"", &ServeArgs::default(), &[]));
    assert!(said.starts_with("lisen = ") && said.contains("the settings are listen"), "{said}");
}

#[test]
fn every_error_says_setting_value_origin_and_remedy() {
    let bad = [
        ("LISTEN", "localhost:1"),
        ("LISTEN", "unix://run/x"),
        ("ENGINE", "ssh://host"),
        ("ENGINE", "tcp://host"),
        ("ENGINE", "unix://"),
        ("NODE_ID", "a b"),
        ("SERVER_URL", "ftp://host"),
        ("SELF_URL", "host:1"),
        ("NETWORK", "host"),
        ("PORT_RANGE", "80-90"),
        ("PORT_RANGE", "3000-2000"),
        ("PORT_RANGE", "20000"),
        ("PORT_ADDRESS", "here"),
        ("INSECURE_REGISTRIES", "http://localhost:5000"),
        ("CORS_ORIGINS", "https://a.example/path"),
        ("MAX_BODY_BYTES", "1"),
        ("MAX_BODY_BYTES", "257MiB"),
        ("PUBLIC_META", "yes"),
        ("LOG", "info=loud"),
        ("LOG_FORMAT", "xml"),
        ("GPU_INTERVAL", "8s"),
        ("GPU_CHECK", "often"),
        ("GPU_OVERRUN", "kill"),
        ("GPU_DRAIN_TIME", "0s"),
        ("DRAIN_TIMEOUT", "61m"),
        ("ENGINE_TIMEOUT", "500ms"),
        ("ENGINE_TIMEOUT", "soon"),
    ];
    for (setting, value) in bad {
        let name = format!("CONTAINER_SVC_{setting}");
        let said = message(load(&ServeArgs::default(), &[(&name, value)]));
        let start = format!("{} = {value:?} (from {name}) ", setting.to_lowercase());
        assert!(said.starts_with(&start) && said.contains("; "), "{said}");
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_not_shown() {
    let env = [("OB_SERVER_URL", "https://me:hunter2@host")];
    let said = message(load(&ServeArgs::default(), &env));
    assert!(said.contains("[redacted]@host") && !said.contains("hunter2"), "{said}");
}

#[test]
fn anonymous_needs_every_listener_to_be_local() {
    let args = |listen: &str| ServeArgs {
        listen: vec!["unix:///run/c.sock".into(), listen.into()],
        anonymous: Some("true".into()),
        ..Default::default()
    };
    assert!(load(&args("[::1]:0"), &[]).is_ok());
    let said = message(load(&args("0.0.0.0:0"), &[]));
    assert!(said.starts_with("anonymous = ") && said.contains("0.0.0.0:0"), "{said}");
}

#[test]
fn what_describe_prints_is_a_file_with_the_same_settings() {
    let args = ServeArgs {
        listen: vec!["127.0.0.1:0".into(), "unix:///run/a \"b\".sock".into()],
        self_url: Some("http://self:1".into()),
        drain_timeout: Some("1500ms".into()),
        docker_config: Some("/etc/docker.json".into()),
        host_data_dir: Some("/srv/data".into()),
        ..Default::default()
    };
    let config = load(&args, &[]).unwrap();
    let again = load_file(&config.describe(), &ServeArgs::default(), &[]).unwrap();
    assert_eq!(config, again);
}

#[test]
fn limits_of_logs_are_sizes_and_times_within_reason() {
    let with = |key: &str, value: &str| {
        let key = format!("CONTAINER_SVC_{key}");
        load(&ServeArgs::default(), &[(key.as_str(), value)])
    };
    assert_eq!(with("LOGS_MAX_BYTES", "3TiB").unwrap().logs_max_bytes, 3 << 40);
    assert_eq!(with("CONTAINER_LOG_BYTES", "10240").unwrap().container_log_bytes, 10_240);
    for (key, value, part) in [
        ("LOGS_MAX_BYTES", "1KiB", "from 1MiB to 1024TiB"),
        ("LOGS_MAX_BYTES_EACH", "-1", "is not a size"),
        ("LOGS_MAX_BYTES", "99999999999TiB", "out of range"),
        ("LOGS_MAX_AGE", "1s", "1m to 3650d"),
        ("LOGS_SOURCE", "disk", "auto, files or engine"),
        ("CONTAINER_LOG_FILES", "0", "1 to 100"),
        ("EVENTS_MAX_AGE", "forever", "is not"),
        ("EVENTS_MAX_COUNT", "99", "100 to 1000000"),
        ("CONTAINER_LOG_BYTES", "1", "from 4KiB"),
    ] {
        let told = message(with(key, value));
        assert!(told.contains(part), "{key}={value}: {told}");
    }
}
