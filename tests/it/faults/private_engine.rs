//! An engine of the test's own, which is killed while the service looks on.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::Duration,
};

use container_svc::rpc::pb;
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{RECOVERY, becomes, health, is_running, run};
use crate::support::{Service, eventually, unique};

const TAG: &str = "container-svc-private:1";

/// A `dockerd` with everything in one folder and in a network of its own, so
/// that it harms no other: on the host's network it would share the default
/// bridge, and without one it would take that of the host away.
struct Engine {
    dir: TempDir,
    process: Option<Child>,
}

impl Engine {
    async fn start() -> Self {
        let mut engine = Self { dir: tempfile::tempdir().expect("a folder"), process: None };
        engine.resume().await;
        let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo-image"))
            .arg(TAG)
            .env("DOCKER_HOST", engine.address())
            .status();
        assert!(made.expect("scripts/demo-image runs").success());
        engine
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path("sock"))
    }

    fn docker(&self, args: &[&str]) -> Option<String> {
        let out = Command::new("docker").args(["-H", &self.address()]).args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    async fn resume(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let process = Command::new("unshare")
            .args([
                "--net",
                "dockerd",
                "--data-root",
                &self.path("data"),
                "--exec-root",
                &self.path("exec"),
            ])
            .args(["--pidfile", &self.path("pid"), "--host", &self.address()])
            .arg("--iptables=false")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("dockerd; run `make engine`"));
        eventually("the private engine answers", || async { self.docker(&["version"]).is_some() })
            .await;
    }

    /// As the kernel does when memory is short.
    fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("killed");
        process.wait().expect("gone");
        // The containerd that it started dies with it; what both leave behind
        // would keep the next one waiting.
        let pid = std::fs::read_to_string(self.path("exec/containerd/containerd.pid"));
        let _ = Command::new("kill").args(["-9", pid.unwrap_or_default().trim()]).status();
        for left in ["pid", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"] {
            let _ = std::fs::remove_file(self.path(left));
        }
        let _ = std::fs::remove_file(self.path("exec/containerd/containerd.sock.ttrpc"));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"]).unwrap_or_default();
        for id in ids.lines() {
            self.docker(&["rm", "-f", id]);
        }
        for name in
            self.docker(&["network", "ls", "-q", "-f", "name=cst-"]).unwrap_or_default().lines()
        {
            self.docker(&["network", "rm", name]);
        }
        if let Some(mut process) = self.process.take() {
            // Asked kindly, it takes its containerd along.
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_and_started_again_is_followed_again() {
    let mut engine = Engine::start().await;
    let address = engine.address();
    let service = Service::with(|config| config.engine = address).await.synced().await;
    let (first, second) = (unique("killed"), unique("killed"));
    let request =
        |name: &str| pb::RunContainerRequest { image: TAG.into(), ..service.request(name) };
    run(&service, request(&first)).await;
    run(&service, request(&second)).await;
    becomes(&service, ServingStatus::Serving).await;

    engine.kill();
    becomes(&service, ServingStatus::NotServing).await;
    let refused = service.grpc().await.run_container(request(&unique("later"))).await;
    assert_eq!(refused.expect_err("no engine").code(), tonic::Code::Unavailable);
    assert!(is_running(&service, &first).await, "memory still answers");

    engine.resume().await;
    let took = becomes(&service, ServingStatus::Serving).await;
    assert!(took <= RECOVERY, "{took:?}");
    eventually("what the engine ended is seen", || async {
        !is_running(&service, &first).await && !is_running(&service, &second).await
    })
    .await;
    let again = run(&service, request(&first)).await;
    assert_eq!(again.action(), pb::RunAction::Started, "neither forgotten nor made twice");
    assert_eq!(health(&service).await, ServingStatus::Serving);
    drop(service);
    // Its containers are on the private engine, which ends with them.
    tokio::time::timeout(
        Duration::from_secs(60),
        tokio::task::spawn_blocking(move || drop(engine)),
    )
    .await
    .expect("in time")
    .expect("no panic");
}
