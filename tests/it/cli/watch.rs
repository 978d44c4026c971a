//! `watch`: changes as they happen.

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

use super::{PROGRAM, cli, of, run};
use crate::support::{DEADLINE, Service, image, unique};

/// A watch under way, and what it prints.
fn watch(service: &Service, args: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = of(service, PROGRAM);
    let mut child = command.arg("watch").args(args).spawn().expect("it starts");
    let out = child.stdout.take().expect("piped");
    (child, BufReader::new(out).lines())
}

/// The next line that has the text.
async fn line(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> String {
    let find = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains(text) {
                return line;
            }
        }
        panic!("it ended without {text}")
    };
    tokio::time::timeout(DEADLINE, find).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_changes_as_they_happen_and_goes_on_from_a_cursor() {
    let service = Service::start().await.synced().await;
    let name = unique("watch");
    let (mut person, mut lines) = watch(&service, &["--name", &name]);
    let (_program, mut json) = watch(&service, &["--json", "--name", &name]);
    assert_eq!(line(&mut lines, "").await, "synced");
    line(&mut json, "WATCH_EVENT_TYPE_SYNCED").await;
    run(&service, &name, "b").await;
    let added = line(&mut lines, &name).await;
    assert!(added.starts_with("added") && added.contains(image()), "{added}");
    // It may run already when the first event of it comes.
    if !added.contains("running") {
        line(&mut lines, "running").await;
    }
    let running: Value = line(&mut json, "\"running\"").await.parse().expect("JSON");

    let pid = person.id().expect("it runs").to_string();
    assert!(
        std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill").success()
    );
    let ended = tokio::time::timeout(DEADLINE, person.wait()).await.expect("Ctrl-C ends it");
    assert_eq!(ended.expect("its end").code(), Some(0), "Ctrl-C is how it ends well");

    cli(&service, &["rm", "-f", &name]).await.done();
    let cursor = running["cursor"].as_str().expect("a cursor");
    let (_again, mut lines) = watch(&service, &["--name", &name, "--cursor", cursor]);
    let first = line(&mut lines, "").await;
    assert!(!first.starts_with("added") && !first.starts_with("reset"), "{first}");
    // The end of the container may be of before the cursor.
    if !first.starts_with("removed") {
        line(&mut lines, "removed").await;
    }
}
