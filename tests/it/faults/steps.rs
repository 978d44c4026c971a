//! The program is killed before every step that a run with an asset makes on the disk and
//! on the engine: never a half file in place, and after a retry nothing is left behind.

use std::{fs, path::PathBuf, process::Command};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{
    failpoints::{Cutting, Left, attempt, bearing, client},
    *,
};
use crate::assets::{
    lenient,
    source::{Source, give},
};

/// The library that kills, and the file that tells it when.
pub(super) struct Steps(TempDir);

impl Steps {
    pub(super) fn build() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(dir.path().join("steps.so"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults/steps.c"))
            .arg("-ldl")
            .output()
            .expect("no cc to build the library: run `make tools`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let path = |name| self.file(name).to_string_lossy().into_owned();
        vec![("LD_PRELOAD".to_owned(), path("steps.so")), ("STEPS_FILE".to_owned(), path("step"))]
    }

    pub(super) fn kill_at(&self, step: usize) {
        fs::write(self.file("next"), step.to_string()).expect("written");
        fs::rename(self.file("next"), self.file("step")).expect("renamed");
    }

    /// The program was killed.
    pub(super) fn met(&self) -> bool {
        self.file("step.met").exists()
    }

    /// From now on nothing is killed; says whether something was.
    pub(super) fn pass(&self) -> bool {
        fs::remove_file(self.file("step")).expect("it was there");
        fs::remove_file(self.file("step.met")).is_ok()
    }
}

/// Gives each path a content of its own, so that who has it is known by it.
pub(super) async fn paths() -> Source {
    Source::start(|asked, mut stream| async move {
        give(&asked, &mut stream, asked.path.as_bytes(), "\"a\"").await;
    })
    .await
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names of the files in a folder of the cache.
pub(super) fn files(service: &Service, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(service.asset_folder().join(folder)).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// A description with a keep and an asset in a mode of its own.
pub(super) fn described(service: &Service, name: &str, source: &Source) -> pb::RunContainerRequest {
    let mut request = service.request(name);
    request.keeps = vec![pb::Keep { path: "/data".into(), read_only: None }];
    request.assets = vec![pb::Asset {
        env_var_key: "A".into(),
        url: source.url(&format!("/{name}")),
        mode: Some("0555".into()),
        ..Default::default()
    }];
    request
}

/// All that is in its place is whole.
fn nothing_is_half(service: &Service, what: &str) {
    for file in files(service, "files") {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let content = sha256(&fs::read(&file).expect("a file"));
        assert_eq!(name.split('-').next(), Some(content.as_str()), "{what}");
    }
}

pub(super) async fn told(service: &Service, kind: &str, of: &str) -> usize {
    let wanted = json!({ "kinds": [kind], "pageSize": 1000 }).to_string();
    let (_, body) = service.rest("POST", "/container-svc/events", &wanted).await;
    let events = body["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter(|event| event.to_string().contains(of)).count()
}

/// After a retry all is as if nothing had happened; then all of it is removed.
async fn all_is_well(service: &Service, source: &Source, name: &str, what: &str) {
    run(service, described(service, name, source)).await;
    nothing_is_half(service, what);
    assert_eq!(docker(&["exec", name, "sh", "-c", "cat $A"]), format!("/{name}"), "{what}");
    assert_eq!(Left::of(service), Left::running(name, 1), "{what}");
    assert_eq!((files(service, "files").len(), files(service, "parts").len()), (2, 0), "{what}");
    let (_, listed) = service.get("/container-svc/assets").await;
    let assets = listed["assets"].as_array().cloned().unwrap_or_default();
    assert_eq!(assets.len(), 1, "{what}: {listed}");
    assert_eq!(assets[0]["sha256"], sha256(format!("/{name}").as_bytes()), "{what}");
    assert_eq!(assets[0]["usedBy"], json!([name]), "{what}");
    for (kind, of) in [
        ("EVENT_KIND_ASSET_FETCHED", format!("/{name}")),
        ("EVENT_KIND_KEEP_CREATED", name.to_owned()),
        ("EVENT_KIND_CREATED", name.to_owned()),
    ] {
        assert_eq!(told(service, kind, &of).await, 1, "{kind} {what}");
    }
    let url = source.url(&format!("/{name}"));
    for path in [
        format!("/container-svc/container?name={name}&force=true"),
        format!("/container-svc/keep?name={name}&path=/data"),
        format!("/container-svc/asset?url={url}"),
    ] {
        let (status, body) = service.rest("DELETE", &path, "").await;
        assert_eq!(status, 200, "{what}: {path}: {body}");
    }
    assert_eq!((files(service, "files").len(), files(service, "parts").len()), (0, 0), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_step_on_the_disk_a_retry_has_the_asset_and_nothing_is_left() {
    let kills = Steps::build();
    let source = paths().await;
    let mut service = Service::program_in(kills.environment(), lenient).await.synced().await;
    let mut steps = 0;
    for step in 1.. {
        let (name, what) = (unique("disk"), format!("before step {step}"));
        let client = client(&service).await;
        kills.kill_at(step);
        attempt(client, bearing(&service, described(&service, &name, &source))).await;
        let cut = kills.pass();
        if cut {
            service.kill();
            nothing_is_half(&service, &what);
            service.resume().await;
            service = service.synced().await;
        }
        all_is_well(&service, &source, &name, &what).await;
        steps = step;
        if !cut {
            break;
        }
    }
    assert!(steps > 12, "a part, its bytes, its place, a copy, the rows: {steps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_on_the_engine_a_run_with_an_asset_is_made_good_by_a_retry() {
    let mut cutting = Cutting::with(lenient).await;
    let source = paths().await;
    let mut steps = 0;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let (name, what) = (unique("asset"), format!("at step {step}, done: {done}"));
        let client = client(&cutting.service).await;
        let request = bearing(&cutting.service, described(&cutting.service, &name, &source));
        let cut = cutting.kill_at(step, done, attempt(client, request)).await;
        nothing_is_half(&cutting.service, &what);
        all_is_well(&cutting.service, &source, &name, &what).await;
        steps = step;
        if !cut {
            break;
        }
    }
    assert!(steps > 3, "a volume, a container, a start: {steps}");
}
