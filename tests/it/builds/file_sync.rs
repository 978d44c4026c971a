//! What BuildKit gets of a context, beside what the docker command gives it and beside
//! what the classic builder gets; and that it gets no file twice.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use container_svc::rpc::pb::{self, build_image_stream_response::Event};
use tonic::Code;

use super::{
    Mover, Tree,
    beside_docker::{LISTS, files, names},
    build,
    buildkit::by_buildkit,
    count, finished,
    sources::{of, packed, upload},
};
use crate::support::{Service, docker, unique, within};

/// Builds by a docker command that has BuildKit; where several are installed, one may
/// lack it.
fn by_docker(tree: &Tree) -> String {
    let mut told = String::new();
    for program in ["docker", "/usr/bin/docker"] {
        let mut docker = Command::new(program);
        let docker = docker.env("DOCKER_BUILDKIT", "1").args(["build", "-q"]).arg(tree.path("ctx"));
        let Ok(out) = docker.output() else { continue };
        let id = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        if id.starts_with("sha256:") {
            return id;
        }
        told += &String::from_utf8_lossy(&out.stderr);
    }
    panic!("no docker command with BuildKit: {told}")
}

/// Bytes of files that a build sent.
fn sent(events: &[Event]) -> i64 {
    let sent = events.iter().filter_map(|event| match event {
        Event::Progress(progress) if progress.id == "context" => Some(progress.current_bytes),
        _ => None,
    });
    sent.max().expect("it is told")
}

