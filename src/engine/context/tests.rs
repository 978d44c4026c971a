//! What is sent of a tree, and what never is.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use tempfile::TempDir;

use super::*;
use crate::domain::Kind;

mod any_tree;

pub(super) fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

async fn opened(root: &Path, folder: &Path, dockerfile: &str) -> Result<Context> {
    let folder = folder.to_str().unwrap().to_owned();
    Context::open(vec![root.to_owned()], folder, dockerfile.to_owned()).await
}

/// What is sent, as GNU tar reads it, and the warnings.
async fn sent(context: Context) -> Result<(Vec<u8>, Vec<String>)> {
    let Sending { mut archive, mut warnings, state } = context.send();
    let mut bytes = Vec::new();
    while let Some(piece) = archive.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => return Err(state.failure().unwrap()),
        }
    }
    let mut told = Vec::new();
    while let Some(warning) = warnings.recv().await {
        told.push(warning);
    }
    assert_eq!(state.sent(), bytes.len() as u64);
    Ok((bytes, told))
}

fn tar(bytes: &[u8], args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.tar");
    fs::write(&file, bytes).unwrap();
    let out = Command::new("tar").args(args).arg("-f").arg(file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

async fn listed(dir: &TempDir) -> Vec<String> {
    let context = opened(dir.path(), dir.path(), "").await.unwrap();
    let (bytes, _) = sent(context).await.unwrap();
    tar(&bytes, &["-t"]).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_tree_is_sent_sorted_with_its_modes_and_links() {
    let dir = tree(&[("Dockerfile", "FROM a"), ("b/z", "zz"), ("b/a", "a"), ("a.b", "")]);
    let at = |path: &str| dir.path().join(path);
    fs::set_permissions(at("b/z"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", at("out")).unwrap();
    std::os::unix::fs::symlink("../../..", at("b/up")).unwrap();
    fs::hard_link(at("b/a"), at("c")).unwrap();
    let long = "l".repeat(200);
    fs::write(at(&long), "long").unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

    let context = opened(dir.path(), dir.path(), "").await.unwrap();
    let (bytes, warnings) = sent(context).await.unwrap();
    let names = tar(&bytes, &["-t"]);
    let expected =
        ["Dockerfile", "a.b", "b/", "b/a", "b/up", "b/z", "c", "fifo", long.as_str(), "out"];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
    assert_eq!(warnings, ["the socket \"socket\" is left out"]);
    let told = tar(&bytes, &["-tv", "--numeric-owner"]);
    for part in ["-rwsr-xr-x 0/0", "out -> /etc/shadow", "up -> ../../..", "c link to b/a", "prw"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert_eq!(tar(&bytes, &["-xO", &long]), "long");

    let again = opened(dir.path(), dir.path(), "").await.unwrap();
    assert!(sent(again).await.unwrap().0 == bytes, "the same tree is the same bytes");
}

#[tokio::test]
async fn what_is_listed_stays_out_but_for_what_the_build_needs() {
    let dir = tree(&[
        ("Dockerfile", "FROM a"),
        (".dockerignore", "*\n!a\n!b/keep\n"),
        ("a/x", ""),
        ("b/keep", ""),
        ("b/drop", ""),
        ("c", ""),
    ]);
    assert_eq!(listed(&dir).await, [".dockerignore", "Dockerfile", "a/", "a/x", "b/keep"]);
}

#[tokio::test]
async fn a_list_of_the_dockerfiles_own_wins_and_its_dockerfile_comes_beside() {
    let dir = tree(&[
        ("Dockerfile", "FROM a"),
        ("Dockerfile.dockerignore", "Dockerfile*\n.dockerignore\n"),
        (".dockerignore", "*"),
        ("a", ""),
    ]);
    let context = opened(dir.path(), dir.path(), "").await.unwrap();
    let name = context.dockerfile_path.clone();
    let (bytes, _) = sent(context).await.unwrap();
    assert_eq!(tar(&bytes, &["-t"]), format!("a\n.dockerignore\n{name}\n"));
    assert_eq!(tar(&bytes, &["-xO", ".dockerignore"]), format!(".dockerignore\n{name}\n"));
    assert_eq!(tar(&bytes, &["-xO", &name]), "FROM a");
}

#[tokio::test]
async fn a_list_of_the_dockerfiles_own_goes_by_the_name_that_was_given() {
    let dir = tree(&[
        ("Real", "FROM a"),
        ("Real.dockerignore", "*"),
        ("Link.dockerignore", "b"),
        ("a", ""),
        ("b", ""),
    ]);
    std::os::unix::fs::symlink("Real", dir.path().join("Link")).unwrap();
    let context = opened(dir.path(), dir.path(), "Link").await.unwrap();
    let (bytes, _) = sent(context).await.unwrap();
    let names = tar(&bytes, &["-t"]);
    assert!(names.contains("\na\n") && !names.contains("\nb\n"), "{names}");
}

/// Folders below this one that the process holds open.
fn held(dir: &TempDir) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter(|fd| fs::read_link(fd.path()).is_ok_and(|at| at.starts_with(dir.path()))).count()
}

#[tokio::test]
async fn a_deep_tree_is_sent_whole_and_few_of_its_folders_are_open_at_once() {
    let dir = tree(&[("Dockerfile", "FROM a")]);
    let (mut path, mut expected) = (dir.path().to_owned(), vec!["Dockerfile".to_owned()]);
    let mut below = String::new();
    for depth in 0..190 {
        path.push("d");
        fs::create_dir(&path).unwrap();
        // What comes after the folder below is found when all of that is done.
        fs::write(path.join("z"), "").unwrap();
        below.push_str("d/");
        expected.push(below.clone());
        if depth == 189 {
            fs::write(path.join("large"), vec![b'x'; 4 << 20]).unwrap();
            expected.push(format!("{below}large"));
        }
    }
    for depth in (1..=190).rev() {
        expected.push(format!("{}z", "d/".repeat(depth)));
    }
    let Sending { mut archive, .. } = opened(dir.path(), dir.path(), "").await.unwrap().send();
    // It stands in the middle of the large file, the deepest of all.
    let mut bytes = archive.next().await.unwrap().unwrap().to_vec();
    let open = held(&dir);
    while let Some(piece) = archive.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert!((2..30).contains(&open), "{open}");
    assert_eq!(tar(&bytes, &["-t"]).lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_folder_that_was_exchanged_while_it_was_closed_is_not_read() {
    let dir = tree(&[("Dockerfile", "FROM a"), ("other/z", "other")]);
    let deep = dir.path().join("d/".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("large"), vec![b'x'; 8 << 20]).unwrap();
    fs::write(dir.path().join("d/d/d/z"), "its own").unwrap();
    let Sending { mut archive, mut warnings, .. } =
        opened(dir.path(), dir.path(), "").await.unwrap().send();
    let mut bytes = archive.next().await.unwrap().unwrap().to_vec();
    fs::rename(dir.path().join("d/d/d"), dir.path().join("away")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("other"), dir.path().join("d/d/d")).unwrap();
    while let Some(piece) = archive.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    let told = warnings.recv().await.unwrap();
    assert!(told.contains("went away"), "{told}");
    assert!(!tar(&bytes, &["-t"]).contains("d/d/d/z"));
}

#[tokio::test]
async fn a_walk_that_nobody_wants_ends_though_it_has_nothing_to_send() {
    let dir = tree(&[("Dockerfile", "FROM a"), (".dockerignore", "out\n!out/none\n")]);
    for folder in 0..50 {
        let folder = dir.path().join(format!("out/{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..200 {
            fs::write(folder.join(file.to_string()), "").unwrap();
        }
    }
    let context = opened(dir.path(), dir.path(), "").await.unwrap();
    let asked = std::cell::Cell::new(0);
    let wanted = || {
        asked.set(asked.get() + 1);
        asked.get() < 100
    };
    let (mut take, mut tell) = (|_| panic!("nothing is sent"), |_| {});
    let end = context.write(Archive(Pieces::new(&mut take, &mut tell, &wanted)));
    assert!(matches!(end, Err(Stop::Unread)));
    assert_eq!(asked.get(), 100);
}

#[tokio::test]
async fn a_dockerfile_outside_of_the_context_comes_beside() {
    let dir = tree(&[("ctx/a", ""), ("ctx/.dockerignore", "b"), ("other/Dockerfile", "FROM a")]);
    let folder = dir.path().join("ctx");
    for path in ["../other/Dockerfile", dir.path().join("other/Dockerfile").to_str().unwrap()] {
        let context = opened(dir.path(), &folder, path).await.unwrap();
        let name = context.dockerfile_path.clone();
        let (bytes, _) = sent(context).await.unwrap();
        assert_eq!(tar(&bytes, &["-t"]), format!("a\n.dockerignore\n{name}\n"));
        assert_eq!(tar(&bytes, &["-xO", ".dockerignore"]), format!("b\n!.dockerignore\n{name}\n"));
    }
}

#[tokio::test]
async fn nothing_outside_of_the_roots_is_opened_or_told() {
    let (inside, outside) = (tree(&[("ctx/Dockerfile", "FROM a")]), tree(&[("Dockerfile", "x")]));
    let (root, ctx) = (inside.path(), inside.path().join("ctx"));
    let link = inside.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    std::os::unix::fs::symlink(outside.path().join("Dockerfile"), ctx.join("Out")).unwrap();
    std::os::unix::fs::symlink(ctx.join("Dockerfile"), ctx.join("In")).unwrap();
    let beyond = format!("{}/../..", root.display());
    for (folder, dockerfile, words) in [
        (outside.path(), "", "lies outside"),
        (Path::new("/nowhere/at/all"), "", "lies outside"),
        (Path::new(&beyond), "", "lies outside"),
        (Path::new("relative"), "", "not absolute"),
        (&link, "", "leads by a link out"),
        (&root.join("missing"), "", "nothing at"),
        (&ctx.join("Dockerfile"), "", "no folder"),
        (&ctx, "Missing", "no Dockerfile at"),
        (&ctx, "../../../../etc/passwd", "lies outside"),
        (&ctx, "/etc/passwd", "lies outside"),
        (&ctx, "Out", "leads by a link out"),
        (&ctx, "../ctx", "cannot be used"),
        (root, "", "no Dockerfile at"),
    ] {
        let error = opened(root, folder, dockerfile).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(error.message().contains(words), "{words} in {error}");
    }
    assert_eq!(opened(root, &ctx, "In").await.unwrap().dockerfile_path, "Dockerfile");
}

#[tokio::test]
async fn what_a_link_leads_out_to_is_not_even_asked_about() {
    let dir = tree(&[("ctx/Dockerfile", "FROM a")]);
    let (root, ctx) = (dir.path(), dir.path().join("ctx"));
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, ctx.join(name)).unwrap();
    link("/", "x");
    link(&"../".repeat(30), "up");
    link("/etc/nope/../passwd", "through");
    let said = async |path: &str| {
        let error = opened(root, &ctx, path).await.unwrap_err();
        error.message().replace(&format!("{:?}", ctx.join(path)), "it")
    };
    let told = said("x/etc/passwd").await;
    assert!(told.contains("leads by a link out"), "{told}");
    for path in ["x/etc/nope", "x/etc/passwd/none", "x", "up/etc/passwd", "up/nope", "through"] {
        assert_eq!(said(path).await, told, "{path}");
    }
    let back = format!("../../{}/ctx/Dockerfile", root.file_name().unwrap().display());
    link(&back, "Back");
    link("Round", "Round");
    assert_eq!(opened(root, &ctx, "Back").await.unwrap().dockerfile_path, "Dockerfile");
    assert!(said("Round").await.contains("cannot be used"));
    link("x/etc/nope", ".dockerignore");
    let error = opened(root, &ctx, "").await.unwrap_err();
    assert!(error.message().contains("leads out"), "{error}");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_fails_and_one_that_grows_does_not() {
    use std::{io::Write as _, sync::atomic::AtomicBool};
    let dir = tree(&[("Dockerfile", "FROM a")]);
    let path = dir.path().join("grows");
    fs::write(&path, vec![b'x'; 8 << 20]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (ends, grows) = (stop.clone(), path.clone());
    let writer = std::thread::spawn(move || {
        let mut file = fs::OpenOptions::new().append(true).open(grows).unwrap();
        while !ends.load(Ordering::Relaxed) {
            file.write_all(b"more").unwrap();
        }
    });
    let context = opened(dir.path(), dir.path(), "").await.unwrap();
    let (bytes, _) = sent(context).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(tar(&bytes, &["-t"]), "Dockerfile\ngrows\n", "the archive is sound");

    // Nobody reads on until the file is short: the pieces that wait are bounded.
    fs::write(&path, vec![b'x'; 8 << 20]).unwrap();
    let Sending { mut archive, state, .. } =
        opened(dir.path(), dir.path(), "").await.unwrap().send();
    archive.next().await.unwrap().unwrap();
    fs::write(&path, "short").unwrap();
    while archive.next().await.is_some() {}
    let error = state.failure().unwrap();
    assert_eq!((error.kind(), error.reason()), (Kind::FailedPrecondition, "CONTEXT_UNUSABLE"));
    assert!(error.message().contains("grows") && error.message().contains("shorter"), "{error}");
}

#[tokio::test]
async fn a_sparse_file_of_two_gibibytes_is_sent_whole_and_few_pieces_of_it_wait() {
    const SIZE: u64 = 2 << 30;
    let dir = tree(&[("Dockerfile", "FROM a")]);
    fs::File::create(dir.path().join("sparse")).unwrap().set_len(SIZE).unwrap();
    let Sending { mut archive, state, .. } =
        opened(dir.path(), dir.path(), "").await.unwrap().send();
    let mut taken = 0;
    while let Some(piece) = archive.next().await {
        taken += piece.unwrap().len() as u64;
        // The queue, the piece in hand and the one that is being filled.
        assert!(state.sent() - taken <= (AHEAD as u64 + 3) * (256 << 10));
    }
    assert!((SIZE..SIZE + 8192).contains(&taken), "{taken}");
}

/// A folder so deep that its path has that many bytes, opened.
fn deep(dir: &Path, mut length: usize) -> (OwnedFd, Vec<u8>) {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = open(dir, flags, Mode::empty()).unwrap();
    let mut path = Vec::new();
    while length > 0 {
        let name = "d".repeat(length.min(199));
        mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
        path.extend_from_slice(name.as_bytes());
        path.push(b'/');
        length = length.saturating_sub(200);
    }
    path.pop();
    (at, path)
}

#[tokio::test]
async fn a_path_longer_than_the_kernel_takes_is_told_unless_it_is_left_out() {
    let dir = tree(&[("Dockerfile", "FROM a")]);
    let (folder, path) = deep(dir.path(), 4090);
    assert_eq!(path.len(), 4090);
    let touch = |name: &str| {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&folder, name, flags, rustix::fs::Mode::empty()).unwrap();
    };
    touch("fits5");
    assert_eq!(listed(&dir).await.last().unwrap().len(), 4096);
    touch("longer");
    let error = sent(opened(dir.path(), dir.path(), "").await.unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::FailedPrecondition, "CONTEXT_UNUSABLE"));
    assert!(error.message().contains("more than 4096 bytes"), "{error}");
    fs::write(dir.path().join(".dockerignore"), "**/longer").unwrap();
    assert_eq!(listed(&dir).await.last().unwrap().len(), 4096);
}

/// Takes all and keeps nothing.
struct Nothing;

impl walk::Sink for Nothing {
    fn go_on(&self) -> Result<(), Stop> {
        Ok(())
    }

    fn tell(&mut self, _: String) {}

    fn folder(&mut self, _: &walk::Entry<'_>, _: bool) -> Result<(), Stop> {
        Ok(())
    }

    fn entry(&mut self, _: &walk::Entry<'_>) -> Result<(), Stop> {
        Ok(())
    }

    fn file(&mut self, _: &walk::Entry<'_>, _: &fs::File) -> Result<(), Stop> {
        Ok(())
    }
}

#[test]
fn the_paths_of_hard_links_take_no_more_memory_than_is_given_for_them() {
    use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat};
    let dir = tree(&[]);
    let (folder, _) = deep(dir.path(), 4000);
    let walked = || {
        let root = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let wanted = Wanted { ignore: &Ignore::default(), only: None, apart: None };
        walk::walk(root, wanted, &mut Nothing)
    };
    let files = |numbers: std::ops::Range<u32>| {
        for at in numbers {
            let (name, other) = (format!("f{at}"), format!("g{at}"));
            let flags = OFlags::CREATE | OFlags::WRONLY;
            openat(&folder, &name, flags, Mode::from_raw_mode(0o600)).unwrap();
            linkat(&folder, &name, &folder, &other, AtFlags::empty()).unwrap();
        }
    };
    files(0..900);
    assert!(walked().is_ok());
    files(900..1100);
    match walked() {
        Err(Stop::Failed(error)) => {
            assert!(error.message().contains("too long together"), "{error}");
        }
        _ => panic!("it is too much"),
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_told_by_its_path_in_the_context() {
    for name in [".dockerignore", "Dockerfile.dockerignore"] {
        let dir = tree(&[("Dockerfile", "FROM a"), (&format!("{name}/x"), "")]);
        let error = opened(dir.path(), dir.path(), "").await.unwrap_err();
        assert_eq!(error.reason(), "DOCKERIGNORE");
        let begin = format!("\"{name}\" cannot be read: ");
        assert!(error.message().starts_with(&begin), "{error}");
        fs::remove_dir_all(dir.path().join(name)).unwrap();
        std::os::unix::fs::symlink("/etc/hosts", dir.path().join(name)).unwrap();
        let error = opened(dir.path(), dir.path(), "").await.unwrap_err();
        assert!(error.message().starts_with(&format!("\"{name}\" leads out")), "{error}");
    }
}
