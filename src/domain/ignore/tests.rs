//! The table of rules, and that nothing makes the matcher fail.

use proptest::prelude::*;

use super::*;

/// Whether a path stays out, decided folder by folder as a walk does.
fn ignored(file: &str, path: &str) -> bool {
    let ignore = Ignore::parse(file.as_bytes()).unwrap();
    let mut verdict = None;
    for folder in folders(path) {
        verdict = Some(ignore.verdict(folder, verdict.as_ref()));
        if verdict.as_ref().unwrap().ignored && !ignore.has_exception_below(folder) {
            return true;
        }
    }
    ignore.verdict(path, verdict.as_ref()).ignored
}

#[test]
fn patterns_leave_out_what_dockers_rules_leave_out() {
    for (file, out, stay) in [
        ("a", &["a", "a/b"][..], &["b", "b/a", "aa"][..]),
        ("/a", &["a", "a/b"], &["b/a"]),
        ("a/", &["a", "a/b"], &["b/a"]),
        ("./a//b/../c", &["a/c", "a/c/d"], &["a/b", "c"]),
        ("*", &["a", "a/b", ".x"], &[]),
        ("*.md", &["a.md"], &["b/a.md", "a.mdx"]),
        ("*/*.md", &["b/a.md"], &["a.md", "c/b/a.md"]),
        ("**/*.md", &["a.md", "b/a.md", "c/b/a.md"], &["a.mdx"]),
        ("**", &["a", "a/b/c"], &[]),
        ("a/**", &["a/b", "a/b/c"], &["a", "b/a"]),
        ("a/**/c", &["a/c", "a/b/c", "a/b/b/c", "a/c/d"], &["c", "a/b"]),
        ("**/c", &["c", "a/c", "a/b/c"], &["a", "cc", "a/cc"]),
        ("a?c", &["abc"], &["a/c", "ac"]),
        ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
        ("[^a]x", &["bx"], &["ax"]),
        ("a[\\]]", &["a]"], &["a"]),
        ("a\\*", &["a*"], &["ab", "a"]),
        ("a.b+(c)", &["a.b+(c)"], &["axb+(c)"]),
        ("# a\na\n #b\n\n  c  ", &["a", "#b", "c"], &["# a", "b"]),
        ("\u{feff}a", &["a"], &[]),
        ("a\r\nb\r\n", &["a", "b"], &[]),
        ("*\n!b", &["a"], &["b", "b/c"]),
        ("!b\n*", &["a", "b"], &[]),
        ("a\n!a/b", &["a", "a/c"], &["a/b", "a/b/c"]),
        ("a/*\n!a/b\na/b/c", &["a/c", "a/b/c"], &["a", "a/b", "a/b/d"]),
        // Not walked, since the exception's text does not begin with the folder.
        ("a\n!**/b", &["a", "a/b"], &["b"]),
        ("*\n! /b ", &["a"], &["b"]),
        ("..", &[], &["a"]),
        ("/", &[], &["a"]),
        (".", &[], &["a"]),
    ] {
        for path in out {
            assert!(ignored(file, path), "{file:?} leaves out {path}");
        }
        for path in stay {
            assert!(!ignored(file, path), "{file:?} keeps {path}");
        }
    }
}

#[test]
fn what_is_no_pattern_is_told_by_its_line() {
    for file in ["a\n[", "a\n[]", "a\nb\\", "a\n!", "a\n! /", "a\n[b-]", "a\n[-b]", "a\n[z-a]"] {
        let why = Ignore::parse(file.as_bytes()).unwrap_err();
        assert!(why.starts_with("line 2: "), "{file:?}: {why}");
    }
    assert!(Ignore::parse(&[b'a'; 70_000]).unwrap_err().contains("64 KiB"));
    assert!(Ignore::parse("a\n".repeat(10_001).as_bytes()).is_err());
}

