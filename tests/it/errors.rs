//! `docs/errors.md` is true: each of its rows is provoked here, and the file is what
//! comes of that. `UPDATE_DOCS=1 cargo test --test it errors::` writes it.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use axum::{Router, body::Body};
use container_svc::{
    domain::{Error, Kind},
    gateway::Gateway,
    rpc::pb,
};
use http::Request;
use http_body_util::BodyExt as _;
use prost_reflect::DescriptorPool;
use regex::Regex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};

use crate::{
    assets::{
        lenient,
        source::{Source, give},
    },
    support::{Service, docker, eventually, image, unique},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const RUN: &str = "/container-svc/container";

const HEAD: &str = "# Errors

Written by a test, `tests/it/errors.rs`, which provokes each row; do not edit.

A REST error is the JSON below, under the HTTP status of its row. gRPC answers have the same code, message and details. A `google.rpc.ErrorInfo` is always there: its `reason` is stable and names the cause for programs, its `metadata` holds facts, its `domain` is `container-svc`. A `google.rpc.BadRequest` names the wrong fields, in JSON names. The [clients](../README.md#clients) expose all of it.

Three HTTP statuses come from the bridge itself: 405 (code 12, with `Allow`) for a method that a path does not have, 413 (code 8) for a body over the limit, 415 (code 3) for a content encoding other than gzip.

| gRPC code | HTTP | Means | Remedy |
|---|---|---|---|
";

/// HTTP status and body.
type Answer = (u16, Value);

/// What the bridge makes of an error.
async fn bridged(status: Status) -> Answer {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let router = Router::new().fallback(async move || status.into_http::<Body>());
    let gateway = Gateway::new(&pool, router, 1 << 20, None);
    let request = Request::get("/container-svc/host").body(Body::empty()).expect("a request");
    let answer = gateway.handle(request).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

/// A service with one port to choose and a folder that builds slowly.
async fn service(folder: &Path) -> Service {
    let text = format!("FROM {}\nRUN sleep 2\n", image());
    fs::write(folder.join("Dockerfile"), text).expect("a file");
    let root = folder.to_path_buf();
    let change = |config: &mut container_svc::config::Config| {
        lenient(config);
        config.port_range.1 = config.port_range.0;
        config.build_roots = vec![root];
    };
    Service::with(change).await.synced().await
}

/// An answer of each kind, from a service or, where none can be made to give it, from
/// the way that all errors take to a caller.
async fn provoked(kind: Kind) -> Answer {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = service(folder.path()).await;
    let name = unique("web");
    let request = json!({"image": image(), "names": [name], "command": ["sleep", "1000"]});
    let mut told = match kind {
        Kind::InvalidArgument => {
            service.rest("PUT", RUN, r#"{"ports":[{"internal":70000}]}"#).await
        }
        Kind::NotFound => service.get("/container-svc/container?name=nobody").await,
        Kind::AlreadyExists => {
            docker(&["create", "--name", &name, image(), "true"]);
            let told = service.rest("PUT", RUN, &request.to_string()).await;
            docker(&["rm", "-f", &name]);
            told
        }
        Kind::FailedPrecondition => {
            service.rest("PUT", RUN, &request.to_string()).await;
            service.rest("DELETE", &format!("{RUN}?name={name}"), "").await
        }
        Kind::ResourceExhausted => {
            let ports = json!([{"internal": 80}, {"internal": 81}]);
            let request = json!({"image": image(), "names": [name], "ports": ports});
            service.rest("PUT", RUN, &request.to_string()).await
        }
        Kind::Unauthenticated => {
            service.token = "wrong".to_owned();
            service.get("/container-svc/node").await
        }
        Kind::PermissionDenied => {
            let body = r#"{"name":"viewer","grantSet":"viewer"}"#;
            let (_, made) = service.rest("POST", "/container-svc/token", body).await;
            service.token = made["secret"].as_str().expect("a token").to_owned();
            service.rest("PUT", RUN, "{}").await
        }
        Kind::Unimplemented => bridged(unknown_call(&service).await).await,
        Kind::Unavailable => {
            let service = Service::with(|config| config.engine = "unix:///no/docker.sock".into());
            service.await.rest("PUT", RUN, &request.to_string()).await
        }
        Kind::DeadlineExceeded => {
            let body = json!({"name": name, "contextPath": folder.path()}).to_string();
            let limit = ["-H", "grpc-timeout: 200m"];
            let (status, _, text) = service.raw("PUT", "/container-svc/image", &body, &limit).await;
            (status, serde_json::from_str(&text).expect("JSON"))
        }
        Kind::Aborted | Kind::Cancelled => given_up(&mut service, &name, kind).await,
        Kind::Internal => {
            bridged(Error::internal("the answer cannot be told; see the log").into()).await
        }
    };
    // What is different each time.
    let mut text = told.1.to_string().replace(&name, "web");
    let port = service.ports.range.0;
    text = text.replace(&format!("from {port} to {port}"), "from 20000 to 29999");
    let id = Regex::new(r"\b[0-9a-f]{12,64}\b").expect("a regex");
    text = id.replace_all(&text, "5f0c…").into_owned();
    told.1 = serde_json::from_str(&text).expect("JSON");
    told
}

/// A run that is given up while its asset comes: a stop came after it, or the service stops.
async fn given_up(service: &mut Service, name: &str, kind: Kind) -> Answer {
    let (open, opened) = watch::channel(false);
    let source = Source::start(move |asked, mut stream| {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|open| *open).await;
            give(&asked, &mut stream, b"weights", "\"a\"").await;
        }
    })
    .await;
    let assets = json!([{"envVarKey": "MODEL", "url": source.url("/model")}]);
    let request = json!({"image": image(), "names": [name], "assets": assets}).to_string();
    let bearer = format!("Authorization: Bearer {}", service.token);
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-s", "--max-time", "30", "-X", "PUT", "-w", "\n%{http_code}", "-H", &bearer]);
    curl.args(["-d", &request, &format!("{}{RUN}", service.url)]);
    let meanwhile = async {
        let asked = || async { !source.seen().is_empty() };
        eventually("the download has begun", asked).await;
        if kind == Kind::Cancelled {
            service.stop().await;
        } else {
            let body = json!({"name": name}).to_string();
            let (status, told) = service.rest("PUT", &format!("{RUN}/stop"), &body).await;
            assert_eq!(status, 200, "{told}");
            open.send_replace(true);
        }
    };
    let (out, ()) = tokio::join!(curl.output(), meanwhile);
    let text = String::from_utf8(out.expect("curl").stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), serde_json::from_str(body).expect("JSON"))
}

async fn unknown_call(service: &Service) -> Status {
    let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
    let mut client = tonic::client::Grpc::new(channel.expect("it listens"));
    client.ready().await.expect("ready");
    let mut request = tonic::Request::new(());
    let bearer = format!("Bearer {}", service.token).parse().expect("ascii");
    request.metadata_mut().insert("authorization", bearer);
    let path = "/containersvc.v1.NodeService/Reboot".parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.unary::<(), (), _>(request, path, codec).await.expect_err("there is none")
}

/// The reasons that the sources give with each kind: where one stands beside it, as itself or
/// by the name of a constant, and where a function gives all of its reasons one kind.
fn reasons(kind: Kind) -> BTreeSet<String> {
    let (short, of_one_kind) = match kind {
        Kind::NotFound => ("|not_found\\(", ""),
        Kind::FailedPrecondition => ("|precondition\\(|failed_of\\(git,", OF_SOURCES),
        Kind::Unavailable => ("", "|\\(\"(REGISTRY_[A-Z_]+)\", \""),
        _ => ("", ""),
    };
    let beside = format!("(?:Kind::{kind:?},{short})\\s*(?:\"([A-Z][A-Z_]+)\"|([A-Z][A-Z_]+)\\b)");
    let beside = Regex::new(&format!("{beside}{of_one_kind}")).expect("a regex");
    let constant = Regex::new("const ([A-Z_]+): &str = \"([A-Z_]+)\";").expect("a regex");
    let codes = sources();
    let named = |code: &str, name: &str| {
        let mut all = constant.captures_iter(code).filter(|found| &found[1] == name);
        all.next().map(|found| found[2].to_owned())
    };
    let mut reasons = BTreeSet::new();
    for code in &codes {
        for found in beside.captures_iter(code) {
            if let Some(literal) = found.get(1).or(found.get(3)) {
                reasons.insert(literal.as_str().to_owned());
            } else if let Some(name) = found.get(2).map(|name| name.as_str()) {
                let there = named(code, name);
                let reason = there.or_else(|| codes.iter().find_map(|code| named(code, name)));
                reasons.insert(reason.unwrap_or_else(|| panic!("no constant {name}")));
            }
        }
    }
    reasons
}

/// Reasons about sources of builds, of which a function gives the kind.
const OF_SOURCES: &str = "|\"(GIT_NOT_FOUND|GIT_REFUSED|GIT_REDIRECTED|SOURCE_NOT_FETCHED)\"";

/// All code that is no test.
fn sources() -> Vec<String> {
    let (mut codes, mut folders) = (Vec::new(), vec![Path::new(ROOT).join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                let text = fs::read_to_string(path).expect("a source");
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                codes.push(code.to_owned());
            }
        }
    }
    codes
}

