//! Exit codes, as the README lists them, for scripts.

use std::net::TcpListener;

use super::{Ended, PROGRAM, bare, cli, end, of, run};
use crate::support::{Service, docker, image, unique};

/// Code and words of a call that fails; nothing is on stdout.
fn failed(ended: &Ended, code: i32, words: &str) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{ended:?}");
    assert!(ended.err.contains(words), "{words} in {ended:?}");
}

async fn alone(args: &[&str]) -> Ended {
    let mut command = bare(PROGRAM);
    command.args(args);
    end(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_for_what_failed_and_three_for_what_is_not_there() {
    let service = Service::start().await.synced().await;
    failed(&cli(&service, &["run", "--name", "a b", image()]).await, 1, "names[0]");
    failed(&cli(&service, &["run", "Not::An::Image"]).await, 1, "image");
    let none = unique("nobody");
    for word in ["stop", "rm", "inspect"] {
        failed(&cli(&service, &[word, &none]).await, 3, &none);
    }
    failed(&cli(&service, &["inspect", "--hash", &none]).await, 3, &none);
    failed(&cli(&service, &["token", "revoke", &none]).await, 3, &none);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_is_for_a_wrong_command_line_and_nothing_is_asked() {
    for (args, words) in [
        (&[][..], "Usage"),
        (&["dance"], "dance"),
        (&["ps", "--colour"], "--colour"),
        (&["stop"], "CONTAINER"),
        (&["run", "-p", "70000", "x"], "70000"),
        (&["run", "--memory", "much", "x"], "much"),
        (&["token", "create", "x"], "--as"),
        (&["token", "create", "x", "--as", "king"], "king"),
        (&["--address", "ftp://x", "ps"], "ftp://x"),
        (&["--address", "https://", "ps"], "is not an address"),
        (&["--token-file", "/nonexistent", "ps"], "/nonexistent"),
    ] {
        failed(&alone(args).await, 2, words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_is_for_a_token_that_is_not_there_or_wrong_or_too_weak() {
    let service = Service::start().await.synced().await;
    let with = |token: Option<&str>, args: &[&str]| {
        let mut command = of(&service, PROGRAM);
        command.env_remove("CONTAINER_SVC_TOKEN").args(args);
        command.envs(token.map(|token| ("CONTAINER_SVC_TOKEN", token)));
        end(command)
    };
    failed(&with(None, &["ps"]).await, 4, "--token-file");
    failed(&with(Some("wrong"), &["ps"]).await, 4, "--token-file");
    let made = cli(&service, &["token", "create", "weak", "--as", "viewer"]).await.out;
    let weak = with(Some(made.trim()), &["run", image()]).await;
    failed(&weak, 4, "container-svc:container:run");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_is_for_what_does_not_answer() {
    failed(&alone(&["--address", "http://127.0.0.1:9", "ps"]).await, 5, "127.0.0.1:9");
    failed(&alone(&["--address", "unix:///nonexistent", "ps"]).await, 5, "/nonexistent");
    let service = Service::with(|config| config.engine = "unix:///no-engine".into()).await;
    failed(&cli(&service, &["run", image()]).await, 5, "unix:///no-engine");
    let service = Service::start().await.synced().await;
    failed(&cli(&service, &["pull", "127.0.0.1:9/x:1"]).await, 5, "127.0.0.1:9");
}

#[tokio::test(flavor = "multi_thread")]
async fn six_is_for_a_state_that_forbids_it() {
    let service = Service::with(|config| config.port_range.1 = config.port_range.0);
    let service = service.await.synced().await;
    let name = unique("six");
    run(&service, &name, "b").await;
    failed(&cli(&service, &["rm", &name]).await, 6, "stop it first");
    let full = cli(&service, &["run", "-p", "80", image()]).await;
    failed(&full, 6, "port_range");
    let (_, free) = service.ports.range;
    let held = TcpListener::bind(("0.0.0.0", free)).expect("a free port");
    let port = format!("{free}:80");
    failed(&cli(&service, &["run", "-p", &port, image()]).await, 6, "is held by");
    drop(held);

    let foreign = unique("foreign");
    docker(&["create", "--name", &foreign, image(), "true"]);
    let taken = cli(&service, &["run", "--name", &foreign, image()]).await;
    docker(&["rm", "-f", &foreign]);
    failed(&taken, 6, &foreign);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_is_for_a_servers_wrong_settings() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("settings.toml");
    std::fs::write(&file, "listne = \"127.0.0.1:0\"\n").expect("a file");
    let file = file.display().to_string();
    failed(&alone(&["serve", "--port-range", "9-1"]).await, 64, "port_range");
    failed(&alone(&["serve", "--anonymous", "--listen", "0.0.0.0:0"]).await, 64, "anonymous");
    failed(&alone(&["serve", "--config", &file]).await, 64, "listne");
    failed(&alone(&["serve", "--config", "/nonexistent.toml"]).await, 64, "/nonexistent.toml");
}
