//! Archives of keeps while the engine fails, is slow, or others use the keep.

use std::{process::Command, time::Duration};

use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::{
    transfer::{content, filled, get, nothing_is_left, put, stop, tar},
    *,
};
use crate::{
    proxy::{Mode, Proxy},
    support::DEADLINE,
};
use pb::keep_service_client::KeepServiceClient;

/// In the first lines of requests: a volume is read, a helper is made.
const READ: &str = "keep%2F.";
const MAKE: &str = "name=container-svc-helper";

/// A service behind a proxy.
async fn behind(proxy: &Proxy, timeout: Duration) -> Service {
    let service = Service::with(|config| {
        proxy.under(config);
        config.engine_timeout = timeout;
    });
    service.await.synced().await
}

/// An archive with one file.
fn archive(file: &str, content: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join(file), content).expect("written");
    tar(dir.path(), &[])
}

async fn keeps(service: &Service) -> KeepServiceClient<tonic::transport::Channel> {
    KeepServiceClient::connect(service.url.clone()).await.expect("it listens")
}

fn bearing<T>(service: &Service, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", service.token).parse().expect("ascii");
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// Volumes into which archives are unpacked.
fn staged(service: &Service) -> Vec<String> {
    let label = format!("label=container-svc.import={}", service.node);
    docker(&["volume", "ls", "-q", "--filter", &label]).lines().map(str::to_owned).collect()
}

/// Replaces the data of a keep, and does something when a part has come.
async fn import(
    service: &Service,
    name: &str,
    archive: &[u8],
    meanwhile: impl FnOnce(),
) -> Result<i64, tonic::Status> {
    let before = staged(service);
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let (part, rest) = archive.split_at(512);
    let first = pb::ImportKeepRequest {
        name: name.into(),
        path: "/data".into(),
        replace: true,
        data: part.to_vec(),
    };
    send.send(first).await.expect("room");
    let mut client = keeps(service).await;
    let call = client.import_keep(bearing(service, ReceiverStream::new(receive)));
    let feed = async move {
        eventually("it is being unpacked", || async {
            staged(service).iter().any(|volume| {
                let helper = docker(&["ps", "-aq", "--filter", &format!("volume={volume}")]);
                !before.contains(volume) && !helper.is_empty()
            })
        })
        .await;
        meanwhile();
        let rest = pb::ImportKeepRequest { data: rest.to_vec(), ..Default::default() };
        send.send(rest).await.expect("it is read");
    };
    let (done, ()) = tokio::join!(call, feed);
    Ok(done?.into_inner().bytes)
}

/// Leaves an import in the middle of its copy, to be tried again, until the proxy does
/// something else; the id of its marker.
async fn half_imported(proxy: &Proxy, service: &Service, name: &str, archive: &[u8]) -> String {
    proxy.set_for(Mode::Status500, READ);
    let (_, told) = put(service, &format!("name={name}&path=/data&replace=true"), archive).await;
    assert!(told["message"].as_str().is_some_and(|m| m.contains("tried again")), "{told}");
    let own = format!("label=container-svc.helper={}", service.node);
    // Each helper has the label, and only a marker something in it.
    let format = r#"{{.ID}} {{.Label "container-svc.import.staged"}}"#;
    let all = docker(&["ps", "-a", "--no-trunc", "--filter", &own, "--format", format]);
    let markers: Vec<_> = all.lines().filter_map(|line| line.trim().split_once(' ')).collect();
    assert_eq!(markers.len(), 1, "{all}");
    markers[0].0.to_owned()
}

async fn clean_up(service: &Service, name: &str) {
    eventually("the keep is removed", || async {
        drop_keep(service, name, "/data").await.0 == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_is_not_removed_under_an_export_that_begins() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = filled(&service, "old").await;
    proxy.set_for(Mode::Late, MAKE);
    let met = proxy.met_now();
    let query = format!("name={name}&path=/data");
    let rest = async {
        met.await;
        let removing = drop_keep(&service, &name, "/data");
        tokio::pin!(removing);
        // It must still wait when the engine goes on.
        let early = tokio::time::timeout(Duration::from_secs(1), &mut removing).await;
        proxy.set(Mode::Pass);
        match early {
            Ok(early) => early.0,
            Err(_) => removing.await.0,
        }
    };
    let ((status, archive), removed) = tokio::join!(get(&service, &query), rest);
    assert_eq!(status, 200, "removed: {removed}");
    assert!(String::from_utf8_lossy(&archive).contains("old"), "it was all there");
    nothing_is_left(&service).await;
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    remove(&service, &name).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_leaves_an_older_one_to_its_end() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = filled(&service, "old").await;
    half_imported(&proxy, &service, &name, &archive("file", "first")).await;
    let second = archive("file", "second");
    let failed = import(&service, &name, &second, || proxy.set_for(Mode::Status500, MAKE)).await;
    failed.expect_err("no marker of it can be made");
    let mut client = service.grpc().await;
    let refused = client.run_container(keeping(&service, &name, &[("/data", false)])).await;
    let refused = refused.expect_err("half of the data are there");
    assert!(refused.message().contains("being brought to its end"), "{refused}");
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    assert_eq!(content(&service, &name).await, "first");
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_import_never_comes_after_a_newer_one() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = filled(&service, "old").await;
    let older = half_imported(&proxy, &service, &name, &archive("file", "first")).await;
    let second = archive("file", "second");
    // The older marker cannot be removed.
    let remove = format!("{older}?");
    let done = import(&service, &name, &second, || proxy.set_for(Mode::Status500, &remove)).await;
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    assert_eq!(content(&service, &name).await, "second", "{done:?}");
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_told_as_failed_is_not_done_later() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = filled(&service, "old").await;
    let new = archive("file", "new");
    // The engine makes the marker, but its answer is lost.
    let failed = import(&service, &name, &new, || proxy.set_for(Mode::Truncate, MAKE)).await;
    failed.expect_err("the answer is lost");
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    eventually("the keep can be used", || async {
        let mut client = service.grpc().await;
        client.run_container(keeping(&service, &name, &[("/data", false)])).await.is_ok()
    })
    .await;
    assert_eq!(read(&name, "/data/file"), "old");
    remove(&service, &name).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_tell_of_a_keep_has_its_data_replaced_all_the_same() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = filled(&service, "old").await;
    let keeps = listed(&service, &format!("?name={name}")).await;
    // Asked for twice before the import is sure that it may begin.
    let asked = format!("/volumes/{}", keeps[0]["volume"].as_str().expect("a name"));
    proxy.set_for(Mode::Fail(3), &asked);
    let new = archive("another", "new");
    let (_, told) = put(&service, &format!("name={name}&path=/data&replace=true"), &new).await;
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    eventually("the keep can be used", || async {
        let mut client = service.grpc().await;
        client.run_container(keeping(&service, &name, &[("/data", false)])).await.is_ok()
    })
    .await;
    assert_eq!(docker(&["exec", &name, "ls", "/data"]), "another", "{told}");
    remove(&service, &name).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_could_not_be_removed_goes_later() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = filled(&service, "old").await;
    proxy.set_for(Mode::Fail(1), "DELETE ");
    let met = proxy.met_now();
    assert_eq!(get(&service, &format!("name={name}&path=/data")).await.0, 200);
    met.await;
    nothing_is_left(&service).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_asked_for_staged_volumes_again_only_after_an_error() {
    let proxy = Proxy::start();
    let mut service = behind(&proxy, DEADLINE).await;
    service.stop().await;
    // What a crash left, and an engine that does not tell of it at once.
    let label = format!("container-svc.import={}", service.node);
    let staged_before = docker(&["volume", "create", "--label", &label]);
    assert_eq!(staged(&service), [staged_before]);
    proxy.set_for(Mode::Fail(1), "/volumes?");
    let met = proxy.met_now();
    service.resume().await;
    met.await;
    nothing_is_left(&service).await;
    let met = proxy.met_now();
    proxy.set_for(Mode::Status500, "/volumes?");
    // Longer than it waited after the error.
    let idle = tokio::time::timeout(Duration::from_secs(12), met).await;
    idle.expect_err("there was nothing to ask for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_during_which_a_container_was_started_is_told_as_failed() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    docker(&["exec", &name, "sh", "-c", "yes | head -c 60000000 > /data/big"]);
    stop(&service, &name).await;
    let request = pb::ExportKeepRequest { name: name.clone(), path: "/data".into(), live: false };
    let mut client = keeps(&service).await;
    let mut pieces = client.export_keep(bearing(&service, request)).await.expect("it begins");
    let pieces = pieces.get_mut();
    pieces.message().await.expect("it goes on").expect("a piece");
    docker(&["start", &name]);
    docker(&["stop", "-t", "0", &name]);
    let end = loop {
        match pieces.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    let failed = end.expect_err("it may be torn");
    assert_eq!(failed.code(), tonic::Code::FailedPrecondition);
    assert!(failed.message().contains("was started while"), "{failed}");
    nothing_is_left(&service).await;
    remove(&service, &name).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_during_which_a_container_came_and_went_is_told_as_failed() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    docker(&["exec", &name, "sh", "-c", "yes | head -c 60000000 > /data/big"]);
    remove(&service, &name).await;
    let volume = listed(&service, &format!("?name={name}")).await[0]["volume"].clone();
    let mount = format!("{}:/data", volume.as_str().expect("a name"));
    for ours in [true, false] {
        let request =
            pb::ExportKeepRequest { name: name.clone(), path: "/data".into(), live: false };
        let mut client = keeps(&service).await;
        let mut pieces = client.export_keep(bearing(&service, request)).await.expect("it begins");
        let pieces = pieces.get_mut();
        pieces.message().await.expect("it goes on").expect("a piece");
        match ours {
            true => {
                run(&service, keeping(&service, &name, &[("/data", false)])).await;
                remove(&service, &name).await;
            }
            false => {
                // What is gone before anybody looked at it is not known to have had it.
                let words = "touch /data/new; exec sleep 1000";
                let id = docker(&["run", "-d", "-v", &mount, image(), "sh", "-c", words]);
                let path = format!("/container-svc/container?id={id}");
                eventually("it is seen", || async { service.get(&path).await.0 == 200 }).await;
                docker(&["rm", "-f", &id]);
            }
        }
        let end = loop {
            match pieces.message().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        let failed = end.expect_err("it may be torn");
        assert!(failed.message().contains("was started while"), "{ours}: {failed}");
    }
    nothing_is_left(&service).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_that_stand_still_hold_up_no_news_of_others() {
    const TIMES: u32 = 5;
    let service = Service::start().await.synced().await;
    let (name, other) = (unique("keep"), unique("other"));
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    docker(&["exec", &name, "sh", "-c", "yes | head -c 60000000 > /data/big"]);
    remove(&service, &name).await;
    let mut standing = Vec::new();
    for _ in 0..4 {
        let request =
            pb::ExportKeepRequest { name: name.clone(), path: "/data".into(), live: true };
        let mut client = keeps(&service).await;
        let mut pieces = client.export_keep(bearing(&service, request)).await.expect("it begins");
        pieces.get_mut().message().await.expect("it goes on").expect("a piece");
        standing.push(pieces);
    }
    let begin = std::time::Instant::now();
    for _ in 0..TIMES {
        docker(&["create", "--name", &other, image()]);
        docker(&["rename", &other, &format!("{other}-new")]);
        let path = format!("/container-svc/container?name={other}-new");
        eventually("it is told", || async { service.get(&path).await.0 == 200 }).await;
        docker(&["rm", &format!("{other}-new")]);
        eventually("its end is told", || async { service.get(&path).await.0 == 404 }).await;
    }
    // Each of the changes waited for the four of them, 2 s and more.
    assert!(begin.elapsed() < Duration::from_secs(5) * TIMES, "{:?}", begin.elapsed());
    drop(standing);
    nothing_is_left(&service).await;
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_hangs_ends_and_holds_up_no_container_of_that_name() {
    let proxy = Proxy::start();
    let service = behind(&proxy, Duration::from_secs(2)).await;
    let name = unique("keep");
    run(&service, service.request(&name)).await;
    let new = archive("file", "new");
    let query = format!("name={name}&path=/data");
    proxy.set_for(Mode::Hold, "PUT ");
    let (_, told) = put(&service, &query, &new).await;
    assert!(told["message"].as_str().is_some_and(|m| m.contains("did not answer")), "{told}");
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    assert_eq!(listed(&service, "").await.len(), 0);

    proxy.set_for(Mode::Hold, READ);
    let met = proxy.met_now();
    let meanwhile = async {
        met.await;
        let removed = tokio::time::timeout(Duration::from_secs(4), remove(&service, &name)).await;
        removed.expect("it does not wait for the copy");
        assert_eq!(drop_keep(&service, &name, "/data").await.0, 503, "it is being filled");
    };
    let ((_, told), ()) = tokio::join!(put(&service, &query, &new), meanwhile);
    assert!(told["message"].as_str().is_some_and(|m| m.contains("tried again")), "{told}");
    proxy.set(Mode::Pass);
    nothing_is_left(&service).await;
    assert_eq!(content(&service, &name).await, "new");
    clean_up(&service, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_breaks_off_leaves_the_file_that_was_there() {
    let proxy = Proxy::start();
    let service = behind(&proxy, DEADLINE).await;
    let name = unique("keep");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    docker(&["exec", &name, "sh", "-c", "yes | head -c 3000000 > /data/big"]);
    let dir = tempfile::tempdir().expect("a directory");
    let (file, link) = (dir.path().join("backup.tar"), dir.path().join("link"));
    std::fs::write(&file, "the last good one").expect("written");
    std::os::unix::fs::symlink("backup.tar", &link).expect("a link");
    let export = |to: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_container-svc"));
        program.env_clear().env("CONTAINER_SVC_DATA_DIR", "/nonexistent");
        program.env("CONTAINER_SVC_ADDRESS", &service.url);
        program.env("CONTAINER_SVC_TOKEN", &service.token);
        program.args(["keeps", "export", "--live", "-o", to, &name, "/data"]);
        program.output().expect("it runs").status.success()
    };
    proxy.set_for(Mode::Truncate, READ);
    let (to, by_link) = (file.display().to_string(), link.display().to_string());
    assert!(!export(&to), "it breaks off");
    let kept = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(kept, "the last good one");
    assert!(!dir.path().join("backup.tar.part").exists());
    proxy.set(Mode::Pass);
    assert!(export("/dev/null"));
    assert!(!std::fs::metadata("/dev/null").expect("it is there").is_file());
    assert!(export(&by_link));
    assert!(link.is_symlink(), "a link stays one");
    assert!(std::fs::metadata(&file).expect("it is there").len() > 3_000_000);
    nothing_is_left(&service).await;
    remove(&service, &name).await;
    clean_up(&service, &name).await;
}
