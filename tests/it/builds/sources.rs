//! Contexts that are not folders of the node: uploads and tarballs.

use std::{fs, path::Path, process::Command, time::Duration};

use container_svc::{config::Config, rpc::pb};
use futures_util::stream;
use pb::{build_service_client::BuildServiceClient, build_source::Source as From};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};

use super::{
    BUILDERS, Tree, begin,
    beside_docker::by_docker,
    build,
    ends::{endless, no_step_runs, reads},
    finished,
};
use crate::{
    assets::{lenient, source, tls::Secure},
    cli::cli,
    support::{DEADLINE, Service, docker, eventually, image, unique, within},
};

const CONTEXT: &str = "/container-svc/image/context";

/// What the service holds of sources: builds and uploads that are not done.
pub(super) fn held(service: &Service) -> usize {
    let folder = service.asset_folder().with_file_name("sources");
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

pub(super) async fn nothing_is_held(service: &Service) {
    eventually("no source is held", || async { held(service) == 0 }).await;
}

/// A build of a source, and not of a folder.
pub(super) fn of(tree: &Tree, source: From) -> pb::BuildImageRequest {
    pb::BuildImageRequest {
        context_path: String::new(),
        source: Some(pb::BuildSource { source: Some(source) }),
        ..tree.plain()
    }
}

pub(super) async fn refusal(service: &Service, request: pb::BuildImageRequest) -> (Code, String) {
    let status = build(service, request).await.1.expect("it is refused");
    (status.code(), status.message().to_owned())
}

/// An archive of a folder, by GNU tar.
pub(super) fn packed(tree: &Tree, folder: &str, more: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").args(["-c", "-C", folder]).args(more).output().expect("tar");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::write(tree.root().join("packed"), &out.stdout).expect("a file");
    out.stdout
}

pub(super) async fn upload(service: &Service, tree: &Tree) -> (u16, serde_json::Value) {
    let file = format!("@{}", tree.path("packed"));
    let more = ["--data-binary", &file, "-H", "Content-Type: application/x-tar", "-H", "Expect:"];
    let (status, _, body) = service.raw("POST", CONTEXT, "", &more).await;
    (status, serde_json::from_str(&body).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_good_for_one_build_and_gone_with_it() {
    let tree = Tree::new("COPY . /x\n", &[("a", "a"), ("b", "b"), (".dockerignore", "b\n")]);
    let service = Service::start().await.synced().await;
    packed(&tree, &tree.path("ctx"), &["-z", "."]);
    for builder in BUILDERS {
        let (status, answer) = upload(&service, &tree).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["expiresAt"].as_str().is_some_and(|at| at.ends_with('Z')), "{answer}");
        let id = answer["uploadId"].as_str().expect("an id").to_owned();
        assert_eq!(held(&service), 1);
        let again = of(&tree, From::UploadId(id));
        let request = pb::BuildImageRequest { builder: builder.into(), ..again.clone() };
        assert_eq!(finished(&build(&service, request).await).builder(), builder);
        let names = docker(&["run", "--rm", tree.name(), "busybox", "ls", "-A", "/x"]);
        assert_eq!(
            names.split_whitespace().collect::<Vec<_>>(),
            [".dockerignore", "Dockerfile", "a"]
        );
        nothing_is_held(&service).await;
        let (code, told) = refusal(&service, again).await;
        assert_eq!(code, Code::NotFound, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_done_when_its_archive_ends_whatever_comes_behind() {
    let tree = Tree::new("", &[("a", "a")]);
    let service = Service::with(|config: &mut Config| config.build_source_max_bytes = 5 << 20);
    let service = service.await.synced().await;
    let bytes = packed(&tree, &tree.path("ctx"), &["."]);
    let file = fs::OpenOptions::new().write(true).open(tree.root().join("packed"));
    file.expect("a file").set_len(bytes.len() as u64 + (50 << 20)).expect("a hole");
    let (status, answer) = upload(&service, &tree).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["uploadId"].as_str().expect("an id").to_owned();
    finished(&build(&service, of(&tree, From::UploadId(id))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_source_tell_no_path_of_the_node() {
    let tree = Tree::new("", &[("a", "a"), (".dockerignore/x", "")]);
    let (real, link) = (tree.root().join("real"), tree.root().join("link"));
    fs::create_dir(&real).expect("a folder");
    std::os::unix::fs::symlink(&real, &link).expect("a link");
    let service = Service::with(|config: &mut Config| config.data_dir = link).await.synced().await;
    for word in ["\".dockerignore\" cannot be read", "at \"(source)/Dockerfile\""] {
        packed(&tree, &tree.path("ctx"), &["."]);
        let (status, answer) = upload(&service, &tree).await;
        assert_eq!(status, 200, "{answer}");
        let id = answer["uploadId"].as_str().expect("an id").to_owned();
        let (_, told) = refusal(&service, of(&tree, From::UploadId(id))).await;
        assert!(told.contains(word), "{word} in {told}");
        assert!(!told.contains("/sources/"), "{told}");
        fs::remove_dir_all(tree.root().join("ctx/.dockerignore")).ok();
        fs::remove_file(tree.root().join("ctx/Dockerfile")).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_bounded_by_size_count_and_age() {
    let tree = Tree::new("", &[("a", "a")]);
    let service = Service::with(|config: &mut Config| {
        config.build_source_max_bytes = 100_000;
        config.build_upload_max_age = Duration::from_secs(30);
    });
    let service = service.await.synced().await;
    tree.write("ctx/large", &"x".repeat(200_000));
    packed(&tree, &tree.path("ctx"), &["-z", "."]);
    let (status, answer) = upload(&service, &tree).await;
    assert_eq!((status, &answer["code"]), (429, &8.into()), "{answer}");
    assert!(answer["message"].as_str().is_some_and(|told| told.contains("build_source_max_bytes")));
    fs::remove_file(tree.root().join("ctx/large")).expect("removed");
    nothing_is_held(&service).await;

    packed(&tree, &tree.path("ctx"), &["."]);
    let mut last = String::new();
    for _ in 0..16 {
        let (status, answer) = upload(&service, &tree).await;
        assert_eq!(status, 200, "{answer}");
        last = answer["uploadId"].as_str().expect("an id").to_owned();
    }
    let (status, answer) = upload(&service, &tree).await;
    assert_eq!((status, &answer["code"]), (429, &8.into()), "{answer}");
    within(Duration::from_secs(90), "all are too old", || async { held(&service) == 0 }).await;
    let (code, _) = refusal(&service, of(&tree, From::UploadId(last))).await;
    assert_eq!(code, Code::NotFound, "it is too old");
    assert_eq!(upload(&service, &tree).await.0, 200, "there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_trickles_or_takes_too_long_is_given_up() {
    let service = Service::with(|config: &mut Config| {
        config.asset_stall_timeout = Duration::from_secs(1);
        config.build_source_max_time = Duration::from_secs(3);
    });
    let service = service.await.synced().await;
    for (length, words) in [
        (0, "0 bytes came within 1 s"),
        (1, "least rate of 1024 a second"),
        (4096, "not whole after 3 s"),
    ] {
        let ticks = tokio::time::interval(Duration::from_millis(50));
        let pieces = stream::unfold(ticks, move |mut ticks| async move {
            ticks.tick().await;
            Some((pb::UploadBuildContextRequest { data: vec![0; length] }, ticks))
        });
        let mut request = Request::new(pieces);
        let bearer: MetadataValue<_> = format!("Bearer {}", service.token).parse().expect("ascii");
        request.metadata_mut().insert("authorization", bearer);
        let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
        let mut client = BuildServiceClient::new(channel.expect("it listens"));
        let upload = tokio::time::timeout(DEADLINE, client.upload_build_context(request)).await;
        let refused = upload.expect("in time").expect_err("it is given up");
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        assert!(refused.message().contains(words), "{words} in {refused:?}");
    }
    nothing_is_held(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_an_upload_tells_nothing_of_the_node() {
    let tree = Tree::new("", &[("a", "a")]);
    let service = Service::start().await.synced().await;
    std::os::unix::fs::symlink("/", tree.root().join("ctx/x")).expect("a link");
    packed(&tree, &tree.path("ctx"), &["."]);
    let mut told = Vec::new();
    for path in ["x/etc/passwd", "x/etc/nobody", "x/etc/passwd/nobody"] {
        let (_, answer) = upload(&service, &tree).await;
        let id = answer["uploadId"].as_str().expect("an id").to_owned();
        let request = pb::BuildImageRequest {
            dockerfile_path: path.to_owned(),
            ..of(&tree, From::UploadId(id))
        };
        let (code, why) = refusal(&service, request).await;
        told.push((code, why.replace(path, "it")));
    }
    assert!(told[0].1.contains("leads by a link out"), "{told:?}");
    assert!(told.iter().all(|other| *other == told[0]), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_or_broken_upload_is_refused_and_leaves_nothing() {
    let tree = Tree::new("", &[("a", "a")]);
    let service = Service::start().await.synced().await;
    let up = ["--transform=s,^a$,../../evil,", "-P", "a"];
    let absolute = ["--transform=s,^a$,/tmp/evil,", "-P", "a"];
    let whole = packed(&tree, &tree.path("ctx"), &["."]);
    let mut nul =
        packed(&tree, &tree.path("ctx"), &["--format=pax", "--pax-option=path:=zQz", "a"]);
    let at = nul.windows(3).position(|at| at == b"zQz").expect("its name");
    nul[at + 1] = 0;
    let cases = [
        (nul, "NUL"),
        (packed(&tree, &tree.path("ctx"), &up), "contains \"..\""),
        (packed(&tree, &tree.path("ctx"), &absolute), "is absolute"),
        (b"hello ".repeat(200), "no tar archive"),
        (whole[..700].to_vec(), "cut short"),
    ];
    for (bytes, words) in cases {
        fs::write(tree.root().join("packed"), bytes).expect("a file");
        let (status, answer) = upload(&service, &tree).await;
        assert_eq!((status, &answer["code"]), (400, &3.into()), "{answer}");
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(told.contains(words), "{words} in {told}");
    }
    nothing_is_held(&service).await;
    for source in [json!({"uploadId": "../x"}), json!({}), json!({"git": {"url": "x"}})] {
        let body = json!({"name": tree.name(), "source": source}).to_string();
        let (status, answer) = service.rest("PUT", "/container-svc/image", &body).await;
        assert_eq!((status, &answer["code"]), (400, &3.into()), "{answer}");
        assert!(answer["message"].as_str().is_some_and(|told| told.starts_with("source.")));
    }
    let both = json!({"name": tree.name(), "contextPath": "/x", "source": {"uploadId": "x"}});
    let (status, answer) = service.rest("PUT", "/container-svc/image", &both.to_string()).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_service_held_is_gone_with_its_next_start() {
    let tree = Tree::new("RUN sleep 1000\n", &[("a", "a")]);
    let mut service = Service::program(|_| {}).await.synced().await;
    packed(&tree, &tree.path("ctx"), &["."]);
    for _ in 0..2 {
        assert_eq!(upload(&service, &tree).await.0, 200);
    }
    assert_eq!(held(&service), 2);
    service.kill();
    assert_eq!(held(&service), 2);
    service.resume().await;
    assert_eq!(held(&service), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_nobody_listens_to_takes_its_source_along() {
    let word = unique("source");
    let tree = Tree::new(&endless(&word), &[]);
    let service = Service::start().await.synced().await;
    packed(&tree, &tree.path("ctx"), &["."]);
    for builder in BUILDERS {
        let (_, answer) = upload(&service, &tree).await;
        let id = answer["uploadId"].as_str().expect("an id").to_owned();
        let source = of(&tree, From::UploadId(id));
        let request = pb::BuildImageRequest { builder: builder.into(), ..source };
        let mut stream = begin(&service, request).await.expect("it begins");
        reads(&mut stream, &word).await;
        assert_eq!(held(&service), 1);
        drop(stream);
        nothing_is_held(&service).await;
        no_step_runs(&word).await;
    }
}

/// The same id as that of the docker command: the same paths, modes, links and bytes.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_builds_a_folder_here_as_the_docker_command_does() {
    let tree = Tree::new(
        "COPY . /ctx/\n",
        &[("run", "#!/bin/sh"), ("d/x", "x"), ("d/y", "y"), (".dockerignore", "d/y\n")],
    );
    let at = |path: &str| tree.root().join("ctx").join(path);
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(at("run"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    fs::set_permissions(at("d"), fs::Permissions::from_mode(0o750)).expect("a mode");
    std::os::unix::fs::symlink("/etc/shadow", at("out")).expect("a link");
    fs::hard_link(at("d/x"), at("hard")).expect("a link");
    // One that may read no folder of the node.
    let service = Service::start().await.synced().await;
    let path = tree.path("ctx");
    let built = cli(&service, &["build", "-q", "--builder", "classic", "-t", tree.name(), &path])
        .await
        .done();
    assert_eq!(built.trim(), by_docker(&tree, &[]));
    tree.write("other/Dockerfile", &format!("FROM {}\nCOPY . /x/\n", image()));
    let args = ["build", "-q", "-t", tree.name(), "-f", "../other/Dockerfile", &path];
    cli(&service, &args).await.done();
    let names = docker(&["run", "--rm", tree.name(), "busybox", "ls", "/x"]);
    assert_eq!(
        names.split_whitespace().collect::<Vec<_>>(),
        ["Dockerfile", "d", "hard", "out", "run"]
    );
    nothing_is_held(&service).await;

    let none = cli(&service, &["build", "-t", tree.name(), &tree.path("none")]).await;
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.err.contains("nothing at"), "{none:?}");
    let refused = cli(&service, &["build", "--on-node", "-t", tree.name(), &path]).await;
    assert!(refused.err.contains("build_roots"), "{refused:?}");
}

pub(super) fn tarball(url: String, sha256: &str, subdirectory: &str) -> From {
    let (sha256, subdirectory) = (sha256.to_owned(), subdirectory.to_owned());
    From::Tarball(pb::TarballSource { url, sha256, subdirectory })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tarball_is_fetched_checked_and_built() {
    let tree = Tree::new("COPY a /a\n", &[("a", "from a tarball")]);
    let service = Service::with(lenient).await.synced().await;
    let root = tree.root().display().to_string();
    for (more, folder, builder) in [
        (&["-z", "ctx"][..], "ctx", pb::BuilderKind::Classic),
        (&["--zstd", "ctx"], "./ctx/", pb::BuilderKind::Buildkit),
    ] {
        let bytes = packed(&tree, &root, more);
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        let server = source::Source::of(bytes, "\"a\"").await;
        let url = server.url("/app.tar.gz?sig=secret");
        let source = of(&tree, tarball(url.clone(), &sha256, folder));
        let request = pb::BuildImageRequest { builder: builder.into(), ..source };
        let told = build(&service, request).await;
        finished(&told);
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/a"]), "from a tarball");
        assert!(!format!("{:?}", told.0).contains("secret"), "{told:?}");

        let other = "0".repeat(64);
        let (code, told) = refusal(&service, of(&tree, tarball(url.clone(), &other, folder))).await;
        assert_eq!(code, Code::FailedPrecondition, "{told}");
        assert!(told.contains(&sha256) && !told.contains("secret"), "{told}");
        let (code, told) = refusal(&service, of(&tree, tarball(url, "", "none"))).await;
        assert_eq!(code, Code::InvalidArgument, "{told}");
        assert!(told.starts_with("source: ") && told.contains("(source)/none"), "{told}");
    }
    nothing_is_held(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tarball_comes_over_https_from_whom_an_authority_that_is_trusted_vouches_for() {
    let tree = Tree::new("COPY a /a\n", &[("a", "over https"), ("b", "")]);
    let bytes = packed(&tree, &tree.root().display().to_string(), &["-z", "ctx"]);
    let server = source::Source::of(bytes, "\"a\"").await;
    let secure = Secure::before(server.address).await;
    let service = secure.trusting().await;
    for host in ["localhost", "127.0.0.1"] {
        let url = secure.url(host, "/app.tar.gz");
        finished(&build(&service, of(&tree, tarball(url, "", "ctx"))).await);
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/a"]), "over https");
    }
    let asked = server.seen().len();
    let stranger = Service::with(lenient).await.synced().await;
    let url = secure.url("localhost", "/app.tar.gz");
    let (code, told) = refusal(&stranger, of(&tree, tarball(url, "", "ctx"))).await;
    assert_eq!(code, Code::FailedPrecondition, "{told}");
    assert!(told.contains("cannot be reached"), "{told}");
    assert_eq!(server.seen().len(), asked, "it was not even asked");
    nothing_is_held(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tarball_that_must_not_be_fetched_or_is_hostile_is_refused() {
    let tree = Tree::new("", &[("a", "a")]);
    let strict = Service::start().await.synced().await;
    for (url, words) in [
        ("http://example.com/a.tar", "asset_allow_http"),
        ("https://127.0.0.1/a.tar", "loopback"),
        ("https://localhost/a.tar", "loopback"),
        ("https://169.254.169.254/a.tar", "refused"),
        ("file:///etc/a.tar", "asset_file_roots"),
    ] {
        let (code, told) = refusal(&strict, of(&tree, tarball(url.into(), "", ""))).await;
        assert_eq!(code, Code::InvalidArgument, "{told}");
        assert!(told.starts_with("source.tarball.url") && told.contains(words), "{told}");
    }
    let service = Service::with(|config: &mut Config| {
        lenient(config);
        config.build_source_max_bytes = 100_000;
    });
    let service = service.await.synced().await;
    let ctx = tree.path("ctx");
    let up = packed(&tree, &ctx, &["--transform=s,^a$,../../evil,", "-P", "a"]);
    tree.write("ctx/large", &"x".repeat(200_000));
    let bomb = packed(&tree, &ctx, &["-z", "."]);
    let large = packed(&tree, &ctx, &["."]);
    for (bytes, expected, words) in [
        (up, Code::InvalidArgument, "contains \"..\""),
        (bomb, Code::ResourceExhausted, "build_source_max_bytes"),
        (large, Code::FailedPrecondition, "build_source_max_bytes"),
        (b"<html>".repeat(200), Code::InvalidArgument, "no tar archive"),
    ] {
        let server = source::Source::of(bytes, "\"a\"").await;
        let (code, told) = refusal(&service, of(&tree, tarball(server.url("/a"), "", ""))).await;
        assert_eq!(code, expected, "{told}");
        assert!(told.contains(words), "{words} in {told}");
    }
    let metadata = "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/x\r\n\r\n";
    let leads = source::Source::saying(metadata).await;
    let (code, told) = refusal(&service, of(&tree, tarball(leads.url("/a"), "", ""))).await;
    assert_eq!(code, Code::InvalidArgument, "{told}");
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let gone = source::Source::saying(gone).await;
    let (code, told) = refusal(&service, of(&tree, tarball(gone.url("/a"), "", ""))).await;
    assert_eq!((code, told.contains("is not there")), (Code::FailedPrecondition, true), "{told}");
    nothing_is_held(&service).await;
    assert!(!Path::new("/tmp/evil").exists());
}