/// As gRPC writes it.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_error_is_told_as_the_docs_say() {
    let (mut table, mut rest) = (HEAD.to_owned(), String::new());
    for kind in Kind::ALL {
        let (status, body) = provoked(kind).await;
        let number = body["code"].as_i64().expect("a code");
        let code = Code::from_i32(number.try_into().expect("small"));
        assert_eq!(format!("{code:?}"), format!("{kind:?}"), "{body}");
        assert_eq!(body["error"], body["message"]);
        let info = &body["details"][0];
        assert_eq!(info["@type"], "type.googleapis.com/google.rpc.ErrorInfo", "{body}");
        assert_eq!(info["domain"], "container-svc", "{body}");
        let wrong = body["details"].to_string().contains("google.rpc.BadRequest");
        assert_eq!(wrong, kind == Kind::InvalidArgument, "{body}");

        let name = code_name(code);
        let (means, remedy) = (kind.meaning(), kind.remedy());
        let link = name.to_lowercase();
        writeln!(table, "| [{number} {name}](#{link}) | {status} | {means} | {remedy} |")
            .expect("text");
        let reason = info["reason"].as_str().expect("a reason").to_owned();
        let reasons: Vec<_> = reasons(kind).into_iter().chain([reason]).collect();
        let reasons: BTreeSet<_> = reasons.iter().map(|reason| format!("`{reason}`")).collect();
        let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
        let example = serde_json::to_string_pretty(&body).expect("JSON");
        write!(rest, "\n## {name}\n\n{means} {remedy}\n\nReasons: {reasons}. For example, with {status}:\n\n```json\n{example}\n```\n").expect("text");
    }
    let (path, made) = (format!("{ROOT}/docs/errors.md"), table + &rest);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &made).expect("written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "docs/errors.md is stale: UPDATE_DOCS=1 cargo test --test it errors::");
}
