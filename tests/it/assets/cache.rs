//! The cache: one download for all, nothing fetched without need, never gone while in use.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    source::{Source, give, say},
    *,
};
use crate::small_disk::SmallDisk;

async fn listed(service: &Service) -> Vec<Value> {
    let (status, answer) = service.get("/container-svc/assets").await;
    assert_eq!(status, 200, "{answer}");
    answer["assets"].as_array().expect("a list").clone()
}

async fn drop_asset(service: &Service, query: &str) -> (u16, Value) {
    service.rest("DELETE", &format!("/container-svc/asset?{query}"), "").await
}

async fn remove(service: &Service, name: &str) {
    let request =
        pb::RemoveContainerRequest { name: name.into(), force: true, ..Default::default() };
    service.grpc().await.remove_container(request).await.expect("removed");
}

/// A source whose file can be changed.
async fn changing(content: &Arc<Mutex<(Vec<u8>, &'static str)>>) -> Source {
    let content = content.clone();
    Source::start(move |asked, mut stream| {
        let (file, etag) = content.lock().expect("unpoisoned").clone();
        async move { give(&asked, &mut stream, &file, etag).await }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_at_once_share_one_download_and_later_ones_the_file() {
    let service = service().await;
    let file = own_bytes(4 << 20);
    let source = Source::of(file.clone(), "\"a\"").await;
    let url = source.url("/a.bin");
    let names: Vec<String> = (0..4).map(|_| unique("asset")).collect();
    let runs = names.iter().map(|name| run(&service, with(&service, name, &[asset("A", &url)])));
    futures_util::future::join_all(runs).await;
    let later = unique("asset");
    run(&service, with(&service, &later, &[asset("B", &url)])).await;
    assert_eq!(source.seen().len(), 1);
    assert_eq!(files(&service, "files").len(), 1);
    let [row] = &listed(&service).await[..] else { panic!("one asset") };
    assert_eq!(row["bytes"], file.len().to_string());
    assert_eq!(row["sha256"], sha256(&file));
    assert_eq!(row["usedBy"].as_array().map(Vec::len), Some(5));
    for name in [&names[0], &later] {
        let line = exec(name, "sha256sum < ${A:-$B}");
        assert_eq!(line.split(' ').next(), Some(sha256(&file).as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_run_asks_nobody_unless_it_is_to_refresh() {
    let service = service().await;
    let content = Arc::new(Mutex::new((b"one".to_vec(), "\"1\"")));
    let source = changing(&content).await;
    let (name, plain) = (unique("asset"), asset("A", &source.url("/a")));
    let fresh = pb::Asset { refresh: Some(true), ..plain.clone() };
    let first = run(&service, with(&service, &name, std::slice::from_ref(&plain))).await;
    let again = run(&service, with(&service, &name, std::slice::from_ref(&plain))).await;
    assert_eq!((again.action(), again.id), (pb::RunAction::Unchanged, first.id.clone()));
    assert_eq!(source.seen().len(), 1);

    let same = run(&service, with(&service, &name, std::slice::from_ref(&fresh))).await;
    assert_eq!((same.action(), same.id), (pb::RunAction::Unchanged, first.id));
    assert_eq!(source.seen()[1].header("if-none-match"), "\"1\"");

    *content.lock().expect("unpoisoned") = (b"two".to_vec(), "\"2\"");
    let other = unique("asset");
    run(&service, with(&service, &other, std::slice::from_ref(&plain))).await;
    assert_eq!((exec(&other, "cat $A").as_str(), source.seen().len()), ("one", 2));
    let newer = run(&service, with(&service, &name, &[fresh])).await;
    assert_eq!(newer.differing_fields, ["assets"]);
    assert_eq!(exec(&name, "cat $A"), "two");
    // The other keeps what it has until it is asked to refresh, also over a restart.
    docker(&["restart", "-t", "0", &other]);
    let kept = run(&service, with(&service, &other, &[plain])).await;
    assert_ne!(kept.action(), pb::RunAction::Replaced);
    assert_eq!((exec(&other, "cat $A").as_str(), source.seen().len()), ("one", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_took_from_the_cache_is_fetched_again() {
    let service = service().await;
    let source = Source::of(b"weights".to_vec(), "\"a\"").await;
    let (name, plain) = (unique("asset"), asset("A", &source.url("/a")));
    let first = run(&service, with(&service, &name, std::slice::from_ref(&plain))).await;
    let stop = pb::StopContainerRequest { name: name.clone(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
    for file in files(&service, "files") {
        fs::remove_file(file).expect("removed");
    }
    let again = run(&service, with(&service, &name, &[plain])).await;
    assert_eq!((again.action(), again.id), (pb::RunAction::Started, first.id));
    assert_eq!((exec(&name, "cat $A").as_str(), source.seen().len()), ("weights", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_in_use_is_not_removed_and_one_that_is_free_is() {
    let service = service().await;
    let source = Source::of(own_bytes(64), "\"a\"").await;
    let (name, url) = (unique("asset"), source.url("/a"));
    run(&service, with(&service, &name, &[asset("A", &url)])).await;
    let stop = pb::StopContainerRequest { name: name.clone(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
    let id = listed(&service).await[0]["id"].as_str().expect("an id").to_owned();
    for query in [format!("id={id}"), format!("url={url}")] {
        let (status, answer) = drop_asset(&service, &query).await;
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && told.contains("in use by") && told.contains(&name), "{answer}");
    }
    remove(&service, &name).await;
    for (query, status) in [
        (format!("url={url}"), 200),
        (format!("url={url}"), 404),
        (format!("id={id}"), 404),
        (format!("id={id}&url={url}"), 400),
        (String::new(), 400),
        ("url=x".to_owned(), 400),
    ] {
        assert_eq!(drop_asset(&service, &query).await.0, status, "{query}");
    }
    assert_eq!((listed(&service).await.len(), files(&service, "files").len()), (0, 0));
    let (_, events) = service.rest("POST", "/container-svc/events", "{}").await;
    for kind in ["EVENT_KIND_ASSET_FETCHED", "EVENT_KIND_ASSET_REMOVED"] {
        assert!(events.to_string().contains(kind), "{kind} in {events}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_goes_when_it_is_old() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_max_age = Duration::from_secs(2);
    })
    .await
    .synced()
    .await;
    let weights = own_bytes(64);
    let source = Source::of(weights.clone(), "\"a\"").await;
    let (stays, goes) = (unique("asset"), unique("asset"));
    run(&service, with(&service, &stays, &[asset("A", &source.url("/stays"))])).await;
    let other = Source::of(own_bytes(64), "\"b\"").await;
    run(&service, with(&service, &goes, &[asset("A", &other.url("/goes"))])).await;
    remove(&service, &goes).await;
    eventually("the unused one is gone", || async {
        listed(&service).await.len() == 1 && files(&service, "files").len() == 1
    })
    .await;
    assert_eq!(listed(&service).await[0]["usedBy"], json!([stays]));
    assert_eq!(exec(&stays, "cat $A").as_bytes(), weights);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_go_first_when_there_is_too_much() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_max_total_bytes = 250 << 10;
    })
    .await
    .synced()
    .await;
    let (mut names, mut contents) = (Vec::new(), Vec::new());
    for at in 0..3 {
        let content = own_bytes(100 << 10);
        contents.push(sha256(&content));
        let source = Source::of(content, "\"a\"").await;
        let name = unique("asset");
        run(&service, with(&service, &name, &[asset("A", &source.url(&format!("/{at}")))])).await;
        names.push(name);
    }
    // All are in use, so all stay although there is too much.
    assert_eq!(listed(&service).await.len(), 3);
    remove(&service, &names[1]).await;
    remove(&service, &names[2]).await;
    eventually("one is gone", || async { listed(&service).await.len() == 2 }).await;
    assert!(listed(&service).await.iter().all(|row| row["sha256"] != contents[1]));
    assert_eq!(exec(&names[0], "wc -c < $A"), (100 << 10).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_nobody_goes_on_with_count_and_go_first() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_max_total_bytes = 250 << 10;
    })
    .await
    .synced()
    .await;
    let broken = Source::start(|_, mut stream| async move {
        say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
        say(&mut stream, &[1; 200 << 10]).await;
    })
    .await;
    too_large(&service, &broken.url("/a")).await;
    let part = || files(&service, "parts").iter().any(|file| !file.ends_with(".json"));
    assert!(part(), "what came is kept");
    let source = Source::of(own_bytes(100 << 10), "\"a\"").await;
    let name = unique("asset");
    run(&service, with(&service, &name, &[asset("A", &source.url("/a"))])).await;
    remove(&service, &name).await;
    eventually("the part is gone", || async { files(&service, "parts").is_empty() }).await;
    assert_eq!(listed(&service).await.len(), 1, "what is whole stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_are_listed_in_pages_by_url_that_hold_no_secret() {
    let service = service().await;
    let source = Source::of(b"weights".to_vec(), "\"a\"").await;
    let all: Vec<_> = (0..5)
        .map(|at| asset(&format!("A{at}"), &source.url(&format!("/{at}?sig=secret"))))
        .collect();
    run(&service, with(&service, &unique("asset"), &all)).await;
    let (mut urls, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/container-svc/assets?pageSize=2&pageToken={token}");
        let (status, page) = service.get(&path).await;
        assert_eq!(status, 200, "{page}");
        let rows = page["assets"].as_array().expect("a list");
        urls.extend(rows.iter().map(|row| row["url"].as_str().expect("a url").to_owned()));
        token = page["nextPageToken"].as_str().expect("a token").to_owned();
        let plain =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &token);
        assert!(!String::from_utf8_lossy(&plain.expect("base64")).contains("secret"));
        assert!(rows.len() <= 2 && (token.is_empty() || rows.len() == 2), "{page}");
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..5).map(|at| source.url(&format!("/{at}?[redacted]"))).collect();
    assert_eq!(urls, expected);
    for wrong in ["pageSize=-1", "pageSize=1001", "pageToken=x"] {
        let (status, answer) = service.get(&format!("/container-svc/assets?{wrong}")).await;
        assert_eq!(status, 400, "{wrong}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_asset_takes_no_memory_of_its_size() {
    const LENGTH: u64 = 128 << 20;
    let service = Service::program(lenient).await.synced().await;
    let idle = service.most_memory();
    let source = Source::start(|_, mut stream| async move {
        say(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes())
            .await;
        let part = vec![b'x'; 1 << 20];
        for _ in 0..LENGTH >> 20 {
            say(&mut stream, &part).await;
        }
    })
    .await;
    let name = unique("asset");
    run(&service, with(&service, &name, &[asset("A", &source.url("/a"))])).await;
    assert_eq!(exec(&name, "wc -c < $A"), LENGTH.to_string());
    let grown = service.most_memory() - idle;
    assert!(grown < 32 << 20, "{grown} bytes above {idle} for an asset of {LENGTH}");
}

/// A file system of 8 MiB in memory, unmounted when it is dropped.
async fn too_large(service: &Service, url: &str) -> tonic::Status {
    let request = with(service, &unique("asset"), &[asset("A", url)]);
    service.grpc().await.run_container(request).await.expect_err("no room")
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("a folder").next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_told_before_and_during_and_gets_its_room_back() {
    let disk = SmallDisk::mount();
    let service = Service::with(|config| {
        lenient(config);
        config.asset_min_free_bytes = 4 << 20;
        fs::create_dir_all(&config.data_dir).expect("a directory");
        std::os::unix::fs::symlink(disk.path(""), config.asset_folder()).expect("a link");
    })
    .await
    .synced()
    .await;
    let parts = disk.path("parts");
    // Told by its length, before a byte is written.
    let told = Source::of(bytes(7800 << 10), "\"a\"").await;
    let error = too_large(&service, &told.url("/a")).await;
    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error:?}");
    assert!(error.message().contains("asset_min_free_bytes"), "{error:?}");
    assert!(is_empty(&parts), "nothing of it takes room");
    // Not told, and seen as it comes: long before the disk is full.
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2000000\r\n";
    let endless = Source::saying([&chunked[..], &vec![1; 6 << 20]].concat()).await;
    let error = too_large(&service, &endless.url("/a")).await;
    assert_eq!(error.code(), tonic::Code::ResourceExhausted, "{error:?}");
    assert!(is_empty(&parts), "nothing of it takes room");
    // What fits is fetched.
    let small = Source::of(bytes(2 << 20), "\"a\"").await;
    let name = unique("asset");
    run(&service, with(&service, &name, &[asset("A", &small.url("/a"))])).await;
    assert_eq!(exec(&name, "wc -c < $A"), (2 << 20).to_string());
    remove(&service, &name).await;
}
