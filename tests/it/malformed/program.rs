//! The real program as a process of its own, so that its log, its memory and its
//! open files can be looked at.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::Stdio,
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{docker, eventually, unique};

/// A body may be as long as this, so that one too long need not be large.
pub(super) const MAX_BODY: usize = 64 << 10;

/// It ends when it is dropped.
pub(super) struct Program {
    pub(super) address: SocketAddr,
    pub(super) token: String,
    node: String,
    dir: TempDir,
    child: Child,
}

impl Program {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let node = unique("malformed");
        let log = File::create(dir.path().join("log")).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_container-svc"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--node-id", &node, "--network", &node])
            .args(["--max-body-bytes", &MAX_BODY.to_string()])
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let (address, token) = (SocketAddr::from(([127, 0, 0, 1], 0)), String::new());
        let mut program = Self { address, token, node, dir, child };
        eventually("it listens and its token is there", || async {
            program.listens_at().is_some() && program.token().is_some()
        })
        .await;
        program.address = program.listens_at().expect("an address");
        program.token = program.token().expect("a token");
        eventually("its view follows the engine", || program.answers()).await;
        program
    }

    fn listens_at(&self) -> Option<SocketAddr> {
        let log = self.log();
        let (_, rest) = log.split_once("listening on ")?;
        rest.lines().next()?.trim().parse().ok()
    }

    fn token(&self) -> Option<String> {
        let text = fs::read_to_string(self.dir.path().join("data/admin.token")).ok()?;
        text.strip_suffix('\n').map(str::to_owned)
    }

    /// What it wrote to its log.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn process(&self) -> std::path::PathBuf {
        format!("/proc/{}", self.child.id().expect("it lives")).into()
    }

    /// How many sockets it has open.
    pub(super) fn sockets(&self) -> usize {
        let open = fs::read_dir(self.process().join("fd")).expect("it lives");
        let targets = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Its resident memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let status = fs::read_to_string(self.process().join("status")).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.expect("a size") << 10
    }

    /// Whether it answers a good request as it should.
    pub(super) async fn answers(&self) -> bool {
        let out = Command::new("curl")
            .args([
                "-s",
                "--max-time",
                "10",
                "-H",
                &format!("Authorization: Bearer {}", self.token),
            ])
            .arg(format!("http://{}/container-svc/node", self.address))
            .output()
            .await
            .expect("curl");
        String::from_utf8_lossy(&out.stdout).contains("\"synced\":true")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.node]);
    }
}
