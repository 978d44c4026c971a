//! The hash and the checks, as promises.

use proptest::prelude::*;

use super::*;
use crate::domain::{Kind, asset::Given, restart::Policy};

fn tcp(port: i64) -> RawHealthCheck {
    RawHealthCheck { probe: Some(RawProbe::Tcp(port)), ..RawHealthCheck::default() }
}

fn defaults() -> Defaults {
    Defaults {
        port_address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        asset_policy: std::sync::Arc::default(),
    }
}

fn full() -> RunRequest {
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    RunRequest {
        image: "nginx".into(),
        names: vec!["web".into(), "alias-b".into(), "alias-a".into()],
        ports: vec![
            RawPort { internal: 80, host: 0, ..RawPort::default() },
            RawPort { internal: 443, host: 8443, ..RawPort::default() },
        ],
        hash: "mine".into(),
        labels: vec![pair("b", "2"), pair("a", "1")],
        envs: vec![pair("Y", ""), pair("X", "1")],
        command: vec!["sh".into(), "-c".into(), "true".into()],
        entrypoint: vec!["/bin/env".into()],
        working_dir: "/srv".into(),
        user: "app".into(),
        cpu: 0.5,
        memory_mb: 64,
        pids: 10,
        stop_timeout: Some(Ok(Duration::from_secs(3))),
        ..RunRequest::default()
    }
}

fn asset(key: &str, url: &str) -> Given {
    Given { env_var_key: key.into(), url: url.into(), ..Given::default() }
}

fn hash(request: RunRequest) -> String {
    RunSpec::resolve(request, &defaults()).expect("valid").spec_hash()
}

/// These must never change: a change would recreate every container.
#[test]
fn the_hash_is_the_same_in_every_release() {
    let minimal = RunRequest { image: "nginx".into(), ..RunRequest::default() };
    assert_eq!(
        hash(minimal),
        "v1:00f32eab5cbce7b34c5c9c78ab89155b288c066868a3709157d6b23e80646f61"
    );
    assert_eq!(hash(full()), "v1:a764eb8a9b95d2bd83607f3f2f7b1ccb397147c7b7de74681f29a097537673ae");
}

#[test]
fn the_hash_of_assets_is_the_same_in_every_release() {
    let mut other = asset("B", "https://host.example/b.bin");
    other.sha256 = Some("AB".repeat(32));
    let request = RunRequest {
        image: "nginx".into(),
        assets: vec![other.clone(), asset("A", "https://host.example/a.gguf")],
        ..RunRequest::default()
    };
    assert_eq!(
        hash(request.clone()),
        "v1:527d92487efc8fe081949a1d1d03dc176f5a225f77d477edca8948fa23fd64cc"
    );
    other.path = Some("/assets/B//b.bin".into());
    other.mode = Some("444".into());
    other.refresh = true;
    let explicit = RunRequest {
        assets: vec![asset("A", "HTTPS://host.example:443/a.gguf"), other],
        ..request.clone()
    };
    assert_eq!(hash(explicit), hash(request));
}

#[test]
fn assets_that_meet_are_refused() {
    let at = |key: &str, path: &str| Given { path: Some(path.into()), ..asset(key, "https://h/a") };
    for (assets, envs, keeps, field) in [
        (vec![asset("A", "https://h/a"), asset("A", "https://h/b")], "", "", "assets[1].envVarKey"),
        (vec![asset("A", "https://h/a")], "A", "", "assets[0].envVarKey"),
        (vec![at("A", "/a"), at("B", "/a")], "", "", "assets[1].path"),
        (vec![at("A", "/a/b"), at("B", "/a")], "", "", "assets[1].path"),
        (vec![at("A", "/a")], "", "/a", "assets[0].path"),
        (vec![at("A", "/a")], "", "/a/b", "assets[0].path"),
        (vec![at("A", "/a/b")], "", "/a", "assets[0].path"),
    ] {
        let request = RunRequest {
            image: "nginx".into(),
            names: vec!["web".into()],
            assets,
            envs: (!envs.is_empty())
                .then(|| (envs.to_owned(), String::new()))
                .into_iter()
                .collect(),
            keeps: (!keeps.is_empty()).then(|| (keeps.to_owned(), true)).into_iter().collect(),
            ..RunRequest::default()
        };
        let error = RunSpec::resolve(request, &defaults()).expect_err("refused");
        assert_eq!(error.violations()[0].field, field, "{error}");
    }
}

