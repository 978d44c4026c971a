//! An engine of the test's own, which is killed while the service looks on.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use container_svc::rpc::pb;
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{RECOVERY, becomes, health, is_running, run};
use crate::support::{Service, eventually, unique};

/// The image that it has.
pub(crate) const TAG: &str = "container-svc-private:1";

/// Settings of an engine that lets steps out of their sandbox.
const INSECURE: &str = r#"{"builder": {"entitlements": {"security-insecure": true}}}"#;
/// The real one, asked for what this machine can give: where tests run in a container,
/// it often lacks one of the capabilities that a step without a sandbox has.
const RUNC: &str = r#"
PATH=${PATH#*:}
bundle=
for word; do
    [ "$before" = --bundle ] && bundle=$word
    before=$word
done
lacks() { [ $(( 0x$(sed -n 's/^CapBnd:\s*//p' /proc/self/status) >> 24 & 1 )) = 0 ]; }
if [ -n "$bundle" ] && lacks; then
    sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g' "$bundle/config.json"
fi
exec runc "$@"
"#;

/// One start of a container: its process id, and when.
#[derive(Debug, PartialEq, Eq)]
struct Start(String);

impl Start {
    fn lives(&self) -> bool {
        self.0.split(' ').next().is_some_and(|pid| Path::new("/proc").join(pid).exists())
    }
}

/// A `dockerd` with everything in one folder and in a network of its own, so
/// that it harms no other: on the host's network it would share the default
/// bridge, and without one it would take that of the host away.
pub(crate) struct Engine {
    dir: TempDir,
    /// Its network, as long as this process lives: containers may outlive the
    /// engine, and its successor must find them there.
    network: Child,
    process: Option<Child>,
    kind: Kind,
}

/// What is special about an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Containers outlive it.
    LiveRestore,
    /// It gives GPUs.
    Gpus,
    /// Its disk has room for 64 MiB.
    LittleRoom,
    /// Its settings let steps of builds out of their sandbox.
    InsecureBuilds,
}

impl Engine {
    pub(crate) async fn start(live_restore: bool) -> Self {
        Self::with(if live_restore { Kind::LiveRestore } else { Kind::Plain }).await
    }

    /// One that gives GPUs to containers, as NVIDIA's toolkit makes it, but for the
    /// hook, which does nothing here.
    pub(crate) async fn with_gpus() -> Self {
        Self::with(Kind::Gpus).await
    }

    /// One whose disk has room for 64 MiB.
    pub(crate) async fn with_little_room() -> Self {
        Self::with(Kind::LittleRoom).await
    }

    /// One that lets steps of builds out of their sandbox, if they are entitled to it.
    pub(crate) async fn with_insecure_builds() -> Self {
        Self::with(Kind::InsecureBuilds).await
    }

    async fn with(kind: Kind) -> Self {
        let network = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn();
        let network = network.expect("unshare");
        let dir = tempfile::tempdir().expect("a folder");
        let own = format!("/proc/{}/ns/net", network.id());
        let ours = std::fs::read_link("/proc/self/ns/net").expect("a link");
        eventually("the network is another", || async {
            std::fs::read_link(&own).is_ok_and(|own| own != ours)
        })
        .await;
        let mut engine = Self { dir, network, process: None, kind };
        let insecure = kind == Kind::InsecureBuilds;
        let settings = if insecure { INSECURE } else { "{}" };
        std::fs::write(engine.path("settings"), settings).expect("a file");
        match kind {
            Kind::Gpus => engine.write_program("nvidia-container-runtime-hook", "exit 0"),
            Kind::InsecureBuilds => engine.write_program("runc", RUNC),
            Kind::LittleRoom => {
                std::fs::create_dir(engine.path("data")).expect("a folder");
                let mut mount = Command::new("mount");
                mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs", &engine.path("data")]);
                assert!(mount.status().expect("mount").success(), "root may mount a tmpfs");
            }
            Kind::Plain | Kind::LiveRestore => {}
        }
        engine.resume().await;
        let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo-image"))
            .arg(TAG)
            .env("DOCKER_HOST", engine.address())
            .status();
        assert!(made.expect("scripts/demo-image runs").success());
        engine
    }

