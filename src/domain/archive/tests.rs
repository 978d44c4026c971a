//! What is refused, in whatever pieces it comes.

use proptest::prelude::*;

use super::*;

/// A header, as POSIX has it.
fn header(kind: u8, path: &str, target: &str, size: usize) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

fn entry(kind: u8, path: &str, target: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = header(kind, path, target, data.len());
    entry.extend_from_slice(data);
    entry.resize(entry.len().next_multiple_of(BLOCK), 0);
    entry
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all = entries.concat();
    all.resize(all.len() + 2 * BLOCK, 0);
    all
}

fn check(bytes: &[u8]) -> Result<(), String> {
    let mut checker = Checker::new("/data");
    let fed = checker.feed(bytes).and_then(|()| checker.finish());
    fed.map_err(|error| error.message().to_owned())
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n);
        format!("{}{rest}", length.expect("a length"))
    };
    entry(b'x', "pax", "", records.iter().map(record).collect::<String>().as_bytes())
}

#[test]
fn a_plain_archive_is_fine() {
    let entries = [
        entry(b'5', "./", "", b""),
        entry(b'0', "./a", "", &[7; 1000]),
        entry(0, "b/c", "", b""),
        entry(b'2', "b/up", "../a", b""),
        entry(b'2', "whole", "/data/a", b""),
        entry(b'1', "hard", "./a", b""),
        entry(b'L', "long", "", "x/".repeat(200).as_bytes()),
        entry(b'0', "cut", "", b"data"),
        pax(&[("path", "b/ä"), ("mtime", "1.5")]),
        entry(b'0', "other", "", b"data"),
        // What takes the place of a link is none.
        entry(b'2', "turns", "b", b""),
        entry(b'5', "turns/", "", b""),
        entry(b'0', "turns/a", "", b""),
        entry(b'1', "b/same", "b/up", b""),
        // Only the first bytes say that it is compressed.
        entry(b'5', "BZhang", "", b""),
    ];
    assert_eq!(check(&archive(&entries)), Ok(()));
}

#[test]
fn a_name_with_a_nul_byte_is_refused_and_a_long_one_is_told_in_short() {
    for key in ["path", "linkpath"] {
        let told = check(&archive(&[pax(&[(key, "a\0b")]), entry(b'2', "a", "b", b"")]));
        assert_eq!(
            told.unwrap_err(),
            "the name \"a\\0b\" has a NUL byte; no file can be called so"
        );
    }
    let long = format!("../{}", "x".repeat(60_000));
    for key in ["path", "linkpath"] {
        let told = check(&archive(&[pax(&[(key, &long)]), entry(b'2', "a", "b", b"")]));
        let told = told.unwrap_err();
        assert!(told.len() < 1000 && told.contains("xxx...\""), "{told}");
    }
}

