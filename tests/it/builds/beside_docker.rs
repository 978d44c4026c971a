//! Our context beside that of the docker command, on the same tree.
//!
//! An image's id covers the paths, modes, links and bytes of what was copied. So
//! the same id means the same context.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    process::Command,
};

use container_svc::rpc::pb::{self, build_image_stream_response::Event};

use super::{Mover, Tree, build, count, finished};
use crate::support::docker;

const COPY: &str = "COPY . /ctx/\n";

/// Builds by the docker command with the classic builder, of whatever version.
pub(super) fn by_docker(tree: &Tree, more: &[&str]) -> String {
    let out = Command::new("docker")
        .env("DOCKER_BUILDKIT", "0")
        .args(["build", "-q"])
        .args(more)
        .arg(tree.path("ctx"))
        .output()
        .expect("the docker command");
    let told = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    assert!(told.starts_with("sha256:"), "{told} {}", String::from_utf8_lossy(&out.stderr));
    told
}

pub(super) fn files(image: &str) -> String {
    // The engine may lose what a container wrote last when its disk is busy: what lacks its
    // end is asked for again.
    let find = "cd /ctx && busybox find . -mindepth 1 | busybox sort && echo all";
    let run = ["run", "--rm", "--network=none", image, "sh", "-c", find];
    let told = (0..5).find_map(|_| docker(&run).strip_suffix("all").map(str::to_owned));
    told.expect("the image is listed").trim().replace('\n', " ")
}

/// Lists of what stays out, and what is left where that is worth saying.
pub(super) const LISTS: [(&str, Option<&str>); 30] = [
    ("", None),
    ("*\n!a", Some("./a")),
    ("a\nb\n# no\nc.md\n\n  docs/  ", None),
    ("/src/lib\n./x//y/", None),
    ("*.md\n!README.md", None),
    ("!README.md\n*.md", None),
    ("**/*.md", None),
    ("**/node_modules", None),
    ("docs/**", None),
    ("docs/**/b.md", None),
    ("docs/*\n!docs/deep", None),
    ("docs\n!docs/deep/b.md", None),
    ("docs\n!docs/deep\ndocs/deep/c.txt", None),
    ("docs\n!**/b.md", None),
    ("*\n!src/**\nsrc/lib/mod.rs", None),
    ("*\n!x/y/z", Some("./x ./x/y ./x/y/z ./x/y/z/w")),
    ("**", None),
    ("*", None),
    ("**\n!docs/deep/*.txt", None),
    ("[a-c]", None),
    ("[^a]*", None),
    ("a\\*\n\\[x\\]", None),
    ("?", None),
    ("*/*/*", None),
    ("Dockerfile\n.dockerignore\n**/.hidden", None),
    ("\u{feff}a\r\nb\r\n", None),
    ("..\n/\n.\n../x", None),
    ("  # indented\n! docs/a.md\nä*", None),
    ("secret.txt\n!secret.txt\nx/secret.txt", None),
    ("x/../a", None),
];

