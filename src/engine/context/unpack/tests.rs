//! What hostile archives come to, and that what is sent comes back as it was.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use tempfile::TempDir;

use super::{
    super::{tar, walk},
    *,
};

const LIMITS: UnpackLimits = UnpackLimits { bytes: 1 << 20, min_free: 0 };
const ALWAYS: &dyn Fn() -> bool = &|| true;

/// An archive of GNU tar, of a tree that a script makes.
fn archive(script: &str, args: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("sh").args(["-ec", script]).current_dir(&dir).status().unwrap();
    assert!(made.success());
    let out = Command::new("tar").args(["-c", "-C"]).arg(dir.path()).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn unpacked(bytes: &[u8]) -> (TempDir, Result<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let done = unpack(bytes, dir.path(), LIMITS, ALWAYS);
    (dir, done)
}

#[test]
fn a_tree_comes_out_as_it_went_in_however_it_is_compressed() {
    let script = "mkdir -p a/b closed; echo x > a/b/x; ln a/b/x hard; ln -s /etc/shadow out; \
         ln -s ../.. a/up; mkfifo pipe; printf %0300d 1 > \"$(printf %0150d 1)\"; \
         chmod 4755 a/b/x; touch -d @1000 a/b/x; chmod 0555 closed; touch -d @2000 a";
    for more in [&["."][..], &["-z", "."], &["--format=pax", "."], &["--zstd", "."]] {
        let (dir, done) = unpacked(&archive(script, more));
        assert_eq!(done.unwrap(), 302, "{more:?}");
        let about = |path: &str| fs::symlink_metadata(dir.path().join(path)).unwrap();
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
        assert_eq!((about("a/b/x").mode() & 0o7777, about("a/b/x").mtime()), (0o4755, 1000));
        assert_eq!((about("closed").mode() & 0o7777, about("a").mtime()), (0o555, 2000));
        assert_eq!(about("hard").ino(), about("a/b/x").ino());
        assert_eq!(fs::read_link(dir.path().join("out")).unwrap(), Path::new("/etc/shadow"));
        assert!(about("pipe").file_type().is_fifo());
        fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn nothing_is_written_outside_whatever_an_archive_says() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().display();
    let through = archive(
        &format!("mkdir real; echo evil > real/x; ln -s {target} link"),
        &["--transform=s,^real/x,link/x,", "link", "real/x"],
    );
    let hard = archive(
        &format!("echo evil > x; ln x y; ln -s {target} link"),
        &["--transform=flags=h;s,^x$,link/secret,", "link", "x", "y"],
    );
    let dots = archive("echo evil > x", &["--transform=s,^x,../x,", "-P", "x"]);
    let absolute = archive("echo evil > x", &["--transform=s,^x,/tmp/evil-x,", "-P", "x"]);
    let device = archive("mknod null c 1 3 || mkfifo null", &["null"]);
    for (bytes, words) in [
        (through, "leads through an entry that is no folder"),
        (hard, "leads through an entry that is no folder"),
        (dots, "contains \"..\""),
        (absolute, "is absolute"),
    ] {
        let (_, done) = unpacked(&bytes);
        let error = done.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(error.message().contains(words), "{words} in {error}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!Path::new("/tmp/evil-x").exists());
    let (dir, done) = unpacked(&device);
    match done {
        Err(error) => assert!(error.message().contains("device"), "{error}"),
        Ok(_) => assert!(dir.path().join("null").exists(), "this machine makes no devices"),
    }
}

#[test]
fn a_name_that_comes_twice_is_the_later_and_a_link_is_not_written_through() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "safe").unwrap();
    let bytes = archive(
        &format!("ln -s {} a; echo second > b", victim.display()),
        &["--transform=flags=r;s,^b$,a,", "a", "b"],
    );
    let (dir, done) = unpacked(&bytes);
    done.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "second\n");
    assert_eq!(fs::read_to_string(victim).unwrap(), "safe");
}

#[test]
fn what_is_too_much_no_archive_or_not_whole_is_refused() {
    let large = archive("head -c 2000000 /dev/zero > x", &["-z", "x"]);
    assert!(large.len() < 10_000, "it is a bomb");
    let (_, done) = unpacked(&large);
    let error = done.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::ResourceExhausted, "CONTEXT_TOO_LARGE"));

    let whole = archive("head -c 20000 /dev/urandom > x", &["x"]);
    let zipped = archive("head -c 20000 /dev/urandom > x", &["-z", "x"]);
    for bytes in [&b""[..], b"no archive", &whole[..9000], &zipped[..9000], &[b'x'; 2000]] {
        let (_, done) = unpacked(bytes);
        assert_eq!(done.unwrap_err().kind(), Kind::InvalidArgument);
    }
    let full = UnpackLimits { bytes: 1 << 20, min_free: u64::MAX / 2 };
    let dir = tempfile::tempdir().unwrap();
    let error = unpack(&whole[..], dir.path(), full, ALWAYS).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::ResourceExhausted, "DISK_FULL"));
    let error = unpack(&whole[..], dir.path(), LIMITS, &|| false).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
}