#[test]
fn what_the_build_needs_is_taken_in_again() {
    let mut ignore = Ignore::parse(b"*\n!a").unwrap();
    ignore.always("sub/Dockerfile").unwrap();
    ignore.always("a").unwrap();
    assert_eq!(ignore.patterns.len(), 3, "a is in as it is");
    let sub = ignore.verdict("sub", None);
    assert!(sub.ignored && ignore.has_exception_below("sub"));
    assert!(!ignore.verdict("sub/Dockerfile", Some(&sub)).ignored);
    assert!(ignore.verdict("sub/b", Some(&sub)).ignored);
}

#[test]
fn paths_take_their_shortest_form() {
    for (path, short) in [
        ("a/./b//c/", "a/b/c"),
        ("a/../..", ".."),
        ("../a", "../a"),
        ("/..", "/"),
        ("/a/../b", "/b"),
        ("./", "."),
        ("a/..", "."),
    ] {
        assert_eq!(shortest(path), short, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_file_and_no_path_makes_it_panic(
        file in prop::collection::vec(any::<u8>(), 0..200),
        lines in "([a-c*?/\\\\!\\[\\]^.# -]{0,12}\n){0,6}",
        path in "[a-c./]{0,20}|\\PC{0,20}",
    ) {
        for file in [file.as_slice(), lines.as_bytes()] {
            if let Ok(mut ignore) = Ignore::parse(file) {
                ignore.verdict(&path, None);
                let verdict = ignore.verdict("a", None);
                ignore.verdict(&path, Some(&verdict));
                ignore.has_exception_below(&path);
                let _ = ignore.always(&path);
            }
        }
    }

    #[test]
    fn a_path_written_out_leaves_out_itself_and_what_is_below(path in "[a-z]{1,4}(/[a-z]{1,4}){0,3}") {
        let ignore = Ignore::parse(path.as_bytes()).unwrap();
        prop_assert!(ignore.verdict(&path, None).ignored);
        let below = format!("{path}/x");
        prop_assert!(ignore.verdict(&below, None).ignored);
    }
}

/// What a pattern fits, as slowly and plainly as can be.
fn fits(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            rest.is_empty()
                || fits(rest, path)
                || (0..path.len()).any(|at| path[at] == b'/' && fits(rest, &path[at + 1..]))
        }
        [b'*', rest @ ..] => (0..=path.len())
            .take_while(|at| !path[..*at].contains(&b'/'))
            .any(|at| fits(rest, &path[at..])),
        [b'?', rest @ ..] => path.first().is_some_and(|c| *c != b'/') && fits(rest, &path[1..]),
        [c, rest @ ..] => path.first() == Some(c) && fits(rest, &path[1..]),
    }
}

/// A pattern that is "**" and plain text fits what ends so, as docker has it.
fn fits_as_docker(pattern: &str, path: &str) -> bool {
    match pattern.strip_prefix("**") {
        Some(end) if !end.is_empty() && !end.contains(['*', '?']) => {
            path.ends_with(end) || end.strip_prefix('/') == Some(path)
        }
        _ => fits(pattern.as_bytes(), path.as_bytes()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// The last pattern that fits a path, or a folder that it is in, decides.
    #[test]
    fn fuzz_the_matcher_decides_as_the_plainest_one_does(
        lines in prop::collection::vec(("!?", "[ab*?/]{1,7}"), 0..6),
        path in "[ab]{1,3}(/[ab]{1,3}){0,3}",
    ) {
        let mut file = String::new();
        let mut ignored = false;
        for (mark, text) in &lines {
            let text = shortest(text);
            let text = text.trim_start_matches('/');
            if matches!(text, "" | ".") {
                continue;
            }
            file += &format!("{mark}{text}\n");
            let fits = folders(&path).chain([path.as_str()]).any(|at| fits_as_docker(text, at));
            if fits {
                ignored = mark.is_empty();
            }
        }
        let ignore = Ignore::parse(file.as_bytes()).unwrap();
        prop_assert_eq!(ignore.verdict(&path, None).ignored, ignored, "{:?}", file);
    }
}
