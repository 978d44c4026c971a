//! Containers that somebody else runs, and the engine's own files of their logs.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use container_svc::{config::SourceChoice, rpc::pb};

use crate::support::{docker, eventually, image, unique};

/// Wherever lines come from, the same must hold.
pub(crate) const SOURCES: [SourceChoice; 2] = [SourceChoice::Files, SourceChoice::Engine];

/// A container that is removed when it is dropped.
pub(crate) struct Foreign {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The engine's address, when it is not the usual one.
    engine: Option<String>,
}

impl Foreign {
    /// Runs a script, with more options of `docker run`.
    pub(crate) fn run(options: &[&str], script: &str) -> Self {
        Self::run_on(None, image(), options, script)
    }

    /// The same on another engine.
    pub(crate) fn run_on(
        engine: Option<String>,
        image: &str,
        options: &[&str],
        script: &str,
    ) -> Self {
        let mut new = Self { id: String::new(), name: unique("foreign"), engine };
        let run = ["run", "-d", "--network", "none", "--name", &new.name];
        let labels = ["--label", "container-svc-test=foreign"];
        let args = [&run[..], &labels, options, &[image, "sh", "-c", script]].concat();
        new.id = new.docker(&args);
        assert_eq!(new.id.len(), 64, "{}", new.id);
        new
    }

    /// Runs the docker command on its engine.
    fn docker(&self, args: &[&str]) -> String {
        match &self.engine {
            Some(engine) => docker(&[&["-H", engine], args].concat()),
            None => docker(args),
        }
    }

    /// Runs a script in it.
    pub(crate) fn exec(&self, script: &str) {
        self.docker(&["exec", &self.name, "sh", "-c", script]);
    }

    /// Until it has ended.
    pub(crate) async fn ended(&self) {
        eventually("it has ended", || async {
            self.docker(&["inspect", "-f", "{{.State.Status}}", &self.id]) == "exited"
        })
        .await;
        let code = self.docker(&["inspect", "-f", "{{.State.ExitCode}}", &self.id]);
        assert_eq!(code, "0", "its script ended well");
    }

    /// The engine's file of its log.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.docker(&["inspect", "-f", "{{.LogPath}}", &self.id]).into()
    }

    /// What the engine says that it wrote, to the byte.
    pub(crate) fn told_by_the_engine(&self) -> Vec<u8> {
        Command::new("docker").args(["logs", &self.id]).output().expect("docker").stdout
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.docker(&["rm", "-f", &self.id]);
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
