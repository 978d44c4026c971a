//! Our clients, each by its own tests in its own language, against a live server: run,
//! unchanged, replaced; a list in pages; a tail that is cancelled; a build that fails
//! at a step; the progress of a pull; no token, a weak token, a deadline; TLS; and the
//! lines of each README, with the package as its ecosystem takes it.

use std::path::Path;

use tokio::process::Command;

use super::stage::{ROOT, Stage, built, succeeds};

#[tokio::test(flavor = "multi_thread")]
async fn the_go_client_holds_the_contract() {
    let stage = Stage::set("go").await;
    let mut go = Command::new("go");
    // A test that passed once would be taken from a cache.
    go.args(["test", "-count=1", "./..."]).current_dir(format!("{ROOT}/clients/go"));
    succeeds(stage.tell(&mut go)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_holds_the_contract() {
    let stage = Stage::set("python").await;
    let mut python = Command::new(format!("{ROOT}/.cache/tools/venv/bin/python"));
    python.args(["-m", "unittest", "-v", "clients/python/tests/test_contract.py"]);
    succeeds(stage.tell(python.current_dir(ROOT))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stubs_of_the_python_client_are_typed() {
    let mut mypy = Command::new(format!("{ROOT}/.cache/tools/venv/bin/mypy"));
    mypy.args(["--strict", "src/containersvc", "example", "tests"]);
    mypy.current_dir(Path::new(ROOT).join("clients/python"));
    succeeds(&mut mypy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_holds_the_contract() {
    built().await;
    let stage = Stage::set("typescript").await;
    let mut node = Command::new("node");
    node.args(["--test", "test/contract.test.mjs"]);
    node.current_dir(format!("{ROOT}/clients/typescript"));
    succeeds(stage.tell(&mut node)).await;
}
