//! What a container keeps outlives it, and goes only when somebody asks.

use std::time::Duration;

use container_svc::rpc::pb;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    assets::{lenient, source::Source},
    proxy::{Mode, Proxy},
    support::{Service, docker, eventually, image, unique},
};
use transfer::{filled, get};

mod faults;
mod hostile;
mod transfer;

/// A request of a container that keeps paths.
fn keeping(service: &Service, name: &str, keeps: &[(&str, bool)]) -> pb::RunContainerRequest {
    let keep = |(path, only): &(&str, bool)| pb::Keep {
        path: (*path).to_owned(),
        read_only: only.then_some(true),
    };
    pb::RunContainerRequest { keeps: keeps.iter().map(keep).collect(), ..service.request(name) }
}

async fn run(service: &Service, request: pb::RunContainerRequest) -> pb::RunContainerResponse {
    service.grpc().await.run_container(request).await.expect("it runs").into_inner()
}

async fn remove(service: &Service, name: &str) {
    let request =
        pb::RemoveContainerRequest { name: name.into(), force: true, ..Default::default() };
    service.grpc().await.remove_container(request).await.expect("removed");
}

fn read(name: &str, path: &str) -> String {
    docker(&["exec", name, "cat", path])
}

/// Keeps as REST tells them.
async fn listed(service: &Service, query: &str) -> Vec<Value> {
    let (status, answer) = service.get(&format!("/container-svc/keeps{query}")).await;
    assert_eq!(status, 200, "{answer}");
    answer["keeps"].as_array().expect("a list").clone()
}

async fn drop_keep(service: &Service, name: &str, path: &str) -> (u16, Value) {
    service.rest("DELETE", &format!("/container-svc/keep?name={name}&path={path}"), "").await
}

/// Data of an image's own volumes are as the container's other files, unless they are kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_goes_with_its_container() {
    let service = Service::start().await.synced().await;
    let (name, made, image) = (unique("volume"), unique("made"), format!("{}:1", unique("image")));
    docker(&["create", "--name", &made, crate::support::image(), "true"]);
    docker(&["commit", "--change", "VOLUME /one", "--change", "VOLUME /two", &made, &image]);
    docker(&["rm", &made]);
    let volumes = || {
        let format = "{{range .Mounts}}{{.Name}} {{end}}";
        let told = docker(&["inspect", "--format", format, &name]);
        told.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let is_there = |volume: &String| docker(&["volume", "ls", "-q"]).lines().any(|v| v == volume);
    let request = |word: &str| pb::RunContainerRequest {
        image: image.clone(),
        envs: vec![pb::EnvVar { key: "WORD".into(), value: word.into() }],
        ..keeping(&service, &name, &[("/two", false)])
    };
    let mut all = Vec::new();
    for word in ["first", "second"] {
        run(&service, request(word)).await;
        assert_eq!(volumes().len(), 2, "{word}");
        all.extend(volumes());
    }
    remove(&service, &name).await;
    all.sort();
    all.dedup();
    let left: Vec<_> = all.into_iter().filter(is_there).collect();
    let [kept] = &left[..] else { panic!("{left:?}") };
    assert_eq!(listed(&service, &format!("?name={name}")).await[0]["volume"], **kept);
    assert_eq!(drop_keep(&service, &name, "/two").await.0, 200);
    docker(&["rmi", &image]);
}

