//! What opens registries and what builds must not tell stands in no log and no file.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use container_svc::{config::Config, rpc::pb};

use super::{alice, manage::push, pull};
use crate::{
    builds::{Tree, build, finished},
    registry::{ALICE, Registry},
    support::{Service, docker, unique},
};

/// A credential helper for the registry, for who has this folder in PATH.
fn helper(registry: &Registry, folder: &Path) {
    let told = r#"{"Username":"alice","Secret":"sesame"}"#;
    let program = folder.join("docker-credential-cst");
    fs::write(&program, format!("#!/bin/sh\necho '{told}'\n")).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it may run");
    let config = format!("{{\"credHelpers\":{{\"{}\":\"cst\"}}}}", registry.host);
    fs::write(folder.join("config.json"), config).expect("a file");
}

/// All that lies in a folder, and in those below.
fn all_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            all.extend(all_of(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            all.push((path.display().to_string(), bytes));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_opens_a_registry_and_nothing_secret_is_logged_or_kept() {
    let registry = Registry::start(true).await;
    let tree = Tree::new("", &[]);
    let programs = tempfile::tempdir().expect("a folder");
    helper(&registry, programs.path());
    let secret = unique("secret");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").expect("PATH"));
    let (docker_config, root) = (programs.path().to_owned(), tree.root().to_owned());
    let settings = |config: &mut Config| {
        config.log = "trace".into();
        config.docker_config = Some(docker_config);
        config.build_roots = vec![root];
    };
    let service = Service::program_in(vec![("PATH".into(), path)], settings).await.synced().await;

    let image = registry.push("closed");
    pull(&service, &image, None).await.expect("the helper opens it");
    push(&service, &image, None).await.expect("the helper opens it");
    docker(&["rmi", "-f", &image]);
    pull(&service, &image, alice("hush-hush")).await.expect_err("that is wrong");
    for builder in [pb::BuilderKind::Classic, pb::BuilderKind::Buildkit] {
        let base = registry.push(&unique("base"));
        let mut lines = format!("FROM {base}\nLABEL of={}\n", unique("label"));
        let mut request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        if builder == pb::BuilderKind::Buildkit {
            lines += "RUN --mount=type=secret,id=key cat /run/secrets/key\n";
            let value = secret.clone().into();
            request.secrets = vec![pb::BuildSecret { id: "key".into(), value }];
        }
        tree.write("ctx/Dockerfile", &lines);
        finished(&build(&service, request).await);
    }
    let all = all_of(service.log_file().parent().expect("a folder"));
    let log = all.iter().find(|(path, _)| *path == service.log_file().display().to_string());
    let log = String::from_utf8_lossy(&log.expect("the log").1);
    assert!(log.contains("TRACE") && log.len() > 10_000, "{}", log.len());
    for hidden in ["sesame", "hush-hush", ALICE, &secret] {
        for (path, bytes) in &all {
            let found = memchr::memmem::find(bytes, hidden.as_bytes());
            assert!(found.is_none(), "{hidden} at {found:?} in {path}");
        }
    }
}
