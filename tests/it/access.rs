//! Who may call what, over gRPC and REST alike.

use container_svc::rpc::pb;
use prost_reflect::DescriptorPool;
use serde_json::json;

use crate::support::{Service, eventually, unique};

/// Every method and path of the contract, from the descriptors.
fn paths() -> Vec<(String, String)> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let http = pool.get_extension_by_name("google.api.http").expect("the option");
    // Bodies that are bytes; a client stream can have no rule, and has one of these.
    let raw = [
        ("GET", "/container-svc/keep/archive"),
        ("PUT", "/container-svc/keep/archive"),
        ("POST", "/container-svc/image/context"),
    ];
    let mut paths = raw.map(|(method, path)| (method.to_owned(), path.to_owned())).to_vec();
    let client_streams = [
        "containersvc.v1.KeepService.ImportKeep",
        "containersvc.v1.BuildService.UploadBuildContext",
    ];
    for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let options = rpc.options();
        if rpc.is_client_streaming() && client_streams.contains(&rpc.full_name()) {
            continue;
        }
        assert!(options.has_extension(&http), "{} has no REST path", rpc.full_name());
        let rule = options.get_extension(&http);
        let rule = rule.as_message().expect("a rule");
        for method in ["get", "put", "post", "delete"] {
            let path = rule.get_field_by_name(method).expect("a field");
            let path = path.as_str().unwrap_or_default();
            if !path.is_empty() {
                let path = path.replace("{image_name=**}", "x").replace("{name}", "x");
                paths.push((method.to_uppercase(), path));
            }
        }
    }
    assert!(paths.len() >= 16, "{paths:?}");
    paths
}

