//! `pull`: bars for a person, lines for a script, a password from stdin.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::{Ended, PROGRAM, cli, end, ended, of};
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_shows_bars_to_a_person_and_lines_to_a_script() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let (first, second) = (registry.push("bars"), registry.push("lines"));
    // `script` runs it under a terminal of its own, of a known size.
    let mut person = of(&service, "script");
    let line = format!("stty cols 100 rows 30; exec {PROGRAM} pull {first}");
    person.env("TERM", "xterm").args(["-qec", &line, "/dev/null"]);
    let Ended { code, out, err } = end(person).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for part in ["total", "/1.00 MiB", "/2 layers", "\u{1b}["] {
        assert!(out.contains(part), "{part} in {out:?}");
    }
    assert!(!out.contains("[=] 0 B") && !out.contains("0/0"), "a bar of nothing: {out:?}");
    // Nothing is drawn over the digest, which is all that remains.
    let (_, last) = out.rsplit_once("sha256:").expect("the digest");
    assert_eq!((last.len(), last.trim_end().len()), (66, 64), "{out:?}");

    let script = cli(&service, &["pull", &second]).await;
    assert_eq!(script.code, Some(0), "{script:?}");
    assert!(script.out.starts_with("sha256:") && script.out.lines().count() == 1, "{script:?}");
    assert!(script.err.lines().any(|line| line.ends_with(": Pull complete")), "{script:?}");
    assert!(!script.err.contains('\u{1b}'), "no bars: {script:?}");

    let json = cli(&service, &["pull", "--json", &second]).await.done();
    let steps: Vec<Value> = json.lines().map(|line| line.parse().expect("JSON")).collect();
    let (last, before) = steps.split_last().expect("steps");
    assert_eq!(last["done"], true);
    assert!(before.iter().all(|step| step["done"] == false), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_takes_its_password_from_stdin() {
    let registry = Registry::start(true).await;
    let service = registry.service().await;
    let name = registry.push("closed");
    for (password, code) in [("wrong\n", 3), ("sesame\n", 0)] {
        let mut pull = of(&service, PROGRAM);
        pull.args(["pull", "--username", "alice", "--password-stdin", &name]).stdin(Stdio::piped());
        let mut child = pull.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(password.as_bytes()).await.expect("it reads");
        drop(stdin);
        let ended = ended(child).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
    }
    assert_eq!(cli(&service, &["pull", &name]).await.code, Some(3), "nothing was kept");
}
