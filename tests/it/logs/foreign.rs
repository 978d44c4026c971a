//! Containers that somebody else runs, and the engine's own files of their logs.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use container_svc::{app::logs::SourceChoice, rpc::pb};

use crate::support::{docker, image, unique};

/// Wherever lines come from, the same must hold.
pub(crate) const SOURCES: [SourceChoice; 2] = [SourceChoice::Files, SourceChoice::Engine];

/// A container that is removed when it is dropped.
pub(crate) struct Foreign {
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Foreign {
    /// Runs a script, with more options of `docker run`.
    pub(crate) fn run(options: &[&str], script: &str) -> Self {
        let name = unique("foreign");
        let mut args = vec!["run", "-d", "--network", "none", "--name", &name];
        args.extend(["--label", "container-svc-test=foreign"]);
        args.extend(options);
        args.extend([image(), "sh", "-c", script]);
        let id = docker(&args);
        assert_eq!(id.len(), 64, "{id}");
        Self { id, name }
    }

    /// Until it has ended.
    pub(crate) async fn ended(&self) {
        let id = self.id.clone();
        let wait = tokio::task::spawn_blocking(move || docker(&["wait", &id]));
        assert_eq!(wait.await.expect("no panic"), "0", "its script ended well");
    }

    /// The engine's file of its log.
    pub(crate) fn log_file(&self) -> PathBuf {
        docker(&["inspect", "-f", "{{.LogPath}}", &self.id]).into()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.id]);
    }
}

/// Writes a line into the engine's file, as the engine does.
pub(crate) fn write_record(log: &Path, text: &str, nanos: i64) {
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos)).expect("in range");
    let record = serde_json::json!({
        "log": format!("{text}\n"), "stream": "stdout", "time": format!("{at:.9}"),
    });
    let mut file = File::options().append(true).open(log).expect("the engine's files are here");
    file.write_all(format!("{record}\n").as_bytes()).expect("written");
}

/// Numbers at the beginning of lines grow, and where one is left out there is a
/// gap. Answers with how many lines and gaps there are.
pub(crate) fn told(lines: &[pb::Log], last: u64) -> (u64, u64) {
    let (mut expected, mut gap, mut count, mut gaps) = (1, false, 0, 0);
    for line in lines {
        if line.gap.is_some() {
            (gap, gaps) = (true, gaps + 1);
            continue;
        }
        let number = line.content.split(' ').next().and_then(|word| word.parse().ok());
        let number: u64 = number.unwrap_or_else(|| panic!("no number: {:?}", line.content));
        assert!(number >= expected, "{number} came again, or late; {expected} was next");
        assert!(number == expected || gap, "{expected} to {number} are lost, and no gap says so");
        (expected, gap, count) = (number + 1, false, count + 1);
    }
    assert!(expected == last + 1 || gap, "{expected} to {last} are lost, and no gap says so");
    (count, gaps)
}