#[test]
fn defaults_written_out_change_nothing() {
    let plain = RunRequest {
        image: "nginx".into(),
        ports: vec![RawPort { internal: 80, ..RawPort::default() }],
        ..RunRequest::default()
    };
    let explicit = RunRequest {
        image: "docker.io/library/nginx:latest".into(),
        ports: vec![RawPort {
            internal: 80,
            host: 0,
            protocol: Some("tcp".into()),
            host_address: Some("0.0.0.0".into()),
        }],
        stop_timeout: Some(Ok(DEFAULT_STOP_TIMEOUT)),
        pull_policy: PullPolicy::Always,
        ..RunRequest::default()
    };
    assert_eq!(hash(plain), hash(explicit));
}

#[test]
fn every_field_that_matters_changes_the_hash_and_is_named() {
    let old = RunSpec::resolve(full(), &defaults()).expect("valid");
    type Change = fn(&mut RunRequest);
    let changes: [(&str, Change); 19] = [
        ("assets", |r| r.assets = vec![asset("A", "https://host.example/a")]),
        ("healthCheck", |r| r.health = Some(tcp(80))),
        ("healthCheck", |r| {
            r.health = Some(RawHealthCheck { disabled: true, ..RawHealthCheck::default() });
        }),
        ("restartPolicy", |r| r.restart_policy = Some(Policy::OnFailure)),
        ("restart", |r| r.restart.max_restarts = Some(3)),
        ("keeps", |r| r.keeps = vec![("/data".into(), false)]),
        ("image", |r| r.image = "nginx:1".into()),
        ("names", |r| r.names.truncate(2)),
        ("ports", |r| r.ports[0].internal = 81),
        ("ports", |r| r.ports[0].protocol = Some("udp".into())),
        ("hash", |r| r.hash = "other".into()),
        ("labels", |r| r.labels[0].1 = "3".into()),
        ("envs", |r| r.envs[0].1 = "y".into()),
        ("command", |r| r.command.swap(0, 1)),
        ("entrypoint", |r| r.entrypoint.clear()),
        ("workingDir", |r| r.working_dir = "/".into()),
        ("user", |r| r.user.clear()),
        ("resources", |r| r.cpu = 0.6),
        ("stopTimeout", |r| r.stop_timeout = None),
    ];
    for (field, change) in changes {
        let mut request = full();
        change(&mut request);
        let new = RunSpec::resolve(request, &defaults()).expect("valid");
        assert_ne!(old.spec_hash(), new.spec_hash(), "{field}");
        assert_eq!(differing(&old.canonical(), &new.canonical()), [field]);
    }
}

#[test]
fn what_the_kernel_starts_no_program_with_is_refused() {
    let text = |length| "x".repeat(length);
    for (more, fits) in [(0, true), (1, false)] {
        let longest = (128 << 10) - 1 + more;
        let command = vec!["x".to_owned(), text(longest)];
        let envs = vec![("A".to_owned(), text(longest - 2))];
        for (request, field) in [
            (RunRequest { command, ..full() }, "command[1]"),
            (RunRequest { entrypoint: vec![text(longest)], ..full() }, "entrypoint[0]"),
            (RunRequest { envs, assets: Vec::new(), ..full() }, "envs"),
        ] {
            match RunSpec::resolve(request, &defaults()) {
                Ok(_) => assert!(fits, "{field}"),
                Err(error) => {
                    assert!(!fits && error.message().contains("131072 bytes"), "{error}");
                    assert_eq!(error.violations()[0].field, field);
                }
            }
        }
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut request = full();
    request.image = String::new();
    request.names.push("web".into());
    request.names.push("-x".into());
    request.ports[0].internal = 70_000;
    request.ports.push(RawPort { internal: 444, host: 8443, ..RawPort::default() });
    request.envs.push(("A=B".into(), String::new()));
    request.envs.push((String::new(), String::new()));
    request.labels.push(("container-svc.node".into(), "x".into()));
    request.cpu = f64::NAN;
    request.memory_mb = 1;
    request.working_dir = "srv".into();
    let error = RunSpec::resolve(request, &defaults()).expect_err("wrong");
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let mut fields: Vec<&str> = error.violations().iter().map(|v| v.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "envs",
            "envs[3].key",
            "image",
            "labels",
            "names[3]",
            "names[4]",
            "ports[0].internal",
            "ports[2].host",
            "resources.cpu",
            "resources.memoryMB",
            "workingDir",
        ]
    );
}