/// Nobody can say who has a keep while the engine was not listed.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_wait_for_a_listing() {
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    let name = unique("early");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    proxy.set(Mode::Refuse);
    let synced = async || {
        let (_, node) = service.get("/container-svc/node").await;
        node["node"]["engine"]["synced"] == true
    };
    eventually("the engine is gone", || async { !synced().await }).await;
    proxy.set_for(Mode::Late, "/containers/json");
    let of = format!("name={name}&path=/data");
    for (method, path) in [
        ("GET", "/container-svc/keeps".to_owned()),
        ("DELETE", format!("/container-svc/keep?{of}")),
        ("GET", format!("/container-svc/keep/export?{of}")),
    ] {
        let (status, told) = service.rest(method, &path, "").await;
        assert_eq!(status, 503, "{method} {path} {told}");
    }
    proxy.set(Mode::Pass);
    let service = service.synced().await;
    assert_eq!(listed(&service, "").await.len(), 1);
    remove(&service, &name).await;
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_outlive_restart_replacement_removal_and_a_new_run() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    let first = run(&service, keeping(&service, &name, &[("/data", false)])).await;
    docker(&["exec", &name, "sh", "-c", "echo precious > /data/file"]);
    assert_eq!(read(&name, "/data/file"), "precious");

    let again = run(&service, keeping(&service, &name, &[("/data/", false)])).await;
    assert_eq!((again.id.as_str(), again.action()), (first.id.as_str(), pb::RunAction::Unchanged));

    let stop = pb::StopContainerRequest { name: name.clone(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    assert_eq!(read(&name, "/data/file"), "precious", "after a restart");

    let mut other = keeping(&service, &name, &[("/data", true)]);
    other.envs.push(pb::EnvVar { key: "A".into(), value: "1".into() });
    let replaced = run(&service, other).await;
    assert_eq!(replaced.differing_fields, ["envs", "keeps"]);
    assert_eq!(read(&name, "/data/file"), "precious", "after a replacement");
    docker(&["exec", &name, "sh", "-c", "echo lost > /data/file"]);
    assert_eq!(read(&name, "/data/file"), "precious", "it is read-only now");

    let mut client = service.grpc().await;
    let got =
        client.get_container(pb::GetContainerRequest { name: name.clone(), ..Default::default() });
    let got = got.await.expect("there").into_inner().container.expect("a container");
    assert_eq!(got.keeps, [pb::Keep { path: "/data".into(), read_only: Some(true) }]);

    remove(&service, &name).await;
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    assert_eq!(read(&name, "/data/file"), "precious", "after a removal and a new run");
    remove(&service, &name).await;
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_image_has_at_the_path_is_there_on_first_use() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    run(&service, keeping(&service, &name, &[("/www", false), ("/empty", false)])).await;
    assert_eq!(read(&name, "/www/index.html"), "Hello from container-svc");
    remove(&service, &name).await;
    for path in ["/www", "/empty"] {
        assert_eq!(drop_keep(&service, &name, path).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_are_listed_with_their_owner_use_and_size() {
    let service = Service::start().await.synced().await;
    let (one, two) = (unique("keep"), unique("keep"));
    run(&service, keeping(&service, &one, &[("/data", false), ("/more", false)])).await;
    run(&service, keeping(&service, &two, &[("/data", false)])).await;
    docker(&["exec", &one, "sh", "-c", "yes | head -c 5000 > /data/file"]);
    assert_eq!(listed(&service, "").await.len(), 3);
    let keeps = listed(&service, &format!("?name={one}&sizes=true")).await;
    let paths: Vec<_> = keeps.iter().map(|keep| keep["path"].as_str().expect("a path")).collect();
    assert_eq!(paths, ["/data", "/more"]);
    assert_eq!(keeps[0]["usedBy"], serde_json::json!([one]));
    let bytes = |keep: &Value| keep["bytes"].as_str().and_then(|text| text.parse::<u64>().ok());
    assert!(bytes(&keeps[0]).is_some_and(|bytes| bytes >= 5000), "{keeps:?}");
    for field in ["createdAt", "lastUsedAt"] {
        assert!(keeps[0][field].as_str().is_some_and(|at| at.starts_with("20")), "{keeps:?}");
    }
    remove(&service, &one).await;
    eventually("nobody has it", || async {
        listed(&service, &format!("?name={one}")).await[0]["usedBy"] == serde_json::json!([])
    })
    .await;
    remove(&service, &two).await;
    for (name, path) in [(&one, "/data"), (&one, "/more"), (&two, "/data")] {
        assert_eq!(drop_keep(&service, name, path).await.0, 200);
    }
    assert_eq!(listed(&service, "").await.len(), 0);
}

/// When a keep and an asset of a container were last used.
async fn last_used(service: &Service, name: &str) -> [Timestamp; 2] {
    let (_, assets) = service.get("/container-svc/assets").await;
    let keep = listed(service, &format!("?name={name}")).await.remove(0);
    let at = |told: &Value| told["lastUsedAt"].as_str().expect("a text").parse().expect("a time");
    [at(&keep), at(&assets["assets"][0])]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_start_of_ours_is_a_use_of_what_the_container_has() {
    let mut service = Service::with(lenient).await.synced().await;
    let source = Source::of(unique("content").into_bytes(), "\"a\"").await;
    let name = unique("keep");
    let asset = pb::Asset { env_var_key: "A".into(), url: source.url("/a"), ..Default::default() };
    let request = pb::RunContainerRequest {
        assets: vec![asset],
        restart_policy: pb::RestartPolicy::OnFailure.into(),
        restart: Some(pb::RestartOptions {
            min_backoff: Duration::from_millis(100).try_into().ok(),
            ..Default::default()
        }),
        ..keeping(&service, &name, &[("/data", false)])
    };
    let id = run(&service, request.clone()).await.id;
    let later = async |service: &Service, before: [Timestamp; 2]| {
        eventually("both are used again", || async {
            let now = last_used(service, &name).await;
            now[0] > before[0] && now[1] > before[1]
        })
        .await;
        last_used(service, &name).await
    };

    let first = last_used(&service, &name).await;
    docker(&["kill", &id]);
    let restarted = later(&service, first).await;

    let broken = pb::RunContainerRequest { command: vec!["/no/such".into()], ..request };
    service.grpc().await.run_container(broken).await.expect_err("it does not start");
    let back = later(&service, restarted).await;

    // As a crash in the middle of a replacement would have left it.
    service.stop().await;
    docker(&["kill", &id]);
    docker(&["rename", &id, &format!("{name}__old")]);
    service.resume().await;
    let service = service.synced().await;
    later(&service, back).await;
    remove(&service, &name).await;
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 200);
}

/// What an image says of its containers is no proof that they are ours.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_like_a_helper_has_the_keep_all_the_same() {
    let service = Service::start().await.synced().await;
    let (name, other) = (filled(&service, "old").await, unique("other"));
    let query = format!("?name={name}");
    let volume = listed(&service, &query).await[0]["volume"].clone();
    let mount = format!("{}:/data", volume.as_str().expect("a name"));
    let label = format!("container-svc.helper={}", service.node);
    docker(&[
        "run",
        "-d",
        "--name",
        &other,
        "--label",
        &label,
        "-v",
        &mount,
        image(),
        "sleep",
        "1000",
    ]);
    eventually("it is told", || async {
        listed(&service, &query).await[0]["usedBy"] == serde_json::json!([other])
    })
    .await;
    let (status, told) = get(&service, &format!("name={name}&path=/data")).await;
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&told));
    docker(&["rm", "-f", &other]);
    eventually("nobody has it", || async { drop_keep(&service, &name, "/data").await.0 == 200 })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_in_use_is_not_removed_and_a_bad_one_is_told() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    let stop = pb::StopContainerRequest { name: name.clone(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
    let (status, answer) = drop_keep(&service, &name, "/data").await;
    assert_eq!(status, 400, "a stopped container has it too");
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(message.contains("in use by") && message.contains(&name), "{message}");
    remove(&service, &name).await;
    for (owner, path, status) in [
        (name.as_str(), "/data", 200),
        (&name, "/data", 404),
        (&name, "data", 400),
        ("", "/x", 400),
    ] {
        assert_eq!(drop_keep(&service, owner, path).await.0, status, "{owner} {path}");
    }
    for (keeps, part) in [
        (r#"[{"path":"data"}]"#, "keeps[0].path"),
        (r#"[{"path":"/"}]"#, "whole container"),
        (r#"[{"path":"/a/../b"}]"#, ".."),
        (r#"[{"path":"/a"},{"path":"/a/"}]"#, "twice"),
    ] {
        let body = format!(r#"{{"image":"nginx","names":["{name}"],"keeps":{keeps}}}"#);
        let (status, answer) = service.rest("PUT", "/container-svc/container", &body).await;
        assert_eq!(status, 400, "{answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{message}");
    }
    let body = r#"{"image":"nginx","keeps":[{"path":"/a"}]}"#;
    let (status, answer) = service.rest("PUT", "/container-svc/container", body).await;
    assert_eq!(
        (status, answer["message"].as_str().is_some_and(|m| m.contains("names"))),
        (400, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_somebody_else_is_neither_used_nor_removed() {
    let service = Service::start().await.synced().await;
    let name = unique("keep");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    let volume = listed(&service, "").await[0]["volume"].as_str().expect("a name").to_owned();
    remove(&service, &name).await;
    docker(&["volume", "rm", &volume]);
    docker(&["volume", "create", &volume]);
    let mut client = service.grpc().await;
    let refused = client.run_container(keeping(&service, &name, &[("/data", false)]));
    assert_eq!(refused.await.expect_err("refused").code(), tonic::Code::AlreadyExists);
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 400);
    docker(&["volume", "rm", &volume]);
}

/// What is told of the keeps of a name, oldest first.
async fn told_of_keeps(service: &Service, name: &str) -> Vec<String> {
    let order = "EVENT_ORDER_OLDEST_FIRST";
    let body = format!("{{\"name\":\"{name}\",\"order\":\"{order}\"}}");
    let (status, answer) = service.rest("POST", "/container-svc/events", &body).await;
    assert_eq!(status, 200, "{answer}");
    let kinds = answer["events"].as_array().expect("a list").iter().map(|event| &event["kind"]);
    let kinds = kinds.map(|kind| kind.as_str().expect("a word").to_owned());
    kinds.filter(|kind| kind.contains("KEEP")).collect()
}

/// The volume of a keep goes as in a removal that a crash cut short.
async fn lose_volume(service: &Service, name: &str) {
    let volume = listed(service, &format!("?name={name}")).await[0]["volume"].clone();
    remove(service, name).await;
    docker(&["volume", "rm", volume.as_str().expect("a name")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_short_is_done_and_told_by_the_next() {
    let service = Service::start().await.synced().await;
    let name = unique("cut");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    lose_volume(&service, &name).await;
    assert_eq!(told_of_keeps(&service, &name).await, ["EVENT_KIND_KEEP_CREATED"]);
    let (status, answer) = drop_keep(&service, &name, "/data/").await;
    assert_eq!(status, 200, "{answer}");
    let both = ["EVENT_KIND_KEEP_CREATED", "EVENT_KIND_KEEP_REMOVED"];
    assert_eq!(told_of_keeps(&service, &name).await, both);
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 404, "it is told once");
    run(&service, keeping(&service, &name, &[("/data", false)])).await;
    let new = [both[0], both[1], both[0]];
    assert_eq!(told_of_keeps(&service, &name).await, new, "it is another keep");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_that_somebody_removed_on_the_engine_is_told_at_the_next_start() {
    let mut service = Service::start().await.synced().await;
    let name = unique("taken");
    let other = unique("stays");
    for name in [&name, &other] {
        run(&service, keeping(&service, name, &[("/data", false)])).await;
    }
    lose_volume(&service, &name).await;
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    eventually("it is told", || async {
        let both = ["EVENT_KIND_KEEP_CREATED", "EVENT_KIND_KEEP_REMOVED"];
        told_of_keeps(&service, &name).await == both
    })
    .await;
    assert_eq!(told_of_keeps(&service, &other).await, ["EVENT_KIND_KEEP_CREATED"]);
    assert_eq!(drop_keep(&service, &name, "/data").await.0, 404);
}
