//! Assets: found where their variable says, fetched once, whole or not at all.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::fs;

use container_svc::{
    config::Config,
    domain::{address::Range, asset::HostRule},
    rpc::pb,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::support::{Service, docker, eventually, image, unique};
use source::Source;

mod cache;
mod hostile;
mod local;
mod patience;
mod resume;
pub(crate) mod source;
mod stream;
pub(crate) mod tls;
mod turns;

const RUN: &str = "/container-svc/container";

/// Sources on loopback are allowed, and the disk may be nearly full.
pub(crate) fn lenient(config: &mut Config) {
    config.asset_allow_http = vec![HostRule::parse("127.0.0.1").expect("a rule")];
    config.asset_allow_addresses = vec![Range::parse("127.0.0.0/8").expect("a range")];
    config.asset_min_free_bytes = 0;
}

async fn service() -> Service {
    Service::with(lenient).await.synced().await
}

fn asset(key: &str, url: &str) -> pb::Asset {
    pb::Asset { env_var_key: key.into(), url: url.into(), ..Default::default() }
}

fn with(service: &Service, name: &str, assets: &[pb::Asset]) -> pb::RunContainerRequest {
    pb::RunContainerRequest { assets: assets.to_vec(), ..service.request(name) }
}

async fn run(service: &Service, request: pb::RunContainerRequest) -> pb::RunContainerResponse {
    service.grpc().await.run_container(request).await.expect("it runs").into_inner()
}

/// Runs a container with these assets by REST, which fails; the message.
async fn refused(service: &Service, assets: Value) -> String {
    let body = json!({"image": image(), "names": [unique("asset")], "assets": assets});
    let (status, answer) = service.rest("PUT", RUN, &body.to_string()).await;
    assert_eq!(status, 400, "{body}: {answer}");
    answer["message"].as_str().expect("a message").to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that are not all alike.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 251).expect("small")).collect()
}

/// Bytes that no other test has: who has a content is known by that alone, also beside
/// other services of the engine.
fn own_bytes(length: usize) -> Vec<u8> {
    let mut bytes = unique("content").into_bytes();
    bytes.resize(length, b'.');
    bytes
}

/// Names of the files in a folder of the cache.
fn files(service: &Service, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(service.asset_folder().join(folder)).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path().display().to_string()).collect()
}

/// Runs a command in the container.
fn exec(name: &str, line: &str) -> String {
    docker(&["exec", name, "sh", "-c", line])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_is_where_its_variable_says_and_cannot_be_written() {
    let service = service().await;
    let source = Source::of(b"weights".to_vec(), "\"a\"").await;
    let name = unique("asset");
    let script = pb::Asset {
        sha256: Some(sha256(b"weights").to_uppercase()),
        path: Some("/opt/tool".into()),
        mode: Some("0555".into()),
        ..asset("TOOL", &source.url("/tool"))
    };
    let model = asset("MODEL", &source.url("/models/llama.Q4.gguf?sig=secret"));
    run(&service, with(&service, &name, &[script.clone(), model])).await;
    assert_eq!(exec(&name, "echo $MODEL $TOOL"), "/assets/MODEL/llama.Q4.gguf /opt/tool");
    assert_eq!(exec(&name, "cat $MODEL; echo; cat $TOOL"), "weights\nweights");
    assert_eq!(exec(&name, "stat -c %a $MODEL $TOOL"), "444\n555");
    assert_eq!(exec(&name, "echo x > $MODEL || rm -f $MODEL; cat $MODEL"), "weights");
    assert_eq!(exec(&name, "ls /assets/MODEL"), "llama.Q4.gguf", "and nothing else of the cache");

    let got = pb::GetContainerRequest { name: name.clone(), ..Default::default() };
    let got = service.grpc().await.get_container(got).await.expect("there").into_inner();
    let assets = got.container.expect("a container").assets;
    assert_eq!(assets.len(), 2);
    assert_eq!(assets[0].url, source.url("/models/llama.Q4.gguf?[redacted]"));
    assert_eq!((assets[0].path.as_ref(), assets[1].clone()), (None, script));
    let labels = docker(&["inspect", "-f", "{{json .Config.Labels}}", &name]);
    assert!(labels.contains("?[redacted]") && !labels.contains("secret"), "{labels}");
    for asked in source.seen() {
        assert_eq!(asked.header("accept-encoding"), "identity");
        assert_eq!(asked.header("authorization"), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_asset_is_refused_by_its_field_and_rule() {
    let service = Service::start().await.synced().await;
    let one = |url: &str| json!([{"envVarKey": "A", "url": url}]);
    let part =
        |part: &str, value: &str| json!([{"envVarKey": "A", "url": "https://h/a", part: value}]);
    for (assets, field, words) in [
        (one(""), "assets[0].url", "no URL"),
        (one("http://files.example/a"), "assets[0].url", "asset_allow_http"),
        (one("https://127.0.0.1/a"), "assets[0].url", "loopback"),
        (one("https://localhost/a"), "assets[0].url", "loopback"),
        (one("https://[::1]/a"), "assets[0].url", "loopback"),
        (one("https://169.254.169.254/a"), "assets[0].url", "link-local"),
        (one("https://[64:ff9b::a9fe:a9fe]/a"), "assets[0].url", "link-local"),
        (one("https://0.0.0.0/a"), "assets[0].url", "unspecified"),
        (one("https://u:p@files.example/a"), "assets[0].url", "user name"),
        (one("file:///etc/passwd"), "assets[0].url", "asset_file_roots"),
        (one("gopher://files.example/a"), "assets[0].url", "scheme"),
        (part("sha256", "abc"), "assets[0].sha256", "64"),
        (part("mode", "0666"), "assets[0].mode", "0444"),
        (part("path", "a"), "assets[0].path", "absolute"),
        (part("path", "/"), "assets[0].path", "folder"),
        (part("path", "/a/../b"), "assets[0].path", ".."),
        (json!([{"envVarKey": "", "url": "https://h/a"}]), "assets[0].envVarKey", "1 to 128"),
        (json!([{"url": "https://h/a"}]), "assets[0].envVarKey", "1 to 128"),
        (
            json!([{"envVarKey": "A", "url": "https://h/a"}, {"envVarKey": "A", "url": "https://h/b"}]),
            "assets[1].envVarKey",
            "twice",
        ),
    ] {
        let told = refused(&service, assets).await;
        assert!(told.contains(field) && told.contains(words), "{field} {words} in {told}");
    }
    let body = json!({
        "image": image(),
        "envs": [{"key": "A", "value": "x"}],
        "assets": [{"envVarKey": "A", "url": "https://h/a"}],
    });
    let (status, answer) = service.rest("PUT", RUN, &body.to_string()).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|told| told.contains("twice")), "{answer}");
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_has_is_told() {
    let service = service().await;
    let told = refused(&service, json!([{"envVarKey": "A", "url": "https://no.such.invalid/a"}]));
    assert!(told.await.contains("cannot be reached"));
}