proptest! {
    #[test]
    fn order_of_sets_does_not_matter(seed in 0u64..u64::MAX) {
        let mut request = full();
        let turn = |n: usize| usize::try_from(seed).unwrap_or(0) % n;
        request.labels.rotate_left(turn(2));
        request.envs.rotate_left(turn(2));
        request.ports.rotate_left(turn(2));
        request.names[1..].rotate_left(turn(2));
        prop_assert_eq!(hash(request), hash(full()));
    }

    #[test]
    fn any_defaults_written_out_change_nothing(said: [bool; 6]) {
        let [protocol, address, registry, whole, policy, patience] = said;
        let mut request = full();
        request.ports[0].protocol = protocol.then(|| "tcp".into());
        request.ports[0].host_address = address.then(|| "0.0.0.0".into());
        if registry {
            request.image = "docker.io/nginx".into();
        }
        if whole {
            request.image = "docker.io/library/nginx:latest".into();
        }
        if policy {
            request.pull_policy = PullPolicy::Always;
        }
        request.stop_timeout = patience.then_some(Ok(DEFAULT_STOP_TIMEOUT));
        let silent = RunRequest { stop_timeout: None, ..full() };
        prop_assert_eq!(hash(request), hash(silent));
    }

    #[test]
    fn texts_cannot_be_confused(a in ".{0,8}", b in ".{0,8}", c in ".{0,8}", d in ".{0,8}") {
        let with = |command: [&str; 2]| RunRequest {
            image: "x".into(),
            command: command.map(|s| s.replace('\0', "")).to_vec(),
            ..RunRequest::default()
        };
        let clean = |s: &str| s.replace('\0', "");
        let same = clean(&a) == clean(&c) && clean(&b) == clean(&d);
        prop_assert_eq!(hash(with([&a, &b])) == hash(with([&c, &d])), same);
    }

    #[test]
    fn nothing_makes_it_panic(image in ".*", name in ".*", port in any::<i64>(), cpu in any::<f64>(), memory in any::<i64>()) {
        let _ = RunSpec::resolve(RunRequest {
            image,
            names: vec![name],
            ports: vec![RawPort { internal: port, host: port, ..RawPort::default() }],
            cpu,
            memory_mb: memory,
            ..RunRequest::default()
        }, &defaults());
    }
}

#[test]
fn keeps_are_a_set_and_read_only_matters() {
    let with = |keeps: &[(&str, bool)]| {
        let keeps = keeps.iter().map(|(path, only)| ((*path).to_owned(), *only)).collect();
        RunRequest { keeps, ..full() }
    };
    assert_eq!(
        hash(with(&[("/a", false), ("/b/", true)])),
        hash(with(&[("/b", true), ("/a", false)]))
    );
    assert_ne!(hash(with(&[("/a", false)])), hash(with(&[("/a", true)])));
    assert_eq!(hash(with(&[])), hash(full()), "none is as before");
}

