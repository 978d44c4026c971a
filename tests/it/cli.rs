//! The command line: the real program against a running service.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use super::support::{DEADLINE, Service, docker, image, unique};

mod exit_codes;
mod images;
mod pull;
mod run;
mod serve;
mod watch;

const PROGRAM: &str = env!("CARGO_BIN_EXE_container-svc");

/// How a call of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// What it printed, when it succeeded.
    pub(crate) fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// The one JSON message that it printed, when it succeeded.
    fn json(self) -> String {
        let out = self.done();
        assert_eq!(out.matches('\n').count(), 1, "one message a line: {out}");
        out.trim_end().to_owned()
    }
}

/// A program that knows nothing of the machine's own settings.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("CONTAINER_SVC_DATA_DIR", "/nonexistent").kill_on_drop(true);
    for key in ["PATH", "DOCKER_HOST"] {
        command.envs(std::env::var(key).map(|value| (key, value)));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program, with the address and the token of the service.
fn of(service: &Service, program: &str) -> Command {
    let mut command = bare(program);
    command.env("CONTAINER_SVC_ADDRESS", &service.url).env("CONTAINER_SVC_TOKEN", &service.token);
    command
}

async fn end(mut command: Command) -> Ended {
    let child = command.spawn().expect("the program starts");
    ended(child).await
}

async fn ended(child: Child) -> Ended {
    let out = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let out = out.expect("it ends in time").expect("its output");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: out.status.code(), out: text(&out.stdout), err: text(&out.stderr) }
}

pub(crate) async fn cli(service: &Service, args: &[&str]) -> Ended {
    let mut command = of(service, PROGRAM);
    command.args(args);
    end(command).await
}