#[test]
fn an_archive_that_needs_a_large_window_is_refused() {
    let whole = archive("head -c 20000 /dev/urandom > x", &["x"]);
    let packed = |level, window| {
        // It is not told the length, else it would need no more than that.
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        encoder.window_log(window).unwrap();
        encoder.write_all(&whole).unwrap();
        unpacked(&encoder.finish().unwrap()).1
    };
    assert_eq!(packed(19, 23).unwrap(), 20_000);
    for (level, window) in [(3, 24), (22, 27)] {
        let error = packed(level, window).unwrap_err();
        assert_eq!((error.kind(), error.reason()), (Kind::InvalidArgument, "ARCHIVE_REFUSED"));
        assert!(error.message().contains("more than 8 MiB"), "{error}");
    }
}

#[test]
fn what_an_archive_asks_for_and_no_disk_does_is_the_fault_of_the_archive() {
    use Errno as E;
    let callers =
        [E::INVAL, E::MLINK, E::NAMETOOLONG, E::LOOP, E::ILSEQ, E::FBIG, E::PERM, E::EXIST];
    for why in callers {
        let error = unusable(b"a", why.into());
        assert_eq!((error.kind(), error.reason()), (Kind::InvalidArgument, "ARCHIVE_REFUSED"));
        assert!(error.message().starts_with("the entry \"a\" cannot be made: "), "{error}");
    }
    for why in [E::NOSPC, E::DQUOT] {
        assert_eq!(unusable(b"a", why.into()).reason(), "DISK_FULL");
    }
    for why in [E::IO, E::MFILE, E::ROFS] {
        assert_eq!(unusable(b"a", why.into()).kind(), Kind::Internal);
    }
}

#[test]
fn a_folder_that_is_gone_is_not_the_fault_of_the_archive() {
    let whole = archive("echo > a", &["a"]);
    let error = unpack(&whole[..], Path::new("/nowhere/at/all"), LIMITS, ALWAYS).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

/// One entry as our own archives have it.
fn entry(sort: Sort, path: &str, link: &str) -> Vec<u8> {
    let entry = walk::Entry {
        sort,
        path: path.as_bytes(),
        link: link.as_bytes(),
        mode: 0o755,
        size: 0,
        mtime: 1000,
        nanos: 0,
        capability: b"",
    };
    let mut bytes = Vec::new();
    tar::header(&entry, &mut bytes);
    bytes
}

#[test]
fn more_links_to_a_file_than_a_disk_has_are_refused_or_made() {
    let first = entry(Sort::File, "a", "");
    let links = (0..65_100).flat_map(|at| entry(Sort::HardLink, &format!("l{at}"), "a"));
    let bytes: Vec<u8> = first.into_iter().chain(links).chain(tar::END).collect();
    let dir = tempfile::tempdir().unwrap();
    let limits = UnpackLimits { bytes: 1 << 30, ..LIMITS };
    if let Err(error) = unpack(&bytes[..], dir.path(), limits, ALWAYS) {
        assert_eq!(error.reason(), "ARCHIVE_REFUSED", "{error}");
        assert!(error.message().contains("cannot be made"), "{error}");
    }
}

/// Entries one after the other, which are in memory one at a time.
struct Entries<I>(I, Vec<u8>);

impl<I: Iterator<Item = Vec<u8>>> Read for Entries<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.next().unwrap_or_default();
        }
        let length = self.1.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.1[..length]);
        self.1.drain(..length);
        Ok(length)
    }
}

