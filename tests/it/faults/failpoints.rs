//! The program is killed between every two steps of its work: whatever it was doing,
//! a retry ends in the right state, and nothing is left behind.
//!
//! A step is a request by which the engine changes something. It is cut off twice:
//! before the engine has it, and when the engine has done it but its answer has not
//! arrived.

use std::{collections::BTreeMap, future::Future};

use container_svc::config::Config;
use tonic::Request;

use super::*;

/// Everything of a service that is there, as the engine tells: containers by name
/// with their state, and volumes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) containers: BTreeMap<String, String>,
    pub(super) volumes: usize,
}

impl Left {
    pub(super) fn of(service: &Service) -> Self {
        let mut containers = BTreeMap::new();
        // Also what only helps for a moment.
        for label in ["container-svc.node", "container-svc.helper"] {
            let label = format!("label={label}={}", service.node);
            let rows =
                docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}} {{.State}}"]);
            let rows = rows.lines().filter_map(|row| row.split_once(' '));
            containers.extend(rows.map(|(name, state)| (name.to_owned(), state.to_owned())));
        }
        let mut volumes = 0;
        for label in ["container-svc.node", "container-svc.import"] {
            let label = format!("label={label}={}", service.node);
            volumes += docker(&["volume", "ls", "-q", "--filter", &label]).lines().count();
        }
        Self { containers, volumes }
    }

    pub(super) fn running(name: &str, volumes: usize) -> Self {
        Self { containers: [(name.to_owned(), "running".to_owned())].into(), volumes }
    }
}

/// A service that is cut off at its n-th step, again and again with n rising.
pub(super) struct Cutting {
    proxy: Proxy,
    pub(super) service: Service,
}

impl Cutting {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let proxy = Proxy::start();
        let service = Service::program(|config| {
            change(config);
            proxy.under(config);
            config.engine_timeout = DEADLINE;
        })
        .await
        .synced()
        .await;
        Self { proxy, service }
    }

    /// Begins the work and kills the program at a step; false when the work ends
    /// before it comes to that step. Afterwards the program runs again.
    pub(super) async fn kill_at(
        &mut self,
        step: usize,
        done: bool,
        work: impl Future<Output = ()>,
    ) -> bool {
        self.proxy.set(Mode::Cut { step, done });
        let met = self.proxy.met_now();
        let cut = tokio::select! {
            () = met => true,
            () = work => false,
        };
        if cut {
            self.service.kill();
        }
        self.proxy.set(Mode::Pass);
        if cut {
            self.service.resume().await;
            eventually("the view follows the engine", || async {
                let (_, node) = self.service.get("/container-svc/node").await;
                node["node"]["engine"]["synced"] == true
            })
            .await;
        }
        cut
    }

    async fn remove_all(&self, name: &str) {
        let remove = format!("/container-svc/container?name={name}&force=true");
        self.service.rest("DELETE", &remove, "").await;
        let keep = format!("/container-svc/keep?name={name}&path=/data");
        self.service.rest("DELETE", &keep, "").await;
        let gone = Left { containers: BTreeMap::new(), volumes: 0 };
        eventually("nothing is left", || async { Left::of(&self.service) == gone }).await;
    }
}

/// A description with a port and a keep.
fn described(service: &Service, name: &str, version: u8) -> pb::RunContainerRequest {
    let mut request = service.request(name);
    request.ports = vec![port(80, 0)];
    request.keeps = vec![pb::Keep { path: "/data".into(), read_only: None }];
    request.envs = vec![pb::EnvVar { key: "VERSION".into(), value: version.to_string() }];
    request
}

/// Asks for a run and does not mind that the connection breaks.
pub(super) async fn attempt(
    mut client: pb::container_service_client::ContainerServiceClient<Channel>,
    request: Request<pb::RunContainerRequest>,
) {
    drop(client.run_container(request).await);
}

/// The same to a program that lives: it must succeed.
async fn retry(service: &Service, name: &str, version: u8) -> pb::RunContainerResponse {
    let answer = run(service, described(service, name, version)).await;
    assert_eq!(answer.name, name);
    answer
}

pub(super) async fn client(
    service: &Service,
) -> pb::container_service_client::ContainerServiceClient<Channel> {
    let client = pb::container_service_client::ContainerServiceClient::connect(service.url.clone());
    client.await.expect("it listens")
}