#[test]
fn what_would_lead_out_is_refused_by_name() {
    for (entries, part) in [
        (vec![entry(b'0', "/etc/passwd", "", b"x")], "is absolute"),
        (vec![entry(b'0', "a/../../b", "", b"x")], "contains \"..\""),
        (vec![entry(b'2', "a/link", "../../x", b"")], "which is outside"),
        (vec![entry(b'2', "link", "/etc", b"")], "which is outside"),
        (vec![entry(b'2', "link", "/data/../etc", b"")], "which is outside"),
        (vec![entry(b'2', "link", "/database", b"")], "which is outside"),
        (vec![entry(b'1', "hard", "../x", b"")], "contains \"..\""),
        (vec![entry(b'1', "hard", "/x", b"")], "is absolute"),
        (vec![entry(b'3', "null", "", b"")], "is a device"),
        // What unpacks it takes the header's own name, as the last extension has none.
        (
            vec![pax(&[("path", "fine")]), pax(&[("mtime", "1")]), entry(b'0', "../a", "", b"")],
            "contains \"..\"",
        ),
        // And the name of GNU before that of POSIX.
        (
            vec![entry(b'L', "l", "", b"../a"), pax(&[("path", "b")]), entry(b'0', "c", "", b"")],
            "contains \"..\"",
        ),
        // What follows an old folder is no data of it.
        (vec![header(0, "old/", "", 512), entry(b'0', "/etc/passwd", "", b"")], "is absolute"),
        (vec![entry(b'4', "disk", "", b"")], "is a device"),
        (vec![entry(b'S', "sparse", "", b"")], "is a sparse file"),
        (vec![entry(b'Z', "odd", "", b"")], "is of a kind"),
        (vec![entry(b'L', "l", "", b"../x\0"), entry(b'0', "fine", "", b"")], "\"../x\""),
        (vec![entry(b'K', "l", "", b"/x\0"), entry(b'2', "fine", "fine", b"")], "\"/x\""),
        (vec![pax(&[("path", "../x")]), entry(b'0', "fine", "", b"")], "\"../x\""),
        (vec![pax(&[("linkpath", "/x")]), entry(b'2', "fine", "fine", b"")], "\"/x\""),
        (vec![pax(&[("GNU.sparse.major", "1")]), entry(b'0', "fine", "", b"")], "sparse"),
        (vec![entry(b'0', "first", "", b"x"), entry(b'0', "../second", "", b"")], "second"),
        // What is empty leaves what the header says.
        (vec![pax(&[("linkpath", "")]), entry(b'2', "l", "/etc/shadow", b"")], "/etc/shadow"),
        (vec![pax(&[("path", "")]), entry(b'0', "../x", "", b"")], "contains \"..\""),
        (vec![pax(&[("path", "a"), ("path", "")]), entry(b'0', "../x", "", b"")], "\"..\""),
        (vec![entry(b'L', "l", "", b"\0"), entry(b'0', "../x", "", b"")], "contains \"..\""),
        // And what has no bytes voids what was said before.
        (
            vec![pax(&[("path", "a")]), header(b'x', "p", "", 0), entry(b'0', "../x", "", b"")],
            "contains \"..\"",
        ),
        (
            vec![
                entry(b'L', "l", "", b"a"),
                header(b'L', "l", "", 0),
                entry(b'0', "../x", "", b""),
            ],
            "contains \"..\"",
        ),
        // So does what is said of all entries.
        (
            vec![
                pax(&[("path", "a"), ("size", "512")]),
                entry(b'g', "g", "", b"9 a=bcde\n"),
                header(b'0', "a", "", 0),
                entry(b'3', "null", "", b""),
            ],
            "is a device",
        ),
        (vec![pax(&[("path", "a")]), header(b'g', "g", "", 0), entry(b'0', "/x", "", b"")], "/x"),
        // By their text these stay inside.
        (
            vec![entry(b'2', "t", ".", b""), entry(b'2', "t/t/t/evil", "../../../etc", b"")],
            "is behind a link",
        ),
        (vec![entry(b'2', "t", "a", b""), entry(b'0', "./t/x", "", b"")], "is behind a link"),
        (
            vec![entry(b'2', "l", "t/t/../../../etc", b""), entry(b'2', "t", ".", b"")],
            "goes up behind a name",
        ),
        (
            vec![entry(b'2', "a/b/l", "../../x", b""), entry(b'1', "hard", "a/b/l", b"")],
            "leads outside",
        ),
        (
            vec![
                entry(b'2', "a/b/l", "../../x", b""),
                entry(b'1', "a/b/m", "a/b/l", b""),
                entry(b'1', "hard", "a/b/m", b""),
            ],
            "leads outside",
        ),
        (vec![entry(b'2', "t", ".", b""), entry(b'1', "hard", "t/x", b"")], "leads outside"),
        (vec![entry(b'7', "odd", "", b"")], "is of a kind"),
    ] {
        let refused = check(&archive(&entries)).expect_err(part);
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[test]
fn what_is_no_whole_archive_is_refused() {
    let whole = archive(&[entry(b'0', "a", "", &[7; 1000])]);
    for (bytes, part) in [
        (&b""[..], "no archive"),
        (&[0x1f, 0x8b, 8, 0].repeat(200), "compressed"),
        (&[0x1f, 0x8b, 8, 0], "compressed"),
        (b"BZh9", "compressed"),
        (&archive(&[entry(b'5', "BZhang", "", b"")]), "compressed"),
        (b"\xfd7zXZ\0\0", "compressed"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0].repeat(200), "compressed"),
        (&archive(&[entry(b'0', "P*M\x18", "", b"")]), "compressed"),
        (&b"this is text ".repeat(100), "no tar archive"),
        (&whole[..100], "cut short"),
        (&whole[..BLOCK], "cut short"),
        (&whole[..BLOCK * 3], "cut short"),
    ] {
        let refused = check(bytes).expect_err(part);
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(check(&archive(&[])), Ok(()), "an empty archive is one");
}

#[test]
fn a_size_in_further_fields_counts() {
    let big = [pax(&[("size", "1000")]), header(b'0', "a", "", 0)].concat();
    let data = [vec![b'x'; 1024], entry(b'0', "../b", "", b"")].concat();
    let refused = check(&archive(&[big, data])).expect_err("the entry after it");
    assert!(refused.contains("../b"), "{refused}");
}

proptest! {
    #[test]
    fn pieces_make_no_difference(cuts in prop::collection::vec(0usize..4000, 0..8)) {
        let good = archive(&[entry(b'0', "a", "", &[7; 1000]), entry(b'2', "b", "a", b"")]);
        let bad = archive(&[entry(b'L', "l", "", b"../x\0"), entry(b'0', "a", "", &[7; 900])]);
        for whole in [good, bad] {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % whole.len()).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let mut checker = Checker::new("/data");
            let fed = cuts.windows(2).try_for_each(|cut| checker.feed(&whole[cut[0]..cut[1]]));
            let told = fed.and_then(|()| checker.finish()).map_err(|e| e.message().to_owned());
            prop_assert_eq!(told, check(&whole));
        }
    }

    #[test]
    fn no_bytes_make_it_fall(mut bytes: Vec<u8>, at in 0usize..512, byte: u8) {
        let _ = check(&bytes);
        let mut whole = archive(&[pax(&[("path", "a")]), entry(b'0', "a", "", b"x")]);
        let length = whole.len();
        whole[(at * 7) % length] = byte;
        let _ = check(&whole);
        bytes.splice(0..0, header(b'x', "p", "", bytes.len()));
        let _ = check(&bytes);
    }
}

#[test]
fn what_nobody_follows_may_lead_anywhere_and_be_named_anyhow() {
    let entries = [
        entry(b'5', "BZhang", "", b""),
        entry(b'2', "t", "a/../../b", b""),
        entry(b'0', "t/x", "", b""),
        entry(b'7', "old", "", b""),
    ];
    let mut checker = Checker::of_any_links();
    checker.feed(&archive(&entries)).expect("it is fine");
    checker.finish().expect("it is whole");
}