/// What a token sends that may do this alone.
pub(crate) async fn weak(service: &Service, may: &str) -> String {
    let create =
        json!({"name": may.replace(':', "-"), "permissions": [format!("container-svc:{may}")]});
    let (status, made) = service.rest("POST", "/container-svc/token", &create.to_string()).await;
    assert_eq!(status, 200, "{made}");
    format!("Bearer {}", made["secret"].as_str().expect("a secret"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_opens_without_a_token_or_with_a_wrong_one_or_a_weak_one() {
    let service = Service::start().await;
    let (builder, keeper) =
        (weak(&service, "image:build").await, weak(&service, "keep:view").await);
    for (method, path) in paths() {
        let weak = if path == "/container-svc/keeps" { &builder } else { &keeper };
        let weak = format!("Authorization: {weak}");
        for (header, expected) in [
            ("Authorization:", 401),
            ("Authorization: Bearer wrong", 401),
            ("Authorization: Basic eDp5", 401),
            (weak.as_str(), 403),
        ] {
            // A later header of the same name does not replace curl's first, so
            // the admin token is taken away by asking without it.
            let url = format!("{}{path}", service.url);
            let out = tokio::process::Command::new("curl")
                .args(["-s", "-i", "--max-time", "10", "-X", &method, "-H", header, &url])
                .output()
                .await
                .expect("curl");
            let text = String::from_utf8_lossy(&out.stdout).to_lowercase();
            let status = text.split(' ').nth(1).unwrap_or_default();
            assert_eq!(status, expected.to_string(), "{method} {path} {header}: {text}");
            assert!(text.contains("content-type: application/json"), "{text}");
            assert_eq!(text.contains("www-authenticate: bearer"), expected == 401, "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rpc_opens_without_a_token_or_with_a_wrong_one_or_a_weak_one() {
    let service = Service::start().await;
    let (builder, keeper) =
        (weak(&service, "image:build").await, weak(&service, "keep:view").await);
    let channel = tonic::transport::Channel::from_shared(service.url.clone()).expect("a url");
    let channel = channel.connect().await.expect("it listens");
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
    let mut count = 0;
    for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        let weak = if rpc.name() == "ListKeeps" { &builder } else { &keeper };
        for (token, code) in [
            (None, tonic::Code::Unauthenticated),
            (Some("Bearer wrong".to_owned()), tonic::Code::Unauthenticated),
            (Some(weak.clone()), tonic::Code::PermissionDenied),
        ] {
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.expect("ready");
            let mut request = tonic::Request::new(());
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", token.parse().expect("ascii"));
            }
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let path = path.parse().expect("a path");
            let answer = client.server_streaming(request, path, codec).await;
            assert_eq!(answer.expect_err("refused").code(), code, "{}", rpc.full_name());
            count += 1;
        }
    }
    assert!(count >= 45, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_named_sets_grant_what_is_documented() {
    let service = Service::start().await;
    let may = |set: &str| {
        let create = json!({"name": format!("of-{set}"), "grantSet": set}).to_string();
        let service = &service;
        async move {
            let (_, made) = service.rest("POST", "/container-svc/token", &create).await;
            serde_json::from_value::<Vec<String>>(made["token"]["permissions"].clone())
                .expect("a list")
        }
    };
    let model = may("model-svc").await;
    let deploy = may("deploy-svc").await;
    for set in [&model, &deploy] {
        for name in ["container:run", "container:stop", "container:view", "log:view"] {
            assert!(set.contains(&format!("container-svc:{name}")), "{name} in {set:?}");
        }
        assert!(!set.contains(&"container-svc:token:manage".to_owned()));
    }
    assert!(deploy.contains(&"container-svc:image:build".to_owned()));
    assert!(!model.contains(&"container-svc:image:build".to_owned()));
    let privileged = "container-svc:image:build-privileged".to_owned();
    assert!(may("admin").await.contains(&privileged));
    for set in [model, deploy, may("viewer").await] {
        assert!(!set.is_empty() && !set.contains(&privileged), "{set:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_name_of_run_opens_run() {
    let service = Service::start().await.synced().await;
    let create = r#"{"name":"old","permissions":["container-svc:container:create"]}"#;
    let (_, made) = service.rest("POST", "/container-svc/token", create).await;
    let token = made["secret"].as_str().expect("a secret").to_owned();
    let with = |path: &str, method: &str| {
        let url = format!("{}{path}", service.url);
        let header = format!("Authorization: Bearer {token}");
        let method = method.to_owned();
        async move {
            let out = tokio::process::Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", &method, "-H", &header])
                .args(["-d", "{}", &url])
                .output()
                .await
                .expect("curl");
            String::from_utf8_lossy(&out.stdout).into_owned()
        }
    };
    assert_eq!(with("/container-svc/container", "PUT").await, "400", "let in, then no image");
    assert_eq!(with("/container-svc/containers", "POST").await, "403");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_it_is_revoked_or_expires_and_survives_a_restart() {
    let mut service = Service::start().await;
    let make = |body: &str| {
        let body = body.to_owned();
        let service = &service;
        async move { service.rest("POST", "/container-svc/token", &body).await }
    };
    let (status, _) = make(r#"{"name":"a","grantSet":"viewer"}"#).await;
    assert_eq!(status, 200);
    assert_eq!(make(r#"{"name":"a","grantSet":"viewer"}"#).await.0, 409);
    for bad in [
        r#"{"name":"","grantSet":"viewer"}"#,
        r#"{"name":"b","grantSet":"king"}"#,
        r#"{"name":"b","permissions":["x"]}"#,
        r#"{"name":"b"}"#,
        r#"{"name":"b","grantSet":"viewer","ttl":"0s"}"#,
        r#"{"name":"b","grantSet":"viewer","ttl":"-5s"}"#,
    ] {
        assert_eq!(make(bad).await.0, 400, "{bad}");
    }
    let (_, short) = make(r#"{"name":"short","grantSet":"admin","ttl":"1s"}"#).await;
    let admin =
        std::mem::replace(&mut service.token, short["secret"].as_str().expect("text").into());
    eventually("the short token has expired", || async {
        service.get("/container-svc/node").await.0 == 401
    })
    .await;
    service.token = admin;
    service.stop().await;
    service.resume().await;
    let (status, listed) = service.get("/container-svc/tokens").await;
    assert_eq!(status, 200, "the admin token survives");
    assert!(!listed.to_string().contains("secret"));
    assert_eq!(service.rest("DELETE", "/container-svc/token/a", "").await.0, 200);
    assert_eq!(service.rest("DELETE", "/container-svc/token/a", "").await.0, 404);
    assert_eq!(service.rest("DELETE", "/container-svc/token/admin?force=true", "").await.0, 200);
    assert_eq!(service.get("/container-svc/node").await.0, 401, "revoked at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_token_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let name = unique("dir");
    let dir = tempfile::Builder::new().prefix(&name).tempdir().expect("a directory");
    let file = dir.path().join("admin.token");
    let place = file.clone();
    let service = Service::with(move |config| config.token_file = place).await;
    let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(service.token.starts_with("csvc_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn meta_is_open_by_default_and_closed_by_configuration() {
    for (open, expected) in [(true, "200"), (false, "401")] {
        let service = Service::with(|config| config.public_meta = open).await;
        for page in ["openapi.json", "metrics"] {
            let url = format!("{}/{page}", service.url);
            let out = tokio::process::Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
                .output()
                .await
                .expect("curl");
            assert_eq!(String::from_utf8_lossy(&out.stdout), expected, "{page}");
            assert_eq!(service.raw("GET", &format!("/{page}"), "", &[]).await.0, 200, "{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_before_what_it_sends_is_read() {
    let mut service = Service::start().await;
    service.token = "wrong".into();
    let (status, body) = service.rest("PUT", "/container-svc/container", "{not json").await;
    assert_eq!(status, 401, "{body}");
    let big = "x".repeat(100_000);
    let (status, body) = service.rest("PUT", "/container-svc/container", &big).await;
    assert_eq!(status, 401, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_token_that_makes_tokens_ends_only_by_force() {
    let service = Service::start().await;
    let revoke = |path: &'static str| service.rest("DELETE", path, "");
    let (status, answer) = revoke("/container-svc/token/admin").await;
    assert_eq!(
        (status, &answer["details"][0]["reason"]),
        (400, &json!("LAST_MANAGER")),
        "{answer}"
    );
    let other = json!({"name": "other", "grantSet": "admin"}).to_string();
    assert_eq!(service.rest("POST", "/container-svc/token", &other).await.0, 200);
    assert_eq!(revoke("/container-svc/token/other").await.0, 200, "there is one more");
    assert_eq!(revoke("/container-svc/token/admin?force=true").await.0, 200);
    assert_eq!(service.get("/container-svc/tokens").await.0, 401, "it was the last");
}
