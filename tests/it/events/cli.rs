//! `container-svc events`: for people, for programs, and followed.

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::*;

fn program(service: &Service, args: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_container-svc"));
    program.env_clear().env("CONTAINER_SVC_DATA_DIR", "/nonexistent").kill_on_drop(true);
    program.env("CONTAINER_SVC_ADDRESS", &service.url).env("CONTAINER_SVC_TOKEN", &service.token);
    program.arg("events").args(args).stdout(std::process::Stdio::piped());
    program
}

async fn print(service: &Service, args: &[&str]) -> (Option<i32>, String) {
    let out = program(service, args).output().await.expect("it runs");
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_printed_filtered_and_as_json() {
    let service = Service::start().await.synced().await;
    let name = unique("cli");
    let id = run(&service, service.request(&name)).await;
    stop(&service, &name).await;
    let (code, text) = print(&service, &["--kind", "created", "--kind", "stopped", &name]).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{text}");
    let words: Vec<_> = lines[0].split_whitespace().skip(1).collect();
    assert_eq!(words, ["created", &name, &id[..12]], "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    let (_, text) = print(&service, &["--json", "-n", "1", "--kind", "stopped", &name]).await;
    let event: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON object");
    assert_eq!((&event["kind"], &event["containerId"]), (&"EVENT_KIND_STOPPED".into(), &id.into()));
    let (_, text) = print(&service, &["--since", "2100-01-01T00:00:00Z", &name]).await;
    assert_eq!(text, "");
    assert_eq!(print(&service, &["--kind", "dead"]).await.0, Some(2));
    assert_eq!(print(&service, &["--id", "a"]).await.0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_outlives_a_restart_of_the_service() {
    let mut service = Service::start().await.synced().await;
    let name = unique("follow");
    run(&service, service.request(&name)).await;
    let args = ["-f", "--kind", "created", "--kind", "removed", &name];
    let mut follow = program(&service, &args);
    let mut follow = follow.stderr(std::process::Stdio::null()).spawn().expect("it runs");
    let mut lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    let mut next = async || {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time");
        line.expect("read").expect("a line")
    };
    assert!(next().await.contains("created"));
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    remove(&service, &name).await;
    let line = next().await;
    assert!(line.contains("removed") && line.contains(&name), "{line}");
}
