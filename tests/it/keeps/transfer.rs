//! The data of a keep leave as an archive and come back from one, whole or not at all.

use std::{path::Path, process::Command};

use super::*;
use crate::proxy::{Mode, Proxy};

const ARCHIVE: &str = "/container-svc/keep/archive";

/// A tar of what a directory has, made by the usual program.
pub(super) fn tar(dir: &Path, more: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").args(more).arg("-C").arg(dir).args(["-cf", "-", "."]).output();
    out.expect("tar").stdout
}

fn untar(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("archive.tar");
    std::fs::write(&file, archive).expect("written");
    let into = dir.path().join("into");
    std::fs::create_dir(&into).expect("made");
    let out = Command::new("tar").arg("-C").arg(&into).arg("-xf").arg(&file).output();
    let out = out.expect("tar");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    dir
}

/// Sends a file as the body of an import.
pub(super) async fn put(service: &Service, query: &str, archive: &[u8]) -> (u16, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("body");
    std::fs::write(&file, archive).expect("written");
    let data = format!("@{}", file.display());
    let (status, _, body) = service
        .raw("PUT", &format!("{ARCHIVE}?{query}"), "", &["-H", "Expect:", "--data-binary", &data])
        .await;
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// Fetches an archive; what is refused is text.
pub(super) async fn get(service: &Service, query: &str) -> (u16, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("body");
    let path = file.display().to_string();
    let (status, _, _) =
        service.raw("GET", &format!("{ARCHIVE}?{query}"), "", &["-o", &path, "-D", "-"]).await;
    let answer = std::fs::read(&file).unwrap_or_default();
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    (status, answer[head..].to_vec())
}

/// Helpers and staged volumes that are there, as the engine tells.
fn left(service: &Service) -> String {
    let node = &service.node;
    let helpers = docker(&["ps", "-aq", "--filter", &format!("label=container-svc.helper={node}")]);
    let label = format!("label=container-svc.import={node}");
    helpers + &docker(&["volume", "ls", "-q", "--filter", &label])
}

pub(super) async fn nothing_is_left(service: &Service) {
    eventually("no helper and nothing staged is left", || async { left(service).is_empty() }).await;
}

pub(super) async fn stop(service: &Service, name: &str) {
    let stop = pb::StopContainerRequest { name: name.into(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
}

/// A keep with a file, that nobody has.
pub(super) async fn filled(service: &Service, content: &str) -> String {
    let name = unique("keep");
    run(service, keeping(service, &name, &[("/data", false)])).await;
    docker(&["exec", &name, "sh", "-c", &format!("echo {content} > /data/file")]);
    remove(service, &name).await;
    eventually("nobody has it", || async {
        listed(service, &format!("?name={name}")).await[0]["usedBy"] == serde_json::json!([])
    })
    .await;
    name
}

/// What the file of a keep says, read by a container with it.
pub(super) async fn content(service: &Service, name: &str) -> String {
    run(service, keeping(service, name, &[("/data", false)])).await;
    let content = read(name, "/data/file");
    remove(service, name).await;
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_and_imported_is_the_same() {
    let service = Service::start().await.synced().await;
    let (from, to) = (unique("keep"), unique("keep"));
    run(&service, keeping(&service, &from, &[("/data", false)])).await;
    let make = "b=/bin/busybox; cd /data; mkdir -p deep/er; echo precious > deep/er/file; \
                $b chmod 640 deep/er/file; $b ln -s ../file deep/er/link; \
                $b ln -s /data/deep whole; yes | head -c 3000000 > big; $b chown 1000:1000 big";
    docker(&["exec", &from, "sh", "-c", make]);
    stop(&service, &from).await;
    let (status, archive) = get(&service, &format!("name={from}&path=/data")).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&archive[..archive.len().min(300)]));
    let here = untar(&archive);
    let file = std::fs::read_to_string(here.path().join("into/deep/er/file"));
    assert_eq!(file.expect("it is there"), "precious\n");

    let (status, told) = put(&service, &format!("name={to}&path=/data"), &archive).await;
    assert_eq!((status, &told["bytes"]), (200, &archive.len().to_string().into()), "{told}");
    run(&service, keeping(&service, &to, &[("/data", false)])).await;
    let facts = "cd /data; /bin/busybox stat -c '%n %a %u %s' big deep/er/file; \
                 /bin/busybox readlink deep/er/link; /bin/busybox readlink whole; cat deep/er/file";
    let expected = "big 644 1000 3000000\ndeep/er/file 640 0 9\n../file\n/data/deep\nprecious";
    assert_eq!(docker(&["exec", &to, "sh", "-c", facts]), expected);
    nothing_is_left(&service).await;
    for name in [&from, &to] {
        remove(&service, name).await;
        assert_eq!(drop_keep(&service, name, "/data").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_are_replaced_only_when_asked_and_never_in_use() {
    let service = Service::start().await.synced().await;
    let name = filled(&service, "old").await;
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), "new").expect("written");
    let archive = tar(dir.path(), &[]);
    let query = format!("name={name}&path=/data");
    let (status, told) = put(&service, &query, &archive).await;
    assert_eq!(status, 409, "{told}");
    assert!(told["message"].as_str().is_some_and(|m| m.contains("replace")), "{told}");
    assert_eq!(content(&service, &name).await, "old");

    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    let replace = format!("{query}&replace=true");
    let (status, told) = put(&service, &replace, &archive).await;
    assert_eq!(status, 400, "{told}");
    assert!(told["message"].as_str().is_some_and(|m| m.contains("in use by")), "{told}");
    let (status, told) = get(&service, &query).await;
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&told));
    let (status, live) = get(&service, &format!("{query}&live=true")).await;
    assert_eq!(status, 200);
    let here = untar(&live);
    let read = std::fs::read_to_string(here.path().join("into/file"));
    assert_eq!(read.expect("it is there"), "old\n");
    remove(&service, &name).await;

    let (status, told) = put(&service, &replace, &archive).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(content(&service, &name).await, "new");
    let body = format!(r#"{{"name":"{name}","kinds":["EVENT_KIND_KEEP_IMPORTED"]}}"#);
    let (_, events) = service.rest("POST", "/container-svc/events", &body).await;
    assert_eq!(events["events"][0]["keep"]["path"], "/data", "{events}");
    nothing_is_left(&service).await;
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_would_lead_out_changes_nothing() {
    let service = Service::start().await.synced().await;
    let name = filled(&service, "old").await;
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), "new").expect("written");
    let there = |path: &str| dir.path().join(path);
    std::os::unix::fs::symlink("/etc", there("out")).expect("a link");
    let link = tar(dir.path(), &[]);
    std::fs::remove_file(there("out")).expect("removed");
    std::os::unix::fs::symlink("../../etc", there("up")).expect("a link");
    let up = tar(dir.path(), &[]);
    std::fs::remove_file(there("up")).expect("removed");
    let absolute = tar(dir.path(), &["-P", "--transform", "s,^\\./file,/file,"]);
    let parent = tar(dir.path(), &["-P", "--transform", "s,^\\./file,../file,"]);
    let device = Command::new("mknod").arg(there("null")).args(["c", "1", "3"]).status();
    assert!(device.is_ok_and(|status| status.success()), "tests run as root");
    let device = tar(dir.path(), &[]);
    std::fs::remove_file(there("null")).expect("removed");
    let whole = tar(dir.path(), &[]);
    let gzip = tar(dir.path(), &["-z"]);

    let query = format!("name={name}&path=/data&replace=true");
    for (archive, part) in [
        (&link[..], "\"./out\" links to \"/etc\""),
        (&up, "which is outside"),
        (&absolute, "is absolute"),
        (&parent, "contains \"..\""),
        (&device, "is a device"),
        (&whole[..whole.len() - 9000], "cut short"),
        (&gzip, "compressed"),
        (b"", "no archive"),
        (&b"no tar at all ".repeat(100), "no tar archive"),
    ] {
        let (status, told) = put(&service, &query, archive).await;
        let message = told["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(part), "{part}: {status} {told}");
    }
    assert_eq!(content(&service, &name).await, "old");
    for (query, status) in [
        ("name=nobody&path=/x".to_owned(), 404),
        (format!("name={name}&path=x"), 400),
        ("path=/x".to_owned(), 400),
    ] {
        assert_eq!(get(&service, &query).await.0, status, "{query}");
    }
    for query in ["path=/x", "name=a/b&path=/x", "name=ab&path=x", "name=ab&path=/x&replace=no"] {
        assert_eq!(put(&service, query, &whole).await.0, 400, "{query}");
    }
    nothing_is_left(&service).await;
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    // A body that is promised and does not come.
    let url = format!("{}{ARCHIVE}?name={name}&path=/data", service.url);
    let bearer = format!("Authorization: Bearer {}", service.token);
    let script =
        format!("(head -c 600 /dev/zero; sleep 1000) | curl -sN -T - -H '{bearer}' '{url}'");
    let mut curl = tokio::process::Command::new("setsid");
    let mut curl = curl.args(["sh", "-c", &script]).kill_on_drop(true).spawn().expect("it runs");
    eventually("it is being staged", || async { !left(&service).is_empty() }).await;
    let group = format!("-{}", curl.id().expect("it runs"));
    let killed = Command::new("kill").args(["-9", "--", &group]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    drop(curl.wait().await);
    nothing_is_left(&service).await;
    assert_eq!(listed(&service, "").await.len(), 0, "and no keep was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_breaks_off_leaves_the_keep_as_it_was() {
    let proxy = Proxy::start();
    let service = Service::with(|config| {
        proxy.under(config);
        config.engine_timeout = crate::support::DEADLINE;
    });
    let service = service.await.synced().await;
    let name = filled(&service, "old").await;
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), "new").expect("written");
    let archive = tar(dir.path(), &[]);
    let query = format!("name={name}&path=/data&replace=true");
    proxy.set_for(Mode::Status500, "/archive");
    let (status, told) = put(&service, &query, &archive).await;
    assert!(status >= 400, "{told}");
    let (status, _) = get(&service, &format!("name={name}&path=/data")).await;
    assert!(status >= 400);
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    assert_eq!(content(&service, &name).await, "old");
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_carries_archives() {
    let service = Service::start().await.synced().await;
    let name = filled(&service, "old").await;
    let dir = tempfile::tempdir().expect("a directory");
    let program = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_container-svc"));
        program.env_clear().env("CONTAINER_SVC_DATA_DIR", "/nonexistent");
        program.env("CONTAINER_SVC_ADDRESS", &service.url);
        program.env("CONTAINER_SVC_TOKEN", &service.token).arg("keeps").args(args);
        program.output().expect("it runs")
    };
    let listed = program(&["--name", &name, "--sizes"]);
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(text.contains(&name) && text.contains("/data"), "{text}");
    let exported = program(&["export", &name, "/data"]);
    assert!(exported.status.success(), "{exported:?}");
    let here = untar(&exported.stdout);
    std::fs::write(here.path().join("into/file"), "new\n").expect("written");
    let file = dir.path().join("new.tar");
    std::fs::write(&file, tar(&here.path().join("into"), &[])).expect("written");
    let file = file.display().to_string();
    let refused = program(&["import", &name, "/data", &file]);
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    let imported = program(&["import", "--replace", &name, "/data", &file]);
    assert!(imported.status.success(), "{imported:?}");
    assert!(String::from_utf8_lossy(&imported.stdout).ends_with(" bytes\n"), "{imported:?}");
    assert_eq!(content(&service, &name).await, "new");
    let missing = dir.path().join("missing.tar").display().to_string();
    assert_eq!(program(&["export", "-o", &missing, "nobody", "/x"]).status.code(), Some(3));
    assert!(!Path::new(&missing).exists(), "a refusal leaves no file");
    let removed = program(&["rm", &name, "/data"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(super::listed(&service, "").await.len(), 0);
}
