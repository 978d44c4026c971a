//! `serve`: settings, readiness, the end.

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{PROGRAM, bare, end, ended};
use crate::support::{DEADLINE, unique};

#[tokio::test(flavor = "multi_thread")]
async fn serve_tells_where_it_listens_and_ends_well_on_a_signal() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = unique("serve");
    let serve = |more: &[&str]| {
        let mut command = bare(PROGRAM);
        command.env("CONTAINER_SVC_DATA_DIR", dir.path());
        command.args(["serve", "--listen", "127.0.0.1:0", "--node-id", &node, "--network", &node]);
        command.args(more);
        command
    };
    let check = end(serve(&["--check-config"])).await.done();
    let file = dir.path().join("settings.toml");
    std::fs::write(&file, &check).expect("a file");
    let mut again = bare(PROGRAM);
    again.env_remove("CONTAINER_SVC_DATA_DIR");
    again.args(["serve", "--check-config", "--config"]).arg(&file);
    assert_eq!(end(again).await.done(), check, "what it prints is such a file");

    let mut child = serve(&[]).spawn().expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let ready = async {
        let mut address = String::new();
        while let Some(line) = log.next_line().await.expect("text") {
            if let Some((_, rest)) = line.split_once("listening on ") {
                address = rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            // The first start makes a token, once it has its port.
            if line.contains("the admin token is in") {
                return address;
            }
        }
        panic!("it ended before it was ready")
    };
    let address = tokio::time::timeout(DEADLINE, ready).await.expect("in time");
    let mut info = bare(PROGRAM);
    info.env("CONTAINER_SVC_DATA_DIR", dir.path()).args(["info", "--address", &address]);
    assert!(end(info).await.done().contains(&node), "with the token of its data directory");
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().expect("kill").success());
    // Its log must be read on, else the full pipe would stop it.
    while let Ok(Some(_)) = log.next_line().await {}
    assert_eq!(ended(child).await.code, Some(0));
}
