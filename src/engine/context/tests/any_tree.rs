//! Whatever a tree holds and a list says, what is sent is sound.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::super::*;

/// A name that file systems take and people do not give.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[abc]".prop_map(String::into_bytes),
        1 => "[.!#*? \\[\\]\\\\ä-]{1,6}".prop_map(String::into_bytes),
        1 => prop::collection::vec(1..=255_u8, 1..120),
    ]
    .prop_filter("a name", |name| !name.contains(&b'/') && !matches!(&name[..], b"." | b".."))
}

#[derive(Debug, Clone)]
enum Node {
    File(u16),
    Folder,
    Link(Vec<u8>),
    Fifo,
    HardLink,
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        3 => (0..3000_u16).prop_map(Node::File),
        2 => Just(Node::Folder),
        1 => "[a-c./]{1,130}".prop_map(|text| Node::Link(text.into_bytes())),
        1 => Just(Node::Fifo),
        1 => Just(Node::HardLink),
    ]
}

fn at(dir: &Path, path: &[Vec<u8>]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    path.iter().fold(dir.to_owned(), |at, name| at.join(std::ffi::OsStr::from_bytes(name)))
}

/// What must be sent, by a walk that is as simple as can be.
fn expected(dir: &Path, ignore: &Ignore) -> Vec<Vec<u8>> {
    fn below(
        folder: &Path,
        path: &[u8],
        from: Option<&crate::domain::ignore::Verdict>,
        ignore: &Ignore,
        all: &mut Vec<Vec<u8>>,
    ) {
        use std::os::unix::ffi::OsStrExt as _;
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = [path, entry.file_name().as_bytes()].concat();
            let verdict = ignore.verdict(&path, from);
            let folder = entry.file_type().unwrap().is_dir();
            let slash: &[u8] = if folder { b"/" } else { b"" };
            if !verdict.ignored {
                all.push([&path[..], slash].concat());
            }
            if folder && (!verdict.ignored || ignore.has_exception_below(&path)) {
                below(&entry.path(), &[&path[..], b"/"].concat(), Some(&verdict), ignore, all);
            }
        }
    }
    let mut all = Vec::new();
    below(dir, b"", None, ignore, &mut all);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever a tree holds and a list says, what is sent is a sound archive of
    /// what the list leaves in.
    #[test]
    fn fuzz_any_tree_and_any_list_give_a_sound_archive(
        nodes in prop::collection::vec((prop::collection::vec(name(), 1..5), node()), 0..14),
        list in "(!?[abc*?/.]{1,5}\n){0,5}",
    ) {
        let dir = tempfile::tempdir().unwrap();
        for (path, node) in &nodes {
            let (last, above) = path.split_last().unwrap();
            // Nothing is made through a link, and what is there stays.
            let is_folder = |depth| {
                let about = fs::symlink_metadata(at(dir.path(), &above[..depth]));
                about.is_ok_and(|about| about.is_dir())
            };
            let real = (1..=above.len()).all(|depth| {
                let _ = fs::create_dir(at(dir.path(), &above[..depth]));
                is_folder(depth)
            });
            let path = at(&at(dir.path(), above), std::slice::from_ref(last));
            if !real || fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            let _ = match node {
                Node::File(size) => fs::write(&path, vec![b'x'; usize::from(*size)]),
                Node::Folder => fs::create_dir(&path),
                Node::Link(to) => std::os::unix::fs::symlink(at(Path::new(""), std::slice::from_ref(to)), &path),
                Node::Fifo => rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::from_raw_mode(0o600),
                    0,
                )
                .map_err(Into::into),
                Node::HardLink => fs::hard_link(dir.path().join("a"), &path),
            };
        }
        let Ok(ignore) = Ignore::parse(list.as_bytes()) else { return Ok(()) };
        let folder = rustix::fs::open(
            dir.path(),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let mut bytes = Vec::new();
        let mut take = |piece: Bytes| {
            bytes.extend_from_slice(&piece);
            true
        };
        let (mut tell, wanted) = (|_| {}, || true);
        let mut archive = Archive(Pieces::new(&mut take, &mut tell, &wanted));
        let wanted = Wanted { ignore: &ignore, only: None, apart: None };
        let walked = walk::walk(folder, wanted, &mut archive);
        prop_assert!(walked.is_ok_and(|_| archive.end().is_ok()));
        let mut checker = crate::domain::archive::Checker::of_any_links();
        let mut found = Vec::new();
        let read = checker.read(&bytes, &mut |part| {
            if let crate::domain::archive::Part::Entry(entry) = part {
                found.push(entry.path.to_vec());
            }
            Ok(())
        });
        prop_assert!(read.and_then(|()| checker.finish()).is_ok() || found.is_empty());
        prop_assert_eq!(found, expected(dir.path(), &ignore));
    }
}
