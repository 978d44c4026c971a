//! What the Makefile calls: `make run` and `make engine`, on engines and data of
//! their own.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::{
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::support::{DEADLINE, docker, eventually, free_address, unique};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Removes what a server of this node made.
struct Made(String);

impl Drop for Made {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
        docker(&["network", "rm", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn make_run_prints_three_commands_that_work_anywhere_when_pasted() {
    let (dir, name) = (tempfile::tempdir().expect("a folder"), unique("pasted"));
    let _made = Made(name.clone());
    let socket = format!("unix://{}", dir.path().join("s.sock").display());
    for listen in ["127.0.0.1:0", &socket] {
        // A free port must be known before it is printed.
        let free = free_address().to_string();
        let listen = listen.replace("127.0.0.1:0", &free);
        let mut server = tokio::process::Command::new(format!("{ROOT}/scripts/serve"))
            .env("SERVE_BINARY", env!("CARGO_BIN_EXE_container-svc"))
            .env("CONTAINER_SVC_LISTEN", &listen)
            .env("CONTAINER_SVC_DATA_DIR", dir.path())
            .envs(["NODE_ID", "NETWORK"].map(|key| (format!("CONTAINER_SVC_{key}"), &name)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("scripts/serve");
        let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
        let mut told = Vec::new();
        let read = async {
            while told.len() < 7 {
                told.extend(lines.next_line().await.expect("text").filter(|line| !line.is_empty()));
            }
        };
        tokio::time::timeout(DEADLINE, read).await.expect("it prints what to try");
        let address = if listen == free { format!("http://{free}") } else { listen.clone() };
        assert!(told[1].ends_with(&format!("address     {address}")), "{told:?}");
        let file = dir.path().join("admin.token");
        assert!(told[2].ends_with(&format!("token file  {}", file.display())), "{told:?}");
        let paste = |command: &str| {
            let command = command.replace("--name hello", &format!("--name {name}"));
            let mut shell = Command::new("bash");
            shell.args(["-c", &command]).current_dir("/").output().expect("bash")
        };
        let [run, ps, curl] = [&told[4], &told[5], &told[6]];
        eventually("the server is ready", || async { paste(run).status.success() }).await;
        for (command, part) in [
            (run, format!("{name} ")),
            (ps, format!("{name} ")),
            (curl, "\"available\":true".to_owned()),
        ] {
            let out = paste(command);
            assert!(out.status.success(), "{command}: {out:?}");
            assert!(text(&out.stdout).contains(&part), "{command}: {out:?}");
        }
        // The script has become the server, so a signal reaches it.
        let pid = server.id().expect("it runs").to_string();
        assert!(Command::new("kill").arg(pid).status().expect("kill").success());
        let ended = tokio::time::timeout(DEADLINE, server.wait()).await.expect("in time");
        assert!(ended.expect("its end").success());
    }
}

#[test]
fn every_step_of_the_tour_holds() {
    tour(&[], "");
}

#[test]
fn every_step_of_the_tour_holds_with_the_service_in_a_container() {
    let image = format!("{}:1", unique("service"));
    tour(&["--container"], &image);
    docker(&["rmi", &image]);
}

fn tour(args: &[&str], image: &str) {
    let mut demo = Command::new(format!("{ROOT}/scripts/demo"));
    demo.args(args).env("DEMO_BINARY", env!("CARGO_BIN_EXE_container-svc"));
    let out = demo.env("DEMO_SERVICE_IMAGE", image).output().expect("scripts/demo");
    let printed = text(&out.stdout);
    assert!(out.status.success(), "{printed}\n{}", text(&out.stderr));
    assert!(printed.contains("all of it holds"), "{printed}");
}

/// A program in place of the real one, which answers one of its commands with nothing.
fn silent(folder: &std::path::Path, command: &str) -> PathBuf {
    let (path, binary) = (folder.join("silent"), env!("CARGO_BIN_EXE_container-svc"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" {command} \"*) exit 0 ;; esac\nexec {binary} \"$@\"\n"
    );
    std::fs::write(&path, script).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

#[test]
fn a_step_of_the_tour_that_does_not_hold_ends_it_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    for (command, words) in [("build", "the output lacks"), ("inspect", "the tries since")] {
        let name = unique("tour");
        let mut demo = Command::new(format!("{ROOT}/scripts/demo"));
        demo.env("DEMO_BINARY", silent(dir.path(), command)).env("DEMO_NAME", &name);
        let out = demo.output().expect("scripts/demo");
        assert!(!out.status.success(), "{command}: {out:?}");
        assert!(text(&out.stderr).contains(words), "{command}: {out:?}");
        assert!(!text(&out.stdout).contains("all of it holds"), "{command}: {out:?}");
        let label = format!("label=container-svc.node={name}");
        for what in [&["ps", "-aq"][..], &["volume", "ls", "-q"], &["network", "ls", "-q"]] {
            let filter = if what[0] == "network" { format!("name={name}") } else { label.clone() };
            assert_eq!(docker(&[what, &["--filter", &filter]].concat()), "", "{command}: {what:?}");
        }
        assert_eq!(docker(&["images", "-q", &name]), "", "{command}");
    }
}

/// What the unit sets in the environment.
fn environment(unit: &str) -> Vec<(&str, &str)> {
    let set = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    set.map(|set| set.split_once('=').expect("a value")).collect()
}

#[test]
fn the_unit_is_one_for_systemd_and_for_the_service() {
    let unit = std::fs::read_to_string(format!("{ROOT}/packaging/container-svc.service"));
    let unit = unit.expect("the unit");
    let start = "ExecStart=/usr/local/bin/container-svc serve";
    assert!(unit.contains(start) && unit.contains("\nStateDirectory=container-svc\n"), "{unit}");
    let dir = tempfile::tempdir().expect("a folder");
    // Its words, where systemd is there to know them.
    let copy = dir.path().join("container-svc.service");
    let here = start.replace("/usr/local/bin/container-svc", env!("CARGO_BIN_EXE_container-svc"));
    std::fs::write(&copy, unit.replace(start, &here)).expect("a file");
    if let Ok(out) = Command::new("systemd-analyze").arg("verify").arg(&copy).output() {
        let told = text(&out.stderr);
        let of_ours: Vec<_> = told.lines().filter(|line| line.contains("container-svc")).collect();
        assert!(out.status.success() && of_ours.is_empty(), "{told}");
    }
    // Its settings, by the service.
    let mut check = Command::new(env!("CARGO_BIN_EXE_container-svc"));
    let out = check.args(["serve", "--check-config"]).env_clear().envs(environment(&unit)).output();
    let settings = text(&out.expect("the program").stdout);
    for line in [
        r#"listen = ["tcp://127.0.0.1:11337", "unix:///run/container-svc/api.sock"]"#,
        r#"data_dir = "/var/lib/container-svc""#,
        r#"drain_timeout = "10000ms""#,
    ] {
        assert!(settings.contains(line), "{line} in {settings}");
    }
    let runtime = "\nRuntimeDirectory=container-svc\n";
    assert!(unit.contains(runtime) && unit.contains("\nTimeoutStopSec=30\n"), "{unit}");
}

#[test]
fn what_is_installed_already_is_not_spoken_of() {
    for words in [&["engine"][..], &["tools", "demo"]] {
        let mut script = Command::new(format!("{ROOT}/scripts/{}", words[0]));
        script.args(&words[1..]);
        script.output().expect("the first run");
        let out = script.output().expect("the second run");
        assert!(out.status.success(), "{out:?}");
        assert_eq!((text(&out.stdout), text(&out.stderr)), (String::new(), String::new()));
    }
}

/// `scripts/engine` for an engine in one folder and a network of its own; that
/// of this machine is not touched.
struct Engine(TempDir);

impl Engine {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, word: &str) -> Output {
        Command::new("unshare")
            .args(["--net", &format!("{ROOT}/scripts/engine"), word])
            .env("ENGINE_DIR", self.0.path())
            .env("ENGINE_WAIT", "20")
            .env("DOCKER_HOST", format!("unix://{}", self.path("sock").display()))
            .output()
            .expect("unshare")
    }

    /// What it says when it succeeds.
    fn says(&self, word: &str) -> String {
        let out = self.script(word);
        assert!(out.status.success(), "{out:?}");
        text(&out.stdout)
    }

    fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.path("pid")).expect("its pid");
        pid.split(' ').next().unwrap_or_default().to_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.script("stop");
        // One that was killed leaves its data mounted, and that the folder in place.
        let _ = Command::new("umount").arg(self.path("data")).output();
    }
}

#[test]
fn make_engine_starts_over_what_a_killed_engine_left() {
    let engine = Engine(tempfile::tempdir().expect("a folder"));
    // The pid is that of a process, but of none that is an engine.
    std::fs::write(engine.path("docker.pid"), std::process::id().to_string()).expect("a file");
    drop(UnixListener::bind(engine.path("sock")).expect("a socket"));
    let said = engine.says("start");
    for part in ["docker.pid: no such dockerd is alive", "sock: nobody", "started dockerd"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(engine.says("start"), "", "one that is there is used as it is");

    let first = engine.pid();
    assert!(Command::new("kill").args(["-KILL", &first]).status().expect("kill").success());
    while std::path::Path::new("/proc").join(&first).exists() {
        std::thread::yield_now();
    }
    assert!(engine.says("start").contains("started dockerd"));
    let second = engine.pid();
    assert_ne!(first, second);
    assert!(engine.says("stop").contains(&format!("stopped the engine (pid {second})")));
    assert!(!std::path::Path::new("/proc").join(&second).exists());
    assert_eq!(engine.says("stop"), "no engine of ours runs\n");
}

#[test]
fn make_engine_takes_no_socket_on_which_somebody_listens() {
    let engine = Engine(tempfile::tempdir().expect("a folder"));
    let other = UnixListener::bind(engine.path("sock")).expect("a socket");
    let begin = std::time::Instant::now();
    let out = Command::new(format!("{ROOT}/scripts/engine"))
        .env("ENGINE_DIR", engine.0.path())
        .env("ENGINE_WAIT", "1")
        .env("DOCKER_HOST", format!("unix://{}", engine.path("sock").display()))
        .output()
        .expect("the script");
    assert!(!out.status.success(), "{out:?}");
    assert!(text(&out.stderr).contains("something listens on"), "{out:?}");
    assert!(engine.path("sock").exists() && begin.elapsed() < DEADLINE);
    drop(other);
}
