//! Frontends of a build's own and entitlements: for those who may, and for nobody else.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use container_svc::{config::Config, domain::source::GitProtocol, rpc::pb};
use pb::{BuilderKind, build_image_stream_response::Event, build_source::Source as From};
use serde_json::json;
use tonic::Code;

use super::{
    Tree, build, count, finished,
    git::Repository,
    sources::{of, packed, tarball, upload},
};
use crate::{
    access::weak,
    assets::{lenient, source},
    cli::cli,
    registry::Registry,
    support::{Service, docker, image, own_loopback},
};

const PERMISSION: &str = "container-svc:image:build-privileged";
/// What the frontend of these tests understands, and that of an older engine does not.
const STEP: &str = "COPY <<end /made\nby the frontend\nend\n";

/// An image with BuildKit's own frontend, in a version that knows more than the engine's.
pub(super) fn frontend() -> &'static str {
    static IMAGE: OnceLock<&'static str> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let (tag, dir) = ("container-svc-test-frontend:1", tempfile::tempdir().expect("a folder"));
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/tools/bin/dockerfile-frontend");
        let copied = fs::copy(program, dir.path().join("frontend"));
        copied.expect("no frontend to test with: run `make tools`");
        let lines = "FROM scratch\nCOPY frontend /\nLABEL container-svc-demo=1\n\
                     ENTRYPOINT [\"/frontend\"]\n";
        fs::write(dir.path().join("Dockerfile"), lines).expect("a file");
        let mut docker = Command::new("docker");
        docker.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", tag]).arg(dir.path());
        let made = docker.output().expect("docker");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        tag
    })
}

/// What stands where a frontend could come from; counts who asks.
fn nobodys_registry() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((own_loopback(), 0)).expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Each connection is closed at once; the thread ends with the process.
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (host, asked)
}

/// A service that may read the tree, and sources on this machine.
async fn service(tree: &Tree) -> Service {
    let root = tree.root().to_owned();
    let settings = |config: &mut Config| {
        lenient(config);
        config.git_protocols = GitProtocol::ALL.to_vec();
        config.build_roots = vec![root];
    };
    Service::with(settings).await.synced().await
}

/// The same service, with a token that may build and no more.
async fn plain(mut service: Service) -> Service {
    let bearer = weak(&service, "image:build").await;
    service.token = bearer.trim_start_matches("Bearer ").to_owned();
    service
}