fn of_entries(
    entries: impl Iterator<Item = Vec<u8>>,
    bytes: u64,
    wanted: &dyn Fn() -> bool,
) -> Result<u64> {
    let dir = tempfile::tempdir().unwrap();
    let all = Entries(entries.chain([tar::END.to_vec()]), Vec::new());
    unpack(all, dir.path(), UnpackLimits { bytes, min_free: 0 }, wanted)
}

/// A path of so many bytes, with this at its end.
fn deep(length: usize, end: &str) -> String {
    let folder = format!("{}/", "d".repeat(199));
    let mut path = folder.repeat((length - end.len()) / folder.len());
    path.extend(std::iter::repeat_n('e', length - end.len() - path.len()));
    path + end
}

#[test]
fn the_paths_of_an_archive_take_no_more_memory_than_is_given_for_them() {
    let path = deep(4000, "x");
    let same = std::iter::repeat_n(entry(Sort::Folder, &path, ""), 1200);
    assert_eq!(of_entries(same, u64::MAX, ALWAYS).unwrap(), 0, "one folder is one path");
    let others = (0..1200).map(|at| entry(Sort::Folder, &deep(4000, &format!("{at}")), ""));
    let error = of_entries(others, u64::MAX, ALWAYS).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::ResourceExhausted, "CONTEXT_TOO_LARGE"));
    assert!(error.message().contains("too long together"), "{error}");
}

#[test]
fn a_path_longer_than_the_kernel_takes_is_refused() {
    for sort in [Sort::Folder, Sort::File] {
        let of = |length| [entry(sort, &deep(length, "x"), "")].into_iter();
        assert_eq!(of_entries(of(4096), 1 << 20, ALWAYS).unwrap(), 0);
        let error = of_entries(of(4097), 1 << 20, ALWAYS).unwrap_err();
        assert_eq!(error.reason(), "ARCHIVE_REFUSED");
        assert!(error.message().contains("4097 bytes") && error.message().len() < 1000, "{error}");
    }
}

#[test]
fn headers_count_as_files_do() {
    let folders = |count| std::iter::repeat_n(entry(Sort::Folder, "a", ""), count);
    assert_eq!(of_entries(folders(1000), 1 << 20, ALWAYS).unwrap(), 0);
    let error = of_entries(folders(3000), 1 << 20, ALWAYS).unwrap_err();
    assert!(error.message().contains("build_source_max_bytes"), "{error}");
}

#[test]
fn folders_are_not_set_up_for_nobody() {
    let folders = || (0..10).map(|at| entry(Sort::Folder, &format!("f{at}"), ""));
    let asked = std::cell::Cell::new(0);
    let up_to =
        |most: u32| move |asked: &std::cell::Cell<u32>| asked.replace(asked.get() + 1) < most;
    let (all, fewer) = (up_to(u32::MAX), up_to(15));
    of_entries(folders(), 1 << 20, &|| all(&asked)).unwrap();
    assert!(asked.replace(0) > 20, "once for each entry that is read, and for each folder");
    let error = of_entries(folders(), 1 << 20, &|| fewer(&asked)).unwrap_err();
    assert_eq!(error.reason(), "GIVEN_UP");
}

#[test]
fn little_is_read_behind_the_end_of_an_archive() {
    let whole = archive("head -c 20000 /dev/urandom > x", &["x"]);
    let read = std::cell::Cell::new(0);
    let zeros = std::iter::from_fn(|| {
        read.set(read.get() + 1);
        Some(vec![0; 4096])
    });
    let dir = tempfile::tempdir().unwrap();
    let all = (&whole[..]).chain(Entries(zeros, Vec::new()));
    assert_eq!(unpack(all, dir.path(), LIMITS, ALWAYS).unwrap(), 20_000);
    assert!((256..400).contains(&read.get()), "{} pieces", read.get());
    let long = archive("echo > x", &["-b", "1000", "-z", "x"]);
    assert_eq!(unpacked(&long).1.unwrap(), 1, "a record may be long");
    let cut = unpacked(&long[..long.len() - 1]).1.unwrap_err();
    assert_eq!(cut.kind(), Kind::InvalidArgument, "what compresses it is read to its end");
}
