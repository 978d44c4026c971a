//! The registry's promises, held against registries that misbehave. Those that
//! behave are in `tests/it/images.rs`.

#![expect(clippy::disallowed_methods, reason = "servers of a test end with its runtime")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, http::Response};
use tokio::process::Command;

use super::{Credential, DockerConfig, Registry, RegistrySettings};
use crate::domain::{Kind, image::ImageRef};

const PATIENCE: Duration = Duration::from_secs(20);

fn registry_with(config: &Path) -> Registry {
    Registry::new(RegistrySettings {
        insecure: vec![],
        docker_config: Some(config.to_owned()),
        timeout: PATIENCE,
    })
    .unwrap()
}

fn anonymous() -> Registry {
    registry_with(Path::new("no-such-config.json"))
}

fn image(host: &str, rest: &str) -> ImageRef {
    ImageRef::parse(&format!("{host}/{rest}")).unwrap()
}

fn config(folder: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
    let file = folder.path().join("config.json");
    std::fs::write(&file, text).unwrap();
    file
}

/// What a fake server saw: method, path and query, authorization.
type Seen = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

/// A server whose handler gets (own address, method, path and query, authorization).
async fn serve(
    handler: impl Fn(&str, &str, &str, Option<&str>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (String, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (seen, own) = (Seen::default(), host.clone());
    let log = seen.clone();
    let app = Router::new().fallback(move |request: Request| {
        let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
        let authorization = request.headers().get("authorization").map(text);
        let (method, uri) = (request.method().to_string(), request.uri().to_string());
        let answer = handler(&own, &method, &uri, authorization.as_deref());
        log.lock().unwrap().push((method, uri, authorization));
        async move { answer }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (host, seen)
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (key, value) in headers {
        response = response.header(*key, *value);
    }
    response.body(body.into()).unwrap()
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable_by_name() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = gone.local_addr().unwrap().to_string();
    drop(gone);
    let error = anonymous().pullable(&image(&host, "a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains(&host), "{error}");
}

#[tokio::test]
async fn a_registry_that_hangs_is_unavailable_by_name() {
    // Connections wait in the backlog: nobody accepts them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let ours = Registry::new(RegistrySettings {
        insecure: vec![],
        docker_config: None,
        timeout: Duration::from_millis(200),
    });
    let error = ours.unwrap().pullable(&image(&host, "a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains(&host) && error.message().contains("in time"), "{error}");
}

#[tokio::test]
async fn a_bearer_challenge_is_answered_by_password_or_identity_token() {
    let (host, seen) = serve(|own, method, uri, authorization| match (method, authorization) {
        ("GET", Some("Basic YWxpY2U6c2VzYW1l")) => answer(200, &[], r#"{"token":"good"}"#),
        ("GET", _) => answer(401, &[], ""),
        ("POST", None) if uri == "/token" => answer(200, &[], r#"{"access_token":"good"}"#),
        ("HEAD", Some("Bearer good")) => answer(200, &[], ""),
        _ => {
            let offer = format!(r#"Bearer realm="http://{own}/token",service="the registry""#);
            answer(401, &[("www-authenticate", &offer)], "")
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let app = image(&host, "team/app");
    assert!(!anonymous().pullable(&app).await.unwrap());
    for (entry, method) in
        [(r#"{"auth":"YWxpY2U6c2VzYW1l"}"#, "GET"), (r#"{"identitytoken":"long lived"}"#, "POST")]
    {
        let text = format!(r#"{{"auths":{{"https://{host}/v1/":{entry}}}}}"#);
        seen.lock().unwrap().clear();
        assert!(registry_with(&config(&folder, &text)).pullable(&app).await.unwrap());
        let log = seen.lock().unwrap();
        assert_eq!((log.len(), log[1].0.as_str()), (3, method));
        let scope = log[1].1.contains("service=the+registry&scope=repository%3Ateam%2Fapp%3Apull");
        assert_eq!(scope, method == "GET", "{}", log[1].1);
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_loses_the_authorization() {
    let (other, seen) = serve(|_, _, _, _| answer(200, &[], "")).await;
    let (host, _) = serve(move |_, _, _, authorization| match authorization {
        Some(_) => answer(307, &[("location", &format!("http://{other}/blob"))], ""),
        None => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(r#"{{"auths":{{"{host}":{{"username":"a","password":"b"}}}}}}"#);
    assert!(registry_with(&config(&folder, &text)).pullable(&image(&host, "a")).await.unwrap());
    assert_eq!(seen.lock().unwrap()[0].2, None);
}

#[tokio::test]
async fn each_odd_answer_becomes_its_own_error() {
    let (host, _) = serve(|own, method, uri, _| {
        let bearer = |realm: &str| {
            answer(401, &[("www-authenticate", &format!("Bearer realm=\"{realm}\""))], "")
        };
        match uri.split('/').nth(2).unwrap_or_default() {
            "limit" => answer(429, &[("retry-after", "17")], ""),
            "down" => answer(503, &[], ""),
            "loop" => answer(302, &[("location", uri)], ""),
            "metadata" => bearer("http://169.254.169.254/latest"),
            "leap" => answer(302, &[("location", "http://[fe80::1]/")], ""),
            "huge" => bearer(&format!("http://{own}/v2/answer")),
            "old" if method == "HEAD" => answer(405, &[], ""),
            _ if uri.starts_with("/v2/answer") => answer(200, &[], "x".repeat(1024 * 1024 + 1)),
            _ => answer(200, &[], ""),
        }
    })
    .await;
    let ours = anonymous();
    assert!(ours.pullable(&image(&host, "old")).await.unwrap());
    for (path, kind, words) in [
        ("limit", Kind::ResourceExhausted, "retry after 17 seconds"),
        ("down", Kind::Unavailable, "503"),
        ("loop", Kind::Unavailable, "more than 3 times"),
        ("metadata", Kind::FailedPrecondition, "169.254.169.254"),
        ("leap", Kind::FailedPrecondition, "fe80::1"),
        ("huge", Kind::Unavailable, "more than 1 MiB"),
    ] {
        let error = ours.pullable(&image(&host, path)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(error.message().contains(words), "{path}: {error}");
    }
    let error = ours.pullable(&image("169.254.169.254", "a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}

#[tokio::test]
async fn a_broken_config_file_is_named_and_its_secrets_are_not() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["{", r#"{"auths":"hunter2"}"#, r#"{"auths":{"h.io":{"auth":"hunter2!"}}}"#] {
        let file = config(&folder, text);
        let ours = DockerConfig { file: Some(file.clone()), helpers: None };
        let error = ours.credential("h.io").await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.message().contains(file.to_str().unwrap()), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    let secret = Credential::basic("alice", "hunter2");
    assert!(!format!("{secret:?}").contains("hunter2"));
    assert_ne!(secret.fingerprint(), Credential::basic("aliceh", "unter2").fingerprint());
}

#[tokio::test]
async fn credential_helpers_are_asked_for_their_registry() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let script = "#!/bin/sh\nread -r server\ncase $server in\n\
        https://index.docker.io/v1/) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n\
        h.io) echo '{\"Username\":\"u\",\"Secret\":\"p\"}';;\n\
        none.io) echo credentials not found in native keychain; exit 1;;\n*) exit 2;;\nesac\n";
    std::fs::write(&source, script).unwrap();
    // Another process writes the program: it is busy for no fork of this one.
    let target = folder.path().join("docker-credential-test");
    let made = Command::new("install").args(["-m", "755"]).arg(&source).arg(&target).status().await;
    assert!(made.unwrap().success());
    let file = config(&folder, r#"{"credsStore":"test","credHelpers":{"bad.io":"../x"}}"#);
    let ours = DockerConfig { file: Some(file), helpers: Some(folder.path().to_owned()) };
    let basic = Some(Credential::basic("u", "p"));
    assert_eq!(ours.credential("h.io").await.unwrap(), basic);
    assert_eq!(ours.credential("docker.io").await.unwrap(), Some(Credential::identity("t")));
    assert_eq!(ours.credential("none.io").await.unwrap(), None);
    for registry in ["bad.io", "broken.io"] {
        let error = ours.credential(registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
    }
}