    /// A program that the engine finds before any other of its name.
    fn write_program(&self, name: &str, lines: &str) {
        let folder = self.dir.path().join("programs");
        std::fs::create_dir(&folder).expect("a folder");
        let program = folder.join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{lines}\n")).expect("a program");
        let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, may_run).expect("it may run");
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path("sock"))
    }

    /// Its socket, to put a proxy before it.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("sock")
    }

    pub(crate) fn docker(&self, args: &[&str]) -> Option<String> {
        let out = Command::new("docker").args(["-H", &self.address()]).args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    fn start_of(&self, name: &str) -> Start {
        let told = self.docker(&["inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", name]);
        Start(told.expect("it is there"))
    }

    pub(crate) async fn resume(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = Command::new("nsenter");
        let command = command
            .arg(format!("--net=/proc/{}/ns/net", self.network.id()))
            .args(["dockerd", "--iptables=false", "--host", &self.address()])
            .args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec")])
            .args(["--pidfile", &self.path("pid"), "--config-file", &self.path("settings")])
            .arg(format!("--live-restore={}", self.kind == Kind::LiveRestore))
            .stdout(Stdio::null())
            .stderr(log);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.path("programs")));
        if self.kind == Kind::Gpus {
            command.args(["--add-runtime", "nvidia=runc"]);
        }
        self.process = Some(command.spawn().expect("dockerd; run `make engine`"));
        eventually("the private engine answers", || async { self.docker(&["version"]).is_some() })
            .await;
    }

    /// As the kernel does when memory is short.
    pub(crate) fn kill(&mut self) {
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

impl Engine {
    /// As an administrator does: it ends its containers first.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let asked = Command::new("kill").arg(process.id().to_string()).status();
        assert!(asked.expect("kill runs").success());
        process.wait().expect("gone");
    }

    /// Ends it, with the containers of a service that has ended before.
    pub(crate) async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || drop(self));
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        ended.expect("in time").expect("no panic");
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
        // One that was killed leaves its data mounted, and that the folder in place.
        let _ = Command::new("umount").arg(self.path("data")).output();
        let _ = self.network.kill();
        let _ = self.network.wait();
    }
}

/// The engine is killed under two running containers and started again.
async fn is_killed_and_started_again(live_restore: bool) {
    let mut engine = Engine::start(live_restore).await;
    let address = engine.address();
    let service = Service::with(|config| config.engine = address).await.synced().await;
    let (first, second) = (unique("killed"), unique("killed"));
    // Whether they come back by themselves is told elsewhere.
    let request = |name: &str| pb::RunContainerRequest {
        image: TAG.into(),
        restart_policy: pb::RestartPolicy::Never.into(),
        ..service.request(name)
    };
    let mut starts = Vec::new();
    for name in [&first, &second] {
        run(&service, request(name)).await;
        starts.push(engine.start_of(name));
    }
    becomes(&service, ServingStatus::Serving).await;

    engine.kill();
    becomes(&service, ServingStatus::NotServing).await;
    let refused = service.grpc().await.run_container(request(&unique("later"))).await;
    assert_eq!(refused.expect_err("no engine").code(), tonic::Code::Unavailable);
    assert!(is_running(&service, &first).await, "memory still answers");
    if live_restore {
        assert!(starts.iter().all(Start::lives), "they outlive their engine: {starts:?}");
    }

    engine.resume().await;
    let took = becomes(&service, ServingStatus::Serving).await;
    assert!(took <= RECOVERY, "{took:?}");
    let again = if live_restore {
        assert!(is_running(&service, &first).await && is_running(&service, &second).await);
        pb::RunAction::Unchanged
    } else {
        eventually("what the engine ended is seen", || async {
            !is_running(&service, &first).await && !is_running(&service, &second).await
        })
        .await;
        pb::RunAction::Started
    };
    for (name, start) in [&first, &second].into_iter().zip(&starts) {
        let answer = run(&service, request(name)).await;
        assert_eq!(answer.action(), again, "neither forgotten nor made twice");
        let same = engine.start_of(name) == *start;
        assert_eq!(same, live_restore, "what still runs is not started again");
    }
    let there = engine.docker(&["ps", "-aq"]).expect("it answers");
    assert_eq!(there.lines().count(), 2, "{there}");
    assert_eq!(health(&service).await, ServingStatus::Serving);
    drop(service);
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_and_started_again_is_followed_again() {
    is_killed_and_started_again(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_outlive_their_engine_are_left_as_they_are() {
    is_killed_and_started_again(true).await;
}