/// `run` of a container with one port and one variable.
async fn run(service: &Service, name: &str, value: &str) -> String {
    let variable = format!("A={value}");
    let flags = ["run", "--name", name, "-p", "80", "-e", &variable];
    let args = [&flags[..], &[image(), "sleep", "1000"]].concat();
    cli(service, &args).await.done()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_its_life_by_the_command_line() {
    let service = Service::start().await.synced().await;
    let name = unique("cli");
    let created = run(&service, &name, "b").await;
    let id = service.made().remove(0);
    let port = docker(&["port", &name, "80/tcp"]);
    let port = port.lines().next().and_then(|line| line.rsplit(':').next()).expect("a port");
    let line = |done: &str, id: &str| format!("{name} {} {done} {port}->80/tcp\n", &id[..12]);
    assert_eq!(created, line("created", &id));
    assert_eq!(run(&service, &name, "b").await, line("unchanged", &id));
    let replaced = run(&service, &name, "c").await;
    let id = service.made().remove(0);
    assert_eq!(replaced, line("replaced (envs)", &id));

    assert_eq!(cli(&service, &["ps", "-q", "--name", &name]).await.done(), format!("{id}\n"));
    let table = cli(&service, &["ps", "--managed", "--running", "--name", &name]).await.done();
    let [heading, row] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    let words: Vec<&str> = heading.split_whitespace().collect();
    assert_eq!(words, ["ID", "NAMES", "IMAGE", "STATUS", "AGE", "PORTS"]);
    for part in [&id[..12], &name, image(), "running", &format!("{port}->80/tcp")] {
        assert!(row.contains(part), "{part} in {row}");
    }

    let told = cli(&service, &["inspect", &id[..12]]).await.done();
    assert!(told.lines().count() > 10, "for people: {told}");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["container"]["names"], serde_json::json!([name]));
    assert_eq!(told["history"][0]["action"], "replaced", "{told}");
    let hash = told["container"]["hash"].as_str().expect("a hash");
    let by_hash = cli(&service, &["inspect", "--json", "--hash", hash]).await.json();
    assert!(by_hash.contains(&id), "{by_hash}");

    for _ in 0..2 {
        assert_eq!(cli(&service, &["stop", &name]).await.done(), format!("{name}\n"));
    }
    let empty = cli(&service, &["ps", "--running", "--name", &name]).await.done();
    assert_eq!(empty.lines().count(), 1, "{empty}");
    assert_eq!(run(&service, &name, "c").await, line("started", &id));
    let words = ["rm", "--force", &id[..12]];
    assert_eq!(cli(&service, &words).await.done(), format!("{}\n", &id[..12]));
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_target_that_fails_does_not_keep_the_others_from_their_turn() {
    let service = Service::start().await.synced().await;
    let (first, last) = (unique("cli"), unique("cli"));
    run(&service, &first, "b").await;
    run(&service, &last, "b").await;
    let none = unique("nobody");
    let ended = cli(&service, &["rm", "-f", &first, &none, &last]).await;
    assert_eq!((ended.code, ended.out), (Some(3), format!("{first}\n{last}\n")));
    assert!(ended.err.contains(&none), "{}", ended.err);
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_what_rest_answers_to_the_byte() {
    let service = Service::start().await.synced().await;
    let name = unique("json");
    let flags = ["run", "--json", "--name", &name, "-p", "80"];
    let words = [&flags[..], &[image(), "sleep", "1000"]].concat();
    let created = cli(&service, &words).await.json();
    assert!(created.starts_with("{\"started\":true,"), "{created}");
    let unchanged = cli(&service, &words).await.json();
    let body = format!(
        "{{\"names\":[\"{name}\"],\"image\":\"{}\",\"ports\":[{{\"internal\":80}}],\
         \"command\":[\"sleep\",\"1000\"]}}",
        image()
    );
    let get = async |method, path: &str, body: &str| service.raw(method, path, body, &[]).await.2;
    assert_eq!(unchanged, get("PUT", "/container-svc/container", &body).await);
    let rest = get("GET", &format!("/container-svc/container?name={name}"), "").await;
    assert_eq!(cli(&service, &["--json", "inspect", &name]).await.json(), rest);
    let body = format!("{{\"name\":\"{name}\"}}");
    let rest = get("POST", "/container-svc/containers", &body).await;
    assert_eq!(cli(&service, &["ps", "--json", "--name", &name]).await.json(), rest);

    let info: Value = cli(&service, &["info", "--json"]).await.json().parse().expect("JSON");
    let (_, rest) = service.get("/container-svc/node").await;
    for key in ["id", "version", "portRange"] {
        assert_eq!(info["node"][key], rest["node"][key], "{key}");
    }
    let made = cli(&service, &["token", "create", "x", "--as", "viewer", "--json"]).await.json();
    assert!(made.contains("\"secret\":\"csvc_"), "{made}");
    let rest = get("GET", "/container-svc/tokens", "").await;
    assert_eq!(cli(&service, &["token", "list", "--json"]).await.json(), rest);
    for words in [&["token", "revoke", "x"][..], &["stop", &name], &["rm", &name]] {
        assert_eq!(cli(&service, &[words, &["--json"]].concat()).await.json(), "{}", "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn info_tells_of_the_node_and_its_engine() {
    let service = Service::start().await.synced().await;
    let told = cli(&service, &["info"]).await.done();
    let (first, last) = service.ports.range;
    let engine = docker(&["version", "--format", "{{.Server.Version}} (API "]);
    for (key, value) in [
        ("Node", service.node.as_str()),
        ("Version", env!("CARGO_PKG_VERSION")),
        ("Containers", " running, "),
        ("Ports", &format!("{first}-{last}")),
        ("Engine", "docker.sock"),
        ("  Version", &engine),
        ("  Platform", "linux/"),
        ("  Synced", "since "),
    ] {
        let line = told.lines().find(|line| line.starts_with(&format!("{key:<12}")));
        assert!(line.is_some_and(|line| line.contains(value)), "{key} {value}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_opens_what_it_may_and_ends_when_it_is_revoked() {
    let service = Service::start().await.synced().await;
    let create = ["token", "create", "eve", "--as", "viewer", "--ttl", "1h"];
    let made = cli(&service, &create).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.err.contains("eve: container:view") && made.err.contains("until 2"), "{made:?}");
    let secret = made.out.trim();
    assert!(secret.starts_with("csvc_") && made.out.lines().count() == 1, "alone on stdout");
    let listed = cli(&service, &["token", "list"]).await.done();
    let row = listed.lines().find(|line| line.starts_with("eve ")).expect("its row");
    assert!(row.contains("container:view") && !listed.contains(secret), "{listed}");

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{secret}\n")).expect("a file");
    let file = file.display().to_string();
    let eve = |args: &[&str]| {
        let mut command = of(&service, PROGRAM);
        command.env_remove("CONTAINER_SVC_TOKEN").args(["--token-file", &file]).args(args);
        end(command)
    };
    eve(&["ps"]).await.done();
    let refused = eve(&["run", image()]).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("container-svc:container:run"), "{refused:?}");
    assert_eq!(cli(&service, &["token", "revoke", "eve"]).await.done(), "eve\n");
    assert_eq!(eve(&["ps"]).await.code, Some(4));
    assert_eq!(cli(&service, &["token", "revoke", "eve"]).await.code, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_name_the_subcommands_in_the_words_of_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = bare(PROGRAM);
        command.args(["completions", shell]);
        let script = end(command).await.done();
        for word in ["container-svc", "inspect", "completions", "token-file"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
        if shell == "bash" {
            let mut check = bare("bash");
            check.args(["-c", &format!("{script}\ncomplete -p container-svc")]);
            assert!(end(check).await.done().contains("container-svc"));
        }
    }
}
