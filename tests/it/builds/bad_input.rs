//! Bad input of a build gets a clear answer and never a crash.

use container_svc::{config::Config, rpc::pb};
use serde_json::json;
use tonic::Code;

use super::{BUILDERS, Tree, build};
use crate::support::Service;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_no_build_begins() {
    let tree = Tree::new("RUN true\n", &[("file", "")]);
    tree.write("ctx/Wrong", "FROM scratch\n\nRUUN echo hi\n");
    tree.write("ctx/Empty", "\n");
    tree.write("empty/x", "");
    let service = tree.service().await;
    let (ctx, missing) = (tree.path("ctx"), tree.path("missing"));
    let looked = format!("{}/empty/Dockerfile", tree.root().display());
    for (fields, parts) in [
        (json!({"contextPath": missing}), vec!["contextPath", "nothing at", &missing]),
        (json!({"contextPath": ""}), vec!["contextPath", "is empty"]),
        (json!({"contextPath": "ctx"}), vec!["contextPath", "not absolute"]),
        (json!({"contextPath": "/etc"}), vec!["contextPath", "/etc", "outside", "build_roots"]),
        (json!({"contextPath": "/nowhere"}), vec!["contextPath", "/nowhere", "outside"]),
        (json!({"contextPath": format!("{ctx}/../../..")}), vec!["contextPath", "outside"]),
        (json!({"contextPath": format!("{ctx}/file")}), vec!["contextPath", "no folder"]),
        (json!({"contextPath": tree.path("empty")}), vec!["no Dockerfile at", &looked]),
        (json!({"dockerfilePath": "Nope"}), vec!["no Dockerfile at", "ctx/Nope"]),
        (json!({"dockerfilePath": "/etc/passwd"}), vec!["dockerfilePath", "outside"]),
        (json!({"dockerfilePath": "Empty"}), vec!["dockerfilePath", "is empty"]),
        (json!({"dockerfilePath": "Wrong"}), vec!["line 3", "RUUN echo hi", "unknown instruction"]),
        (json!({"name": ""}), vec!["name", "is empty"]),
        (json!({"name": "Not A Name"}), vec!["name", "Not A Name"]),
        (json!({"tags": ["a:b:c"]}), vec!["tags[0]", "a:b:c"]),
        (json!({"buildArgs": [{"key": "a=b"}]}), vec!["buildArgs[0]", "a=b"]),
        (json!({"target": "nobody"}), vec!["nobody"]),
        (
            json!({"buildArgs": [{"key": "long", "value": "x".repeat(66_000)}]}),
            vec!["buildArgs", "file of the context"],
        ),
    ] {
        let mut body = json!({"name": tree.name, "contextPath": ctx});
        for (key, value) in fields.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let paths = [("PUT", "/container-svc/image"), ("POST", "/container-svc/image/build")];
        let all = BUILDERS.into_iter().flat_map(|builder| paths.map(|path| (builder, path)));
        for (builder, (method, path)) in all {
            body["builder"] = builder.as_str_name().into();
            let (status, answer) = service.rest(method, path, &body.to_string()).await;
            // By the time the engine reads the Dockerfile, the stream has begun.
            let answer = match (method, status) {
                ("POST", 200) => {
                    let text = answer.as_str().map(str::to_owned).unwrap_or_default();
                    let last = text.lines().last().unwrap_or_default().to_owned();
                    serde_json::from_str::<serde_json::Value>(&last).expect("JSON")["error"].clone()
                }
                _ => {
                    assert_eq!(status, 400, "{body}: {answer}");
                    answer
                }
            };
            assert_eq!(answer["code"], 3, "{body}: {answer}");
            let told = answer["message"].as_str().expect("a message");
            for part in &parts {
                assert!(told.contains(part), "{part} in {told}");
            }
        }
    }
}

async fn refusal(service: &Service, request: pb::BuildImageRequest) -> (Code, String) {
    let status = build(service, request).await.1.expect("it is refused");
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_service_or_its_builder_cannot_do_is_said() {
    let tree = Tree::new("RUN true\n", &[]);
    let service = tree.service().await;
    let secret = pb::BuildSecret { id: "s".into(), value: b"hush".to_vec() };
    let classic = pb::BuilderKind::Classic.into();
    let request =
        pb::BuildImageRequest { secrets: vec![secret], builder: classic, ..tree.request() };
    let (code, told) = refusal(&service, request).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(told.contains("BuildKit") && !told.contains("hush"), "{told}");
    let closed = Service::with(|config: &mut Config| config.build_roots.clear()).await;
    let closed = closed.synced().await;
    let (code, told) = refusal(&closed, tree.request()).await;
    assert_eq!((code, told.contains("build_roots")), (Code::FailedPrecondition, true), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_that_no_registry_has_is_not_found() {
    let registry = crate::registry::Registry::start(false).await;
    let tree = Tree::new("", &[]);
    tree.write("ctx/Dockerfile", &format!("FROM {}/none:1\n", registry.host));
    let service = tree.service().await;
    for (builder, step) in BUILDERS.into_iter().zip(["step 1 of 1, line 1", "load metadata for "]) {
        let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let (code, told) = refusal(&service, request).await;
        assert_eq!(code, Code::NotFound, "{told}");
        assert!(told.contains(step), "{told}");
    }
}