#[test]
fn a_wrong_keep_is_named() {
    let refused = |keeps: &[&str], names: &[&str]| {
        let request = RunRequest {
            image: "nginx".into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            keeps: keeps.iter().map(|path| ((*path).to_owned(), false)).collect(),
            ..RunRequest::default()
        };
        RunSpec::resolve(request, &defaults()).expect_err("wrong").message().to_owned()
    };
    for (keeps, part) in [
        (&["data"][..], "keeps[0].path: \"data\" is not absolute"),
        (&["/"], "whole container"),
        (&["/a/../etc"], "\"..\""),
        (&["/a", "/a/"], "keeps[1].path: \"/a\" is there twice"),
    ] {
        let told = refused(keeps, &["web"]);
        assert!(told.contains(part), "{told}");
    }
    assert!(refused(&["/data"], &[]).contains("names: is empty; data are kept for a name"));
    let many: Vec<String> = (0..65).map(|at| format!("/{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(refused(&many, &["web"]).contains("at most 64"));
}

#[test]
fn health_and_restarts_at_their_default_leave_the_hash_and_explicit_ones_do_not() {
    let second = |seconds| Some(Ok(Duration::from_secs(seconds)));
    let restart = RawRestart {
        max_restarts: Some(10),
        window: second(1800),
        min_backoff: second(1),
        max_backoff: second(300),
        stable_after: second(60),
        on_unhealthy: None,
    };
    assert_eq!(hash(RunRequest { restart, ..full() }), hash(full()));
    let written = RawHealthCheck {
        interval: second(10),
        timeout: second(5),
        retries: Some(3),
        start_period: second(0),
        ..tcp(80)
    };
    let with = |health| hash(RunRequest { health: Some(health), ..full() });
    assert_eq!(with(written), with(tcp(80)));
    assert_ne!(with(tcp(80)), hash(full()));
    let command = |words: &[&str]| RawHealthCheck {
        probe: Some(RawProbe::Exec(words.iter().map(|word| (*word).to_owned()).collect())),
        ..RawHealthCheck::default()
    };
    let timed = RawHealthCheck { interval: second(1), ..command(&["a"]) };
    assert_ne!(with(timed), with(command(&["a", "interval", "1000000000"])));
}

#[test]
fn a_wrong_health_check_or_restart_is_named() {
    let second = |seconds| Some(Ok(Duration::from_secs(seconds)));
    let check = |probe| RawHealthCheck { probe: Some(probe), ..RawHealthCheck::default() };
    let none = RawHealthCheck::default;
    for (health, field) in [
        (none(), "healthCheck"),
        (check(RawProbe::Exec(Vec::new())), "healthCheck.exec.command"),
        (check(RawProbe::Http(0, String::new())), "healthCheck.http.port"),
        (check(RawProbe::Http(80, "x".into())), "healthCheck.http.path"),
        (check(RawProbe::Http(80, "/ HTTP/1.1\r\nX: y".into())), "healthCheck.http.path"),
        (tcp(65_536), "healthCheck.tcp.port"),
        (check(RawProbe::Grpc(-1, String::new())), "healthCheck.grpc.port"),
        (RawHealthCheck { disabled: true, ..tcp(80) }, "healthCheck.disabled"),
        (RawHealthCheck { interval: second(0), ..tcp(80) }, "healthCheck.interval"),
        (RawHealthCheck { timeout: second(0), ..tcp(80) }, "healthCheck.timeout"),
        (RawHealthCheck { timeout: Some(Err("no".into())), ..tcp(80) }, "healthCheck.timeout"),
        (RawHealthCheck { retries: Some(0), ..tcp(80) }, "healthCheck.retries"),
        (RawHealthCheck { start_period: second(3601), ..tcp(80) }, "healthCheck.startPeriod"),
    ] {
        let request = RunRequest { health: Some(health), ..full() };
        let error = RunSpec::resolve(request, &defaults()).expect_err(field);
        assert_eq!(error.violations()[0].field, field);
    }
    let off = RawHealthCheck { disabled: true, ..none() };
    for (restart, field) in [
        (RawRestart { max_restarts: Some(0), ..RawRestart::default() }, "restart.maxRestarts"),
        (RawRestart { window: second(0), ..RawRestart::default() }, "restart.window"),
        (RawRestart { min_backoff: second(0), ..RawRestart::default() }, "restart.minBackoff"),
        (
            RawRestart { min_backoff: second(10), max_backoff: second(9), ..RawRestart::default() },
            "restart.maxBackoff",
        ),
        (RawRestart { stable_after: second(0), ..RawRestart::default() }, "restart.stableAfter"),
        (RawRestart { on_unhealthy: Some(true), ..RawRestart::default() }, "restart.onUnhealthy"),
    ] {
        let request = RunRequest { restart, health: Some(off.clone()), ..full() };
        let error = RunSpec::resolve(request, &defaults()).expect_err(field);
        assert_eq!(error.violations()[0].field, field);
    }
}