pub(super) fn bearing<T>(service: &Service, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", service.token).parse().expect("ascii");
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// What was done, oldest first, as the history of a container tells.
async fn deeds(service: &Service, name: &str) -> Vec<String> {
    let (_, body) = named(service, name).await;
    let deeds = body["history"].as_array().cloned().unwrap_or_default();
    deeds.iter().rev().filter_map(|deed| deed["action"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_first_run_a_retry_makes_one_container() {
    let mut cutting = Cutting::start().await;
    let mut steps = 0;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let name = unique("first");
        let client = client(&cutting.service).await;
        let request = bearing(&cutting.service, described(&cutting.service, &name, 1));
        let cut = cutting.kill_at(step, done, attempt(client, request)).await;
        retry(&cutting.service, &name, 1).await;
        let left = Left::of(&cutting.service);
        assert_eq!(left, Left::running(&name, 1), "at step {step}, done: {done}");
        let told = deeds(&cutting.service, &name).await;
        assert_eq!(told, ["created"], "told once, at step {step}, done: {done}");
        // Nothing is forgotten: what differs is known.
        let replaced = retry(&cutting.service, &name, 2).await;
        assert_eq!(replaced.differing_fields, ["envs"], "at step {step}, done: {done}");
        cutting.remove_all(&name).await;
        steps = step;
        if !cut {
            break;
        }
    }
    assert!(steps > 3, "a volume, a container, a start: {steps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_replacement_a_retry_ends_with_the_successor() {
    let mut cutting = Cutting::start().await;
    let mut steps = 0;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let name = unique("next");
        let first = retry(&cutting.service, &name, 1).await;
        docker(&["exec", &name, "sh", "-c", "echo precious > /data/file"]);
        let client = client(&cutting.service).await;
        let request = bearing(&cutting.service, described(&cutting.service, &name, 2));
        let cut = cutting.kill_at(step, done, attempt(client, request)).await;
        // By itself, what is there is one that runs, the old one or the new one.
        let only = Left::running(&name, 1);
        eventually("one runs", || async { Left::of(&cutting.service) == only }).await;
        let second = retry(&cutting.service, &name, 2).await;
        let what = format!("at step {step}, done: {done}");
        assert_eq!(Left::of(&cutting.service), only, "{what}");
        assert_ne!(first.id, second.id, "{what}");
        assert_eq!(first.ports, second.ports, "{what}");
        let version = docker(&["inspect", "-f", "{{.Config.Env}}", &name]);
        assert!(version.contains("VERSION=2"), "{what}: {version}");
        assert_eq!(docker(&["exec", &name, "cat", "/data/file"]), "precious", "{what}");
        assert_eq!(deeds(&cutting.service, &name).await, ["created", "replaced"], "{what}");
        cutting.remove_all(&name).await;
        steps = step;
        if !cut {
            break;
        }
    }
    assert!(steps > 7, "make, stop, two names, start, remove: {steps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_replacement_a_job_that_ended_is_not_run_again() {
    let mut cutting = Cutting::start().await;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let what = format!("at step {step}, done: {done}");
        let name = unique("job");
        let job = |service: &Service, version: u8| pb::RunContainerRequest {
            command: ["sh", "-c", "true"].map(str::to_owned).to_vec(),
            restart_policy: pb::RestartPolicy::Never.into(),
            ..described(service, &name, version)
        };
        let first = run(&cutting.service, job(&cutting.service, 1)).await.id;
        let look = |of: &'static str| docker(&["inspect", "-f", of, &name]);
        eventually("it has ended", || async { look("{{.State.Status}}") == "exited" }).await;
        let started = look("{{.State.StartedAt}}");
        let client = client(&cutting.service).await;
        let request = bearing(&cutting.service, job(&cutting.service, 2));
        let cut = cutting.kill_at(step, done, attempt(client, request)).await;
        eventually(&format!("only the name is left, {what}"), || async {
            engine_names(&cutting.service) == only(&name)
        })
        .await;
        // This waits for whoever mends it.
        let body = format!("{{\"name\":\"{name}\"}}");
        let stopped = cutting.service.rest("PUT", "/container-svc/container/stop", &body).await;
        assert_eq!(stopped.0, 200, "{what}: {stopped:?}");
        if look("{{.Id}}") == first {
            assert_eq!(look("{{.State.StartedAt}}"), started, "{what}");
        }
        cutting.remove_all(&name).await;
        if !cut {
            assert!(step > 5, "make, two names, start, remove: {step}");
            break;
        }
    }
}

/// A service that is killed when the engine has started a container, and before it
/// hears of that.
async fn killed_after_the_start(replaces: bool) {
    let proxy = Proxy::start();
    let service = Service::program(|config| {
        proxy.under(config);
        config.engine_timeout = DEADLINE;
    });
    let mut service = service.await.synced().await;
    let name = unique("unheard");
    let crashes = "until rm /crash 2>/dev/null; do sleep 0.1; done; exit 3";
    let request = |service: &Service, version| pb::RunContainerRequest {
        command: ["sh", "-c", crashes].map(str::to_owned).to_vec(),
        ..described(service, &name, version)
    };
    let mut told = vec!["created"];
    if replaces {
        run(&service, request(&service, 1)).await;
        told.push("replaced");
    }
    let ask = attempt(client(&service).await, bearing(&service, request(&service, 2)));
    proxy.set_for(Mode::Hold, "/start");
    let met = proxy.met_now();
    let look = |of: &'static str| docker(&["inspect", "-f", of, &name]);
    let runs = || async { look("{{.State.Status}}") == "running" };
    tokio::select! {
        () = async { met.await; eventually("it runs", runs).await } => {}
        () = ask => panic!("the answer is kept back"),
    }
    service.kill();
    proxy.set(Mode::Pass);
    service.resume().await;
    eventually("it is told", || async { deeds(&service, &name).await == told }).await;
    let (_, body) = named(&service, &name).await;
    if replaces {
        assert!(body["history"][0].to_string().contains("envs"), "{body}");
    }
    eventually("nothing else is left", || async { engine_names(&service) == only(&name) }).await;
    let (id, before) = (look("{{.Id}}"), look("{{.State.StartedAt}}"));
    docker(&["exec", &name, "touch", "/crash"]);
    let again = || async { runs().await && look("{{.State.StartedAt}}") != before };
    eventually("it is started again when it fails", again).await;
    let after = run(&service, request(&service, 2)).await;
    assert_eq!((&after.id, after.action()), (&id, pb::RunAction::Unchanged));
    assert_eq!(deeds(&service, &name).await.iter().filter(|it| *it == told[0]).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_first_start_the_container_is_supervised() {
    killed_after_the_start(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_start_of_a_successor_that_is_supervised() {
    killed_after_the_start(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_an_import_the_keep_is_the_old_one_or_the_new_one() {
    let mut cutting = Cutting::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let archive = |word: &str| {
        std::fs::write(dir.path().join("file"), word).expect("written");
        let tar = dir.path().join(word).with_extension("tar");
        let made = std::process::Command::new("tar")
            .arg("-C")
            .arg(dir.path())
            .arg("-cf")
            .arg(&tar)
            .arg("file")
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        format!("@{}", tar.display())
    };
    let (old, new) = (archive("the-old-one"), archive("the-new-one"));
    let path =
        |name: &str| format!("/container-svc/keep/archive?name={name}&path=/data&replace=true");
    let put = async |service: &Service, name: &str, archive: &str| {
        let more = ["--data-binary", archive];
        service.raw("PUT", &path(name), "", &more).await.0
    };
    let mut steps = 0;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let what = format!("at step {step}, done: {done}");
        let name = unique("import");
        assert_eq!(put(&cutting.service, &name, &old).await, 200, "{what}");
        let (url, token) = (cutting.service.url.clone(), cutting.service.token.clone());
        let (of, body) = (path(&name), new.clone());
        let work = async move {
            let bearer = format!("Authorization: Bearer {token}");
            let mut curl = tokio::process::Command::new("curl");
            let args = ["-s", "--max-time", "60", "-X", "PUT", "-H", &bearer, "--data-binary"];
            drop(curl.args(args).arg(body).arg(format!("{url}{of}")).output().await);
        };
        let cut = cutting.kill_at(step, done, work).await;
        let kept = Left { containers: BTreeMap::new(), volumes: 1 };
        eventually(&format!("one keep and nothing else is left, {what}"), || async {
            Left::of(&cutting.service) == kept
        })
        .await;
        let (status, _, there) = cutting.service.raw("GET", &path(&name), "", &[]).await;
        let whole = there.contains("the-old-one") != there.contains("the-new-one");
        assert!(status == 200 && whole, "{what}: {status}");
        assert_eq!(put(&cutting.service, &name, &new).await, 200, "{what}");
        let (_, _, there) = cutting.service.raw("GET", &path(&name), "", &[]).await;
        assert!(there.contains("the-new-one") && !there.contains("the-old-one"), "{what}");
        cutting.remove_all(&name).await;
        steps = step;
        if !cut {
            break;
        }
    }
    assert!(steps > 10, "stage, mark, remove, make, copy, clean up: {steps}");
}