fn told_sent(told: &(Vec<Event>, Option<tonic::Status>)) -> i64 {
    finished(told);
    sent(&told.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dockerignore_leaves_buildkit_what_it_leaves_the_classic_builder() {
    let tree = names();
    // Layers of its own: the other test of these lists removes its, and BuildKit lets builds
    // that run at once share their steps, with the failures of those that are meant to fail.
    let (base, own) = (crate::support::image(), unique("own"));
    tree.write("ctx/Dockerfile", &format!("FROM {base}\nWORKDIR /{own}\nCOPY . /ctx/\n"));
    let service = tree.service().await;
    for (list, expected) in LISTS {
        tree.write("ctx/.dockerignore", list);
        let classic = build(&service, tree.request()).await;
        let told = build(&service, by_buildkit(&tree)).await;
        let ours = files(&finished(&told).image_id);
        assert_eq!(ours, files(&finished(&classic).image_id), "for {list:?}");
        if let Some(expected) = expected {
            assert_eq!(ours, expected, "for {list:?}");
        }
        let warned = |event: &Event| matches!(event, Event::Warning(_));
        assert_eq!(count(&told.0, warned), 0, "{list:?}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_is_listed_or_lies_outside_is_kept_from_the_steps() {
    let all = ["a", "b", "docs/a.md", "docs/deep/b.md", "docs/deep/c.txt", "x/a", ".hidden"];
    let all: Vec<_> = all.iter().map(|path| (*path, *path)).collect();
    let tree = Tree::new("COPY . /ctx/\n", &all);
    let service = tree.service().await;
    for (list, copied) in [
        ("", true),
        ("b\n**/*.md\n", true),
        ("docs/*\n!docs/deep\n", true),
        ("*\n!a\n!Dockerfile\n", true),
        (".dockerignore\n", true),
        ("Dockerfile\n", false),
        ("Dockerfile\n.dockerignore\n**/a\n", false),
        ("*\n!a\n", false),
    ] {
        tree.write("ctx/.dockerignore", list);
        let ours = files(&finished(&build(&service, by_buildkit(&tree)).await).image_id);
        assert_eq!(ours, files(&by_docker(&tree)), "{list:?}");
        assert_eq!(ours.contains("Dockerfile"), copied, "{list:?}: {ours}");
    }
    let text = fs::read_to_string(tree.root().join("ctx/Dockerfile")).expect("a file");
    tree.write("ctx/Dockerfile", &format!("{text}COPY Dockerfile /stolen\n"));
    let (_, refused) = build(&service, by_buildkit(&tree)).await;
    let refused = refused.expect("there is none");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

    tree.write("other/My.file", &text);
    tree.write("other/My.file.dockerignore", "docs\nx\n");
    let request =
        pb::BuildImageRequest { dockerfile_path: "../other/My.file".into(), ..by_buildkit(&tree) };
    let ours = files(&finished(&build(&service, request).await).image_id);
    assert_eq!(ours, "./.dockerignore ./.hidden ./Dockerfile ./a ./b");
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_modes_links_sizes_and_times_are_those_of_the_docker_command() {
    let tree = Tree::new(
        "COPY . /ctx/\n",
        &[("run", "#!/bin/sh"), ("d/x", "x"), ("private/y", "y"), ("ä b", "umlaut")],
    );
    let at = |path: &str| tree.root().join("ctx").join(path);
    let mode = |path: &str, mode| {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode("run", 0o4755);
    mode("private", 0o1700);
    for (link, to) in [("out", "/etc/shadow"), ("d/up", "../../etc/shadow"), ("gone", "nothing")] {
        symlink(to, at(link)).expect("a link");
    }
    fs::hard_link(at("d/x"), at("hard")).expect("a link");
    assert!(Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo").success());
    let deep = ["a-rather-long-name-of-a-folder"; 8].join("/");
    tree.write(&format!("ctx/{deep}/{}", "f".repeat(200)), "deep");
    fs::File::create(at("sparse")).expect("a file").set_len(64 << 20).expect("a hole");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(at("run")).expect("it").set_modified(old).expect("a time");

    let service = tree.service().await;
    let listed = |image: &str| {
        let list = "cd /ctx && busybox find . -mindepth 1 -exec \
                    busybox stat -c '%N %a %u:%g %h %s %F %Y' {} + | busybox sort && \
                    busybox find . -type f -exec busybox sha256sum {} + | busybox sort";
        docker(&["run", "--rm", image, "sh", "-c", list])
    };
    let ours = listed(&finished(&build(&service, by_buildkit(&tree)).await).image_id);
    let theirs = listed(&by_docker(&tree));
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
    for part in ["./run 4755 0:0", "'./out' -> '/etc/shadow'", "1000000000", "./hard 644 0:0 2 1"] {
        assert!(ours.replace('\'', "").contains(&part.replace('\'', "")), "{part} in {ours}");
    }
}

/// Builds until so many bytes are sent. BuildKit may not have let go yet of what the build
/// before gave it, and then it takes all of it anew; the tree is changed before each build.
async fn sends(
    service: &Service,
    tree: &Tree,
    bytes: i64,
    change: impl Fn(usize),
) -> (Vec<Event>, Option<tonic::Status>) {
    let (turn, done) = (Cell::new(0), OnceLock::new());
    within(Duration::from_secs(60), &format!("a build sends {bytes} bytes"), || async {
        change(turn.replace(turn.get() + 1));
        let told = build(service, by_buildkit(tree)).await;
        told_sent(&told) == bytes && done.set(told).is_ok()
    })
    .await;
    done.into_inner().expect("it was built")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_sent_once_and_again_when_it_changed_also_with_its_old_time() {
    let word = unique("once");
    let large = word.repeat(20_000);
    let tree = Tree::new("COPY . /ctx/\n", &[("large", &large), ("small", "one")]);
    let service = tree.service().await;
    let of_all = i64::try_from(large.len()).expect("a number");
    assert!(told_sent(&build(&service, by_buildkit(&tree)).await) > of_all);
    let again = sends(&service, &tree, 0, |_| {}).await;
    let cached = |event: &Event| matches!(event, Event::Cached(_));
    assert!(count(&again.0, cached) > 0, "{again:?}");

    // Another content of the same length, and the time of the one before.
    let path = tree.root().join("ctx/small");
    let time = fs::metadata(&path).and_then(|about| about.modified()).expect("a time");
    let change = |turn: usize| {
        fs::write(&path, format!("{turn:03}")).expect("a file");
        let file = fs::File::options().write(true).open(&path).expect("it");
        file.set_modified(time).expect("a time");
    };
    sends(&service, &tree, 3, change).await;
    let content = fs::read_to_string(&path).expect("a file");
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/ctx/small"]), content);

    // What is gone is gone, and another folder is another context.
    fs::remove_file(&path).expect("removed");
    sends(&service, &tree, 0, |_| {}).await;
    assert!(!files(tree.name()).contains("small"));
    let other = Tree::new("COPY . /ctx/\n", &[("large", &large)]);
    let service = other.service().await;
    assert!(told_sent(&build(&service, by_buildkit(&other)).await) > of_all);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_steps_name_is_sent_with_what_links_lead_to() {
    let large = "x".repeat(1 << 20);
    let tree = Tree::new(
        "COPY package*.json src/a /x/\n",
        &[("package.json", "p"), ("src/a/in", "a"), ("src/b/large", &large), ("large", &large)],
    );
    let service = tree.service().await;
    let told = build(&service, by_buildkit(&tree)).await;
    assert_eq!(told_sent(&told), 2, "{told:?}");
    let list = "cd /x && busybox find . -type f | busybox sort";
    let list = docker(&["run", "--rm", tree.name(), "sh", "-c", list]);
    assert_eq!(list, "./in\n./package.json");

    symlink("src/a", tree.root().join("ctx/link")).expect("a link");
    let text = fs::read_to_string(tree.root().join("ctx/Dockerfile")).expect("a file");
    tree.write("ctx/Dockerfile", &text.replace("src/a", "link/in"));
    finished(&build(&service, by_buildkit(&tree)).await);
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/x/in"]), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_dockerignore_reaches_buildkit() {
    let mut list: String = (0..9_000).fold(String::new(), |list, at| {
        list + &format!("a/rather/long/path/of/something/that/is/not/there/{at}/ä\n")
    });
    list += "b\n";
    let tree = Tree::new("COPY . /ctx/\n", &[("a", ""), ("b", ""), (".dockerignore", &list)]);
    let service = tree.service().await;
    let ours = files(&finished(&build(&service, by_buildkit(&tree)).await).image_id);
    assert_eq!(ours, "./.dockerignore ./Dockerfile ./a");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_the_same_names_sizes_and_times_are_not_mixed_up() {
    let tree = Tree::new("COPY a /a\n", &[("a", "one")]);
    let service = tree.service().await;
    for content in ["one", "two"] {
        tree.write("ctx/a", content);
        packed(&tree, &tree.path("ctx"), &["--mtime=@0", "."]);
        let (status, uploaded) = upload(&service, &tree).await;
        assert_eq!(status, 200, "{uploaded}");
        let id = uploaded["uploadId"].as_str().expect("an id").to_owned();
        let request = pb::BuildImageRequest {
            builder: pb::BuilderKind::Buildkit.into(),
            ..of(&tree, pb::build_source::Source::UploadId(id))
        };
        finished(&build(&service, request).await);
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/a"]), content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_200_mebibytes_and_6000_files_pass_in_little_memory() {
    let tree = Tree::new("COPY . /ctx/\n", &[("small", "small")]);
    let large = fs::File::create(tree.root().join("ctx/large")).expect("a file");
    large.set_len(200 << 20).expect("a hole");
    for folder in 0..30 {
        let folder = tree.root().join(format!("ctx/d{folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..200 {
            fs::write(folder.join(format!("f{file}")), format!("{file}")).expect("a file");
        }
    }
    let root = tree.root().to_owned();
    let service = Service::program(|config| config.build_roots = vec![root]).await.synced().await;
    let told = build(&service, by_buildkit(&tree)).await;
    assert!(told_sent(&told) > 200 << 20);
    let count = "busybox find /ctx -type f | busybox wc -l";
    assert_eq!(docker(&["run", "--rm", tree.name(), "sh", "-c", count]), "6003");
    let most = service.most_memory();
    assert!(most < 100 << 20, "{most} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_told_as_by_the_classic_builder() {
    let tree = Tree::new("COPY . /ctx/\n", &[("a", "a")]);
    let null = tree.root().join("ctx/null");
    let made = Command::new("mknod").arg(&null).args(["c", "1", "3"]).status();
    if !made.is_ok_and(|made| made.success()) {
        return; // This machine lets nobody make devices.
    }
    let service = tree.service().await;
    let (_, classic) = build(&service, tree.request()).await;
    let (events, ours) = build(&service, by_buildkit(&tree)).await;
    let (classic, ours) = (classic.expect("a device"), ours.expect("a device"));
    assert_eq!((ours.code(), ours.message()), (classic.code(), classic.message()));
    assert!(ours.message().contains("null") && ours.message().contains("device"), "{ours:?}");
    assert_eq!(count(&events, |event| matches!(event, Event::Failed(_))), 0, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_changes_while_buildkit_takes_it_gives_an_image_or_a_clear_error() {
    let tree = Tree::new("COPY . /ctx/\n", &[]);
    let mover = Mover::start(&tree);
    let service = tree.service().await;
    for _ in 0..10 {
        if let (_, Some(status)) = build(&service, by_buildkit(&tree)).await {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            let told = status.message();
            assert!(told.contains("shorter") || told.contains("went away"), "{status:?}");
        }
    }
    mover.end();
    finished(&build(&service, by_buildkit(&tree)).await);
    let grep = "busybox grep -rl root: /ctx | busybox wc -l";
    assert_eq!(
        docker(&["run", "--rm", tree.name(), "sh", "-c", grep]),
        "0",
        "no link was followed"
    );
}
