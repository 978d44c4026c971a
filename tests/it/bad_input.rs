//! Bad input gets a clear answer, and the same one by REST and by gRPC.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use container_svc::rpc::pb;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::support::{Service, eventually, image, unique};

const RUN: &str = "/container-svc/container";

/// A request as JSON, as the message that a gRPC client would send.
fn message(body: &Value) -> pb::RunContainerRequest {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let name = "containersvc.v1.RunContainerRequest";
    let descriptor = pool.get_message_by_name(name).expect("the message");
    let message = DynamicMessage::deserialize(descriptor, body).expect("a request");
    message.transcode_to().expect("the same message")
}

/// A valid request with these fields in place of its own.
fn with(fields: &Value) -> Value {
    let mut body = json!({"image": image(), "names": [unique("bad")]});
    for (key, value) in fields.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// Refuses a run by both ways alike: the code, the field at fault, the words.
async fn refused(service: &Service, body: &Value, field: &str, words: &str) {
    let (http, rest) = service.rest("PUT", RUN, &body.to_string()).await;
    assert_eq!((http, &rest["code"]), (400, &3.into()), "{body}: {rest}");
    let told = rest["message"].as_str().expect("a message");
    assert!(told.contains(field) && told.contains(words), "{field} {words} in {told}");
    assert_eq!(rest["error"], rest["message"]);
    assert!(rest["details"].to_string().contains(&format!("\"field\":\"{field}\"")), "{rest}");

    let grpc = service.grpc().await.run_container(message(body)).await;
    let grpc = grpc.expect_err("it is refused");
    assert_eq!((grpc.code(), grpc.message()), (Code::InvalidArgument, told), "{body}");
    let wrong = grpc.get_details_bad_request().expect("the fields");
    assert!(wrong.field_violations.iter().any(|wrong| wrong.field == field), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_run_names_the_field_and_leaves_nothing() {
    let service = Service::start().await.synced().await;
    let port = |internal: i32, host: i32| json!({"internal": internal, "host": host});
    let env = |key: &str| json!({"envs": [{"key": key, "value": "x"}]});
    let long = format!("/data/{}/x", "d".repeat(256));
    let asset = json!({"envVarKey": "A", "url": "https://h/a", "path": long});
    for (fields, field, words) in [
        (json!({"image": ""}), "image", "empty"),
        (json!({"image": "UPPER/Case::x"}), "image", "UPPER/Case::x"),
        (json!({"image": "a@sha256:12"}), "image", "a@sha256:12"),
        (json!({"ports": [port(65_536, 0)]}), "ports[0].internal", "65536"),
        (json!({"ports": [port(0, 0)]}), "ports[0].internal", "0 is no port"),
        (json!({"ports": [port(80, 65_536)]}), "ports[0].host", "65536"),
        (json!({"ports": [port(80, -1)]}), "ports[0].host", "-1"),
        (json!({"ports": [port(80, 8080), port(81, 8080)]}), "ports[1].host", "twice"),
        (json!({"ports": [port(80, 0), port(80, 0)]}), "ports[1].internal", "twice"),
        (env("A=B"), "envs", "A=B"),
        (env(""), "envs[0].key", "empty"),
        (json!({"names": ["a b"]}), "names[0]", "a b"),
        (json!({"names": ["/slash"]}), "names[0]", "/slash"),
        (json!({"names": ["x"]}), "names[0]", "2 to 128"),
        (json!({"names": ["web__old"]}), "names[0]", "being replaced"),
        (json!({"names": ["web", "web__new"]}), "names[1]", "being replaced"),
        (json!({"names": ["twin", "twin"]}), "names[1]", "twice"),
        (json!({"workingDir": long}), "workingDir", "256 bytes"),
        (json!({"keeps": [{"path": "/proc/x"}]}), "keeps[0].path", "kernel"),
        (json!({"keeps": [{"path": long}]}), "keeps[0].path", "256 bytes"),
        (json!({"keeps": [{"path": "/deep".repeat(800)}]}), "keeps[0].path", "at most 3800"),
        (json!({"assets": [asset]}), "assets[0].path", "256 bytes"),
    ] {
        refused(&service, &with(&fields), field, words).await;
    }
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_the_wrong_type_is_refused_by_the_name_of_its_field() {
    let service = Service::start().await.synced().await;
    for (fields, field) in [
        (json!({"image": 5}), "image"),
        (json!({"names": "not-a-list"}), "names"),
        (json!({"ports": [{"internal": "many"}]}), "ports[0].internal"),
        (json!({"ports": [{"internal": 3_000_000_000_u32}]}), "ports[0].internal"),
        (json!({"envs": [{"key": 1}]}), "envs[0].key"),
        (json!({"capabilities": {"gpuEnabled": "perhaps"}}), "capabilities.gpuEnabled"),
        (json!({"stopTimeout": "soon"}), "stopTimeout"),
    ] {
        let (status, body) = service.rest("PUT", RUN, &with(&fields).to_string()).await;
        assert_eq!((status, &body["code"]), (400, &3.into()), "{fields}: {body}");
        let told = body["message"].as_str().expect("a message");
        assert!(told.starts_with(field), "{field} in {told}");
    }
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_not_found_and_does_not_run() {
    let service = Service::start().await.synced().await;
    let none = unique("nobody");
    let mut client = service.grpc().await;
    let not_found = |told: &Status| {
        assert_eq!(told.code(), Code::NotFound, "{told:?}");
        assert!(told.message().contains(&none), "{told:?}");
    };
    for key in ["name", "hash"] {
        for path in ["container/summary", "container"] {
            let path = format!("/container-svc/{path}?{key}={none}");
            let (status, body) = service.get(&path).await;
            assert_eq!((status, &body["code"]), (404, &5.into()), "{path}: {body}");
            assert!(body["message"].as_str().is_some_and(|told| told.contains(&none)), "{body}");
        }
        let path = format!("/container-svc/container/is-running?{key}={none}");
        assert_eq!(service.get(&path).await, (200, json!({"isRunning": false})));
        let of = |wanted| if key == wanted { none.clone() } else { String::new() };
        let (name, hash) = (of("name"), of("hash"));
        let get = pb::GetContainerRequest {
            name: name.clone(),
            hash: hash.clone(),
            ..Default::default()
        };
        not_found(&client.get_container(get).await.expect_err("nobody"));
        let summary = pb::GetContainerSummaryRequest {
            name: name.clone(),
            hash: hash.clone(),
            ..Default::default()
        };
        not_found(&client.get_container_summary(summary).await.expect_err("nobody"));
        let running = pb::IsContainerRunningRequest { name, hash };
        let running = client.is_container_running(running).await.expect("an answer");
        assert!(!running.into_inner().is_running);
    }
    let body = json!({"name": none}).to_string();
    let (status, told) = service.rest("PUT", "/container-svc/container/stop", &body).await;
    assert_eq!(status, 404, "{told}");
    let path = format!("/container-svc/container?name={none}");
    assert_eq!(service.rest("DELETE", &path, "").await.0, 404);
    let stop = pb::StopContainerRequest { name: none.clone(), ..Default::default() };
    not_found(&client.stop_container(stop).await.expect_err("nobody"));
    let remove = pb::RemoveContainerRequest { name: none.clone(), ..Default::default() };
    not_found(&client.remove_container(remove).await.expect_err("nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused() {
    let service = Service::start().await.synced().await;
    let body = with(&json!({"labels": [{"key": "k", "value": "x".repeat(5 << 20)}]}));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("body");
    std::fs::write(&file, body.to_string()).expect("a file");
    let data = format!("@{}", file.display());
    // Without it, curl would show a "100 Continue" first.
    let more = ["-H", "Expect:", "--data-binary", &data];
    let (status, _, told) = service.raw("PUT", RUN, "", &more).await;
    let told: Value = told.parse().expect("JSON");
    assert_eq!((status, &told["code"]), (413, &8.into()), "{told}");
    let refused = service.grpc().await.run_container(message(&body)).await;
    let refused = refused.expect_err("it is too long");
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
    assert_eq!(service.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_down_is_unavailable_with_its_address() {
    let service = Service::with(|config| config.engine = "unix:///no-engine".into()).await;
    eventually("the engine was tried", || async {
        service.get("/container-svc/node").await.1["node"]["engine"]["error"].is_string()
    })
    .await;
    let body = with(&json!({}));
    let (status, told) = service.rest("PUT", RUN, &body.to_string()).await;
    assert_eq!((status, &told["code"]), (503, &14.into()), "{told}");
    let refused = service.grpc().await.run_container(message(&body)).await;
    let refused = refused.expect_err("there is no engine");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    for told in [told["message"].as_str().expect("a message"), refused.message()] {
        assert!(told.contains("unix:///no-engine"), "{told}");
    }
}