fn of_kit(tree: &Tree, file: &str) -> pb::BuildImageRequest {
    pb::BuildImageRequest {
        dockerfile_path: file.into(),
        builder: BuilderKind::Buildkit.into(),
        ..tree.plain()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_is_refused_to_who_lacks_its_permission_and_not_even_asked_for() {
    let (host, asked) = nobodys_registry();
    let evil = format!("{host}/evil/frontend:1");
    let tree = Tree::new("", &[]);
    let base = image();
    for (name, head) in [
        ("Hash", format!("# syntax={evil}\n")),
        ("Twice", format!("# syntax= \n# syntax={evil}\n")),
        ("Slashes", format!("// syntax={evil}\n")),
        ("Below", format!("#!/x\n#syntax = {evil} more\n")),
    ] {
        tree.write(&format!("ctx/{name}"), &format!("{head}FROM {base}\n"));
    }
    tree.write("ctx/Json", &format!("#!/x\n{{\"syntax\":\"{evil}\"}}\n"));
    tree.write("ctx/Dockerfile", &format!("# syntax={evil}\nFROM {base}\nRUN <<x\nx\n"));
    let service = plain(service(&tree).await).await;

    let plain_file = format!("FROM {base}\n");
    tree.write("ctx/Plain", &plain_file);
    let arg = pb::EnvVar { key: "BUILDKIT_SYNTAX".into(), value: evil.clone() };
    let by_arg = pb::BuildImageRequest {
        dockerfile_path: "Plain".into(),
        build_args: vec![arg.clone()],
        ..tree.plain()
    };
    let mut ways: Vec<_> = ["Hash", "Twice", "Slashes", "Below", "Json"]
        .map(|file| (of_kit(&tree, file), "of the Dockerfile"))
        .into();
    ways.push((pb::BuildImageRequest { builder: 0, ..of_kit(&tree, "") }, "line 1 of the Doc"));
    ways.push((pb::BuildImageRequest { builder: 2, ..by_arg.clone() }, "BUILDKIT_SYNTAX"));
    ways.push((by_arg.clone(), "BUILDKIT_SYNTAX"));

    packed(&tree, &tree.path("ctx"), &["."]);
    let (_, uploaded) = upload(&service, &tree).await;
    let id = uploaded["uploadId"].as_str().expect("an id").to_owned();
    let kit = |source| pb::BuildImageRequest { builder: 2, ..of(&tree, source) };
    ways.push((kit(From::UploadId(id)), "line 1 of the Dockerfile"));
    let bytes = packed(&tree, &tree.path("ctx"), &["."]);
    let server = source::Source::of(bytes, "\"a\"").await;
    ways.push((kit(tarball(server.url("/a.tar"), "", "")), "line 1 of the Dockerfile"));
    let repository = Repository::new();
    repository.commit("kit/Dockerfile", &format!("# syntax={evil}\nFROM {base}\n"));
    let (_daemon, url) = repository.daemon().await;
    let git = pb::GitSource { url: url.clone(), subdirectory: "kit".into(), ..Default::default() };
    ways.push((kit(From::Git(git)), "line 1 of the Dockerfile"));

    for (request, words) in ways {
        let (events, refused) = build(&service, request.clone()).await;
        let refused = refused.expect("it is refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{request:?}: {refused:?}");
        for part in [PERMISSION, words, &evil] {
            assert!(refused.message().contains(part), "{part} in {refused:?}");
        }
        let begun = |event: &Event| matches!(event, Event::Started(_) | Event::Step(_));
        assert_eq!(count(&events, begun), 0, "{request:?}: {events:?}");
    }
    for (method, path) in [("PUT", "/container-svc/image"), ("POST", "/container-svc/image/build")]
    {
        let body = json!({"name": tree.name(), "contextPath": tree.path("ctx"), "dockerfilePath": "Hash",
            "builder": "BUILDER_KIND_BUILDKIT"});
        let (status, told) = service.rest(method, path, &body.to_string()).await;
        assert_eq!((status, told["code"].as_i64()), (403, Some(7)), "{told}");
        let info = &told["details"][0];
        assert_eq!(info["reason"], "PERMISSION_MISSING", "{told}");
        assert_eq!(info["metadata"], json!({"permission": PERMISSION, "line": "1"}), "{told}");
    }
    let ctx = tree.path("ctx");
    let line = ["build", "-t", tree.name(), &ctx, "-f"];
    for more in [
        &["Hash", "--builder", "buildkit"][..],
        &["Plain", "--build-arg", &format!("BUILDKIT_SYNTAX={evil}")],
    ] {
        let told = cli(&service, &[&line[..], more].concat()).await;
        assert_ne!(told.code, Some(0), "{told:?}");
        assert!(told.err.contains(PERMISSION), "{told:?}");
    }
    // The classic builder takes the line for a comment, and is what builds by itself.
    let request = pb::BuildImageRequest { dockerfile_path: "Hash".into(), ..tree.plain() };
    assert_eq!(finished(&build(&service, request).await).builder(), BuilderKind::Classic);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody asked for the frontend");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_is_what_the_engine_would_have_fetched() {
    let (host, asked) = nobodys_registry();
    let tree = Tree::new("", &[]);
    let service = service(&tree).await;
    let evil = format!("{host}/evil/frontend:1");
    for (head, arg) in [
        (format!("# syntax={evil}\n"), ""),
        (format!("# syntax= \n# syntax={evil}\n"), ""),
        (String::new(), evil.as_str()),
    ] {
        let before = asked.load(Ordering::Relaxed);
        tree.write("ctx/Dockerfile", &format!("{head}FROM {}\n", image()));
        let arg = pb::EnvVar { key: "BUILDKIT_SYNTAX".into(), value: arg.into() };
        let build_args = if arg.value.is_empty() { Vec::new() } else { vec![arg] };
        let request = pb::BuildImageRequest { build_args, ..tree.plain() };
        let failed = build(&service, request).await.1.expect("that registry gives nothing");
        assert_ne!(failed.code(), Code::PermissionDenied, "{failed:?}");
        assert!(asked.load(Ordering::Relaxed) > before, "{head:?}: {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_builds_for_who_may_from_every_source() {
    let tree = Tree::new("", &[]);
    let service = service(&tree).await;
    let text = format!("# syntax={}\nFROM {}\n{STEP}", frontend(), image());
    tree.write("ctx/Dockerfile", &text);
    let repository = Repository::new();
    repository.commit("kit/Dockerfile", &text);
    let (_daemon, url) = repository.daemon().await;
    packed(&tree, &tree.path("ctx"), &["."]);
    let (_, uploaded) = upload(&service, &tree).await;
    let id = uploaded["uploadId"].as_str().expect("an id").to_owned();
    let git = pb::GitSource { url, subdirectory: "kit".into(), ..Default::default() };
    for request in [tree.plain(), of(&tree, From::UploadId(id)), of(&tree, From::Git(git))] {
        let told = build(&service, request).await;
        assert_eq!(finished(&told).builder(), BuilderKind::Buildkit, "chosen by itself");
        let ran =
            |event: &Event| matches!(event, Event::Step(step) if step.name.contains(frontend()));
        assert!(count(&told.0, ran) > 0, "{told:?}");
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/made"]), "by the frontend");
        docker(&["rmi", "-f", tree.name()]);
    }
    cli(&service, &["build", "-q", "-t", tree.name(), &tree.path("ctx")]).await.done();
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/made"]), "by the frontend");

    // The same file without the line: the engine's own frontend is an older one, or knows
    // the step as well, and then nothing of ours is in what it tells.
    tree.write("ctx/Dockerfile", &format!("FROM {}\n{STEP}", image()));
    let arg = pb::EnvVar { key: "BUILDKIT_SYNTAX".into(), value: frontend().into() };
    for (build_args, expected) in [(vec![arg], true), (Vec::new(), false)] {
        let request = pb::BuildImageRequest { build_args, ..tree.plain() };
        let told = build(&service, request).await;
        let ran =
            |event: &Event| matches!(event, Event::Step(step) if step.name.contains(frontend()));
        assert_eq!(count(&told.0, ran) > 0, expected, "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_of_a_closed_registry_is_fetched_with_the_credentials_of_the_build() {
    let registry = Registry::start(true).await;
    let remote = format!("{}/team/frontend:1", registry.host);
    docker(&["tag", frontend(), &remote]);
    let config = registry.config_of("alice").display().to_string();
    let pushed = docker(&["--config", &config, "push", &remote]);
    assert!(pushed.contains("digest: sha256:"), "{pushed}");
    docker(&["rmi", &remote]);
    let tree = Tree::new("", &[]);
    tree.write("ctx/Dockerfile", &format!("# syntax={remote}\nFROM {}\n{STEP}", image()));
    let service = service(&tree).await;
    let closed = build(&service, tree.plain()).await.1.expect("nobody is let in unnamed");
    assert_eq!(closed.code(), Code::FailedPrecondition, "{closed:?}");
    let login = pb::BuildCredential {
        registry: registry.host.clone(),
        username: "alice".into(),
        password: "sesame".into(),
    };
    let request = pb::BuildImageRequest { credentials: vec![login], ..tree.plain() };
    finished(&build(&service, request).await);
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/made"]), "by the frontend");
}

/// A step that calls what listens on the loopback of the node, and goes on either way.
fn call(flag: &str, host: &str) -> String {
    let at = host.replace(':', " ");
    format!("RUN {flag} busybox nc -w 2 {at} < /dev/null || true\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_gets_into_the_network_of_the_node_by_an_entitlement_alone() {
    let (host, called) = nobodys_registry();
    let calls = || called.load(Ordering::Relaxed);
    let tree = Tree::new("", &[]);
    let service = service(&tree).await;
    let entitlements = vec![pb::BuildEntitlement::NetworkHost.into()];
    let entitled = pb::BuildImageRequest { entitlements, no_cache: true, ..tree.plain() };
    let request = pb::BuildImageRequest { no_cache: true, builder: 2, ..tree.plain() };
    let base = image();

    // By the engine's own frontend, and a step that says nothing of its network.
    tree.write("ctx/Dockerfile", &format!("FROM {base}\n{}", call("", &host)));
    finished(&build(&service, request.clone()).await);
    assert_eq!(calls(), 0, "a plain step does not get there");
    let told = build(&service, entitled.clone()).await;
    assert_eq!(finished(&told).builder(), BuilderKind::Buildkit, "chosen by itself");
    assert_eq!(calls(), 1);

    // By a frontend that knows the flag.
    let text = format!("# syntax={}\nFROM {base}\n{}", frontend(), call("--network=host", &host));
    tree.write("ctx/Dockerfile", &text);
    let refused = build(&service, request).await.1.expect("the flag alone is nothing");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    for part in ["network.host is not allowed", "NETWORK_HOST in entitlements"] {
        assert!(refused.message().contains(part), "{part} in {refused:?}");
    }
    assert_eq!(calls(), 1);
    finished(&build(&service, entitled).await);
    assert_eq!(calls(), 2);
    let line = ["build", "-q", "-t", tree.name(), "--no-cache", "--allow", "network.host"];
    cli(&service, &[&line[..], &[&tree.path("ctx")]].concat()).await.done();
    assert_eq!(calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn entitlements_are_refused_to_who_lacks_their_permission_before_anything_is_fetched() {
    let (host, called) = nobodys_registry();
    let tree = Tree::new("", &[]);
    tree.write("ctx/Dockerfile", &format!("FROM {}\n{}", image(), call("", &host)));
    let service = plain(service(&tree).await).await;
    let network = vec![pb::BuildEntitlement::NetworkHost.into()];
    let git = pb::GitSource { url: format!("git://{host}/app.git"), ..Default::default() };
    for request in [tree.plain(), of(&tree, From::Git(git))] {
        let request = pb::BuildImageRequest { entitlements: network.clone(), ..request };
        let refused = build(&service, request).await.1.expect("it is refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        for part in [PERMISSION, "NETWORK_HOST", "entitlements"] {
            assert!(refused.message().contains(part), "{part} in {refused:?}");
        }
    }
    for (method, path) in [("PUT", "/container-svc/image"), ("POST", "/container-svc/image/build")]
    {
        let body = json!({"name": tree.name(), "contextPath": tree.path("ctx"),
            "entitlements": ["BUILD_ENTITLEMENT_SECURITY_INSECURE"]});
        let (status, told) = service.rest(method, path, &body.to_string()).await;
        assert_eq!((status, told["code"].as_i64()), (403, Some(7)), "{told}");
        let expected = json!({"permission": PERMISSION, "field": "entitlements"});
        assert_eq!(told["details"][0]["metadata"], expected, "{told}");
    }
    let line = ["build", "-t", tree.name(), "--allow", "network.host", &tree.path("ctx")];
    let told = cli(&service, &line).await;
    assert!(told.code != Some(0) && told.err.contains(PERMISSION), "{told:?}");
    assert_eq!(called.load(Ordering::Relaxed), 0, "nothing was fetched and nothing ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn entitlements_that_are_none_or_that_the_builder_has_not_are_refused() {
    let tree = Tree::new("", &[]);
    let service = service(&tree).await;
    let (network, insecure) =
        (pb::BuildEntitlement::NetworkHost.into(), pb::BuildEntitlement::SecurityInsecure.into());
    for (entitlements, builder, code, words) in [
        (vec![network], 1, Code::FailedPrecondition, "need BuildKit"),
        (vec![network, insecure], 1, Code::FailedPrecondition, "leave builder out"),
        (vec![network, 0], 0, Code::InvalidArgument, "entitlements[1]"),
        (vec![7], 0, Code::InvalidArgument, "entitlements[0]"),
        (vec![network; 257], 0, Code::InvalidArgument, "at most 256"),
    ] {
        let request = pb::BuildImageRequest { entitlements, builder, ..tree.plain() };
        let (events, refused) = build(&service, request).await;
        let refused = refused.expect("it is refused");
        assert_eq!((refused.code(), events.len()), (code, 0), "{words}: {refused:?}");
        assert!(refused.message().contains(words), "{words} in {refused:?}");
    }
}
