//! A page with our client in a real Chromium, over gRPC-web and across origins.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{ChildStdout, Command},
};

use super::stage::{ROOT, built};
use crate::support::{DEADLINE, Service, image, unique};

const LINES: u32 = 300;

async fn says(page: &mut Lines<BufReader<ChildStdout>>, word: &str) {
    let line = tokio::time::timeout(DEADLINE, page.next_line()).await;
    let line = line.unwrap_or_else(|_| panic!("not in time: {word}")).expect("text");
    assert_eq!(line.as_deref(), Some(word));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_lists_and_follows_over_a_restart_without_losing_or_repeating_a_line() {
    built().await;
    let mut service = Service::program(|config| config.cors_origins = vec!["*".to_owned()]).await;
    service = service.synced().await;
    let name = unique("page");
    let script = format!("for n in $(seq {LINES}); do echo line $n; sleep 0.03; done; sleep 1000");
    let request = serde_json::json!({
        "image": image(), "names": [name], "command": ["sh", "-c", script],
    });
    let (status, answer) =
        service.rest("PUT", "/container-svc/container", &request.to_string()).await;
    assert_eq!(status, 200, "{answer}");

    let mut page = Command::new("node")
        .args(["test/browser.mjs", "/usr/bin/chromium", &service.url, &service.token, &name])
        .arg(LINES.to_string())
        .current_dir(format!("{ROOT}/clients/typescript"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node");
    let mut lines = BufReader::new(page.stdout.take().expect("piped")).lines();
    says(&mut lines, "listed").await;
    says(&mut lines, "following").await;
    service.kill();
    says(&mut lines, "lost").await;
    service.resume().await;
    says(&mut lines, &format!("{LINES} lines")).await;
    assert!(page.wait().await.expect("its end").success());
}