/// A tree with most kinds of names.
pub(super) fn names() -> Tree {
    let all = [
        "a",
        "b",
        "c.md",
        "README.md",
        "docs/a.md",
        "docs/deep/b.md",
        "docs/deep/c.txt",
        "src/main.rs",
        "src/lib/mod.rs",
        "src/lib/a",
        "node_modules/x/index.js",
        "src/node_modules/y",
        "a*",
        "a b",
        "[x]",
        ".hidden",
        "x/y/z/w",
        "x/y/k",
        "secret.txt",
        "x/secret.txt",
        "ä.txt",
    ];
    let files: Vec<_> = all.iter().map(|path| (*path, *path)).collect();
    Tree::new(COPY, &files)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dockerignore_sends_what_the_docker_command_sends() {
    let tree = names();
    let service = tree.service().await;
    let mut seen = std::collections::BTreeSet::new();
    for (list, expected) in LISTS {
        tree.write("ctx/.dockerignore", list);
        let theirs = by_docker(&tree, &[]);
        let told = build(&service, tree.request()).await;
        let ours = finished(&told).image_id;
        let (a, b) = (files(&theirs), files(&ours));
        assert_eq!(ours, theirs, "for {list:?} docker sends {a}\nand we send {b}");
        if let Some(expected) = expected {
            assert_eq!(b, expected, "for {list:?}");
        }
        seen.insert(ours);
    }
    assert!(seen.len() > 20, "the lists differ: {}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_text_are_left_out_as_the_docker_command_leaves_them_out() {
    let tree = Tree::new(COPY, &[]);
    let names = [&b"\xe4"[..], b"\xf6", b"\xe4x", b"\xf6x", b"a\xe4", "\u{fffd}".as_bytes(), b"xx"];
    for name in names {
        fs::write(tree.root().join("ctx").join(OsStr::from_bytes(name)), name).expect("a file");
    }
    let service = tree.service().await;
    let mut seen = std::collections::BTreeSet::new();
    for list in [
        &b"\xe4"[..],
        b"\xe4*",
        b"\xe4**",
        b"**/\xe4",
        b"**\xe4",
        b"?",
        b"?x",
        "[\u{fffd}]".as_bytes(),
        b"[^a]x",
        b"*\n!\xe4",
        b" \xe4 \n\xf6\xa0",
    ] {
        fs::write(tree.path("ctx/.dockerignore"), list).expect("a list");
        let theirs = by_docker(&tree, &[]);
        let ours = finished(&build(&service, tree.request()).await).image_id;
        let (a, b) = (files(&theirs), files(&ours));
        assert_eq!(ours, theirs, "for {list:?} docker sends {a:?}\nand we send {b:?}");
        seen.insert(ours);
    }
    assert!(seen.len() > 6, "the lists differ: {}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_links_long_names_and_large_files_arrive_as_docker_sends_them() {
    let tree = Tree::new(COPY, &[("run", "#!/bin/sh"), ("d/x", "x"), ("private/y", "y")]);
    let at = |path: &str| tree.root().join("ctx").join(path);
    let mode = |path: &str, mode| {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode("run", 0o4755);
    mode("private", 0o700);
    symlink("/etc/shadow", at("absolute")).expect("a link");
    symlink("../../../../etc/shadow", at("d/beyond")).expect("a link");
    symlink("nothing", at("dangling")).expect("a link");
    symlink("d", at("folder")).expect("a link");
    symlink("x".repeat(300), at("far")).expect("a link");
    fs::hard_link(at("d/x"), at("hard")).expect("a link");
    let deep = ["a-rather-long-name-of-a-folder"; 8].join("/");
    tree.write(&format!("ctx/{deep}/{}", "f".repeat(200)), "deep");
    let sparse = fs::File::create(at("sparse")).expect("a file");
    sparse.set_len(64 << 20).expect("a hole");
    let service = tree.service().await;
    let theirs = by_docker(&tree, &[]);
    assert_eq!(finished(&build(&service, tree.request()).await).image_id, theirs);
    let shadow = docker(&["run", "--rm", &theirs, "cat", "/ctx/absolute"]);
    assert_eq!(shadow, "", "what a link leads to was not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_elsewhere_and_one_by_a_link_build_as_docker_builds_them() {
    let tree = Tree::new("", &[("a", "a"), (".dockerignore", "b"), ("b", "b")]);
    tree.write("other/Dockerfile", &format!("FROM scratch\n{COPY}"));
    let service = tree.service().await;
    let outside = tree.path("other/Dockerfile");
    let request =
        |path: &str| pb::BuildImageRequest { dockerfile_path: path.into(), ..tree.request() };
    for path in [outside.as_str(), "../other/Dockerfile"] {
        let told = build(&service, request(path)).await;
        let made = finished(&told).image_id;
        let list = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "id=$(docker create {made} x) && docker export $id | tar t; docker rm $id >&2"
            ))
            .output()
            .expect("sh");
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let of_ours: Vec<_> =
            list.lines().filter(|line| line.starts_with("ctx/") && line.len() > 4).collect();
        assert_eq!(of_ours, ["ctx/.dockerignore", "ctx/Dockerfile", "ctx/a"], "{path}");
    }
    tree.write("ctx/Real", &format!("FROM {}\n{COPY}", crate::support::image()));
    symlink("Real", tree.root().join("ctx/Link")).expect("a link");
    let theirs = by_docker(&tree, &["-f", &tree.path("ctx/Link")]);
    assert_eq!(finished(&build(&service, request("Link")).await).image_id, theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_files_arrive_as_docker_sends_them() {
    let tree = Tree::new(COPY, &[]);
    for folder in 0..100 {
        let folder = tree.root().join(format!("ctx/d{folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..200 {
            fs::write(folder.join(format!("f{file}")), format!("{file}")).expect("a file");
        }
    }
    let service = tree.service().await;
    let told = build(&service, tree.request()).await;
    let ours = finished(&told).image_id;
    assert_eq!(ours, by_docker(&tree, &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_are_not_read_sockets_are_left_out_and_devices_refused() {
    let tree = Tree::new("COPY a /a\n", &[("a", "a")]);
    let at = |path: &str| tree.root().join("ctx").join(path);
    assert!(Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo").success());
    let _socket = UnixListener::bind(at("socket")).expect("a socket");
    let service = tree.service().await;
    let told = build(&service, tree.request()).await;
    finished(&told);
    let warned = |event: &Event| matches!(event, Event::Warning(w) if w.message.contains("socket"));
    assert_eq!(count(&told.0, warned), 1, "{told:?}");

    let made = Command::new("mknod").arg(at("null")).args(["c", "1", "3"]).status();
    if !made.is_ok_and(|made| made.success()) {
        return; // This machine lets nobody make devices.
    }
    let (_, refused) = build(&service, tree.request()).await;
    let refused = refused.expect("a device");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("null") && refused.message().contains("device"));
    tree.write("ctx/.dockerignore", "null");
    finished(&build(&service, tree.request()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_changes_while_it_is_read_gives_an_image_or_a_clear_error() {
    let tree = Tree::new(COPY, &[]);
    let mover = Mover::start(&tree);
    let service = tree.service().await;
    for _ in 0..10 {
        match build(&service, tree.request()).await {
            (events, None) => {
                assert!(matches!(events.last(), Some(Event::Finished(_))), "{events:?}");
            }
            (_, Some(status)) => {
                assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
                assert!(status.message().contains("shorter"), "{status:?}");
            }
        }
    }
    mover.end();
    let told = build(&service, tree.request()).await;
    let image = finished(&told).image_id;
    let grep = "busybox grep -rl root: /ctx | busybox wc -l";
    assert_eq!(docker(&["run", "--rm", &image, "sh", "-c", grep]), "0", "no link was followed");
}
