//! 1Backend's own client, as it is published on npm, through every documented path.

use tokio::process::Command;

use super::stage::{ROOT, Stage, succeeds};
use crate::support::docker;

#[tokio::test(flavor = "multi_thread")]
async fn the_published_client_is_answered_on_every_documented_path() {
    let stage = Stage::set("npm").await;
    let mut node = Command::new("node");
    node.args(["--test", "every_path.test.mjs"]);
    node.current_dir(format!("{ROOT}/tests/third_party/published"));
    succeeds(stage.tell(&mut node)).await;
    docker(&["rmi", &format!("{}published-built", stage.name)]);
}
