//! The table of rules, and that nothing makes the matcher fail.

use proptest::prelude::*;

use super::*;

/// Whether a path stays out, decided folder by folder as a walk does.
fn ignored(file: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> bool {
    let (ignore, path) = (Ignore::parse(file.as_ref()).unwrap(), path.as_ref());
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
        ("**/**/c", &["c", "a/c", "a/b/c"], &["a", "cc", "a/cc"]),
        ("****c", &["c", "a/c", "a/b/c"], &["a", "cc", "a/cc"]),
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
    assert!(Ignore::parse(b"[\xe4]").is_err(), "as the docker command");
    let long = Ignore::parse(format!("[{}", "a".repeat(60_000)).as_bytes()).unwrap_err();
    assert!(long.len() < 1000, "{long}");
}

#[test]
fn patterns_with_wildcards_are_bounded_together() {
    let line = format!("{}\n", "?".repeat(60_000));
    assert!(Ignore::parse(line.repeat(2).as_bytes()).is_ok());
    let why = Ignore::parse(line.repeat(3).as_bytes()).unwrap_err();
    assert!(why.starts_with("line 3: has, with the lines before it, more than 131072"), "{why}");
    let classes = format!("[{}]\n", "a".repeat(60_000));
    assert!(Ignore::parse(classes.repeat(3).as_bytes()).is_err());
    let plain = format!("{}\n", "a".repeat(60_000));
    assert!(Ignore::parse(plain.repeat(16).as_bytes()).is_ok(), "what has none takes its text");
}

#[test]
fn the_longest_pattern_is_tried_in_a_moment() {
    let file = "*a".repeat(32_000);
    let began = std::time::Instant::now();
    let path = "a".repeat(250) + "b";
    assert!(!ignored(&file, &path));
    let file = format!("{}[ab]", "*a".repeat(32_000));
    assert!(!ignored(&file, &path));
    let folders = format!("x{}/*y", "/**".repeat(20_000));
    assert!(!ignored(&folders, "x/".repeat(2000) + "z"));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn bytes_that_are_no_text_count_as_the_docker_command_has_them() {
    for (file, out, stay) in [
        // As they are, where there is no wildcard.
        (&b"\xe4"[..], &[&b"\xe4"[..], b"\xe4/x"][..], &[&b"\xf6"[..], "\u{fffd}".as_bytes()][..]),
        (b"a/\xe4**", &[b"a/\xe4", b"a/\xe4b"], &[b"a/\xf6b"]),
        (b"**/\xe4", &[b"\xe4", b"a/\xe4"], &[b"\xf6", b"a/\xf6"]),
        (b" \xe4\xa0 ", &[b"\xe4\xa0"], &[b"\xe4\xa0 "]),
        (b"*\n!\xe4", &[b"\xf6"], &[b"\xe4"]),
        // Beside one, each is the same character.
        (b"\xe4*", &[b"\xe4", b"\xf6x", "\u{fffd}".as_bytes()], &[b"x"]),
        (b"?", &[b"\xe4", "ä".as_bytes()], &[b"\xe2\x82", b"\xe4\xe4"]),
        ("[\u{fffd}]x".as_bytes(), &[b"\xf6x"], &[b"ax"]),
    ] {
        for path in out {
            assert!(ignored(file, path), "{file:?} leaves out {path:?}");
        }
        for path in stay {
            assert!(!ignored(file, path), "{file:?} keeps {path:?}");
        }
    }
}

#[test]
fn what_the_build_needs_is_taken_in_again() {
    let mut ignore = Ignore::parse(b"*\n!a").unwrap();
    ignore.always("sub/Dockerfile").unwrap();
    ignore.always("a").unwrap();
    assert_eq!(ignore.patterns.len(), 3, "a is in as it is");
    let sub = ignore.verdict(b"sub", None);
    assert!(sub.ignored && ignore.has_exception_below(b"sub"));
    assert!(!ignore.verdict(b"sub/Dockerfile", Some(&sub)).ignored);
    assert!(ignore.verdict(b"sub/b", Some(&sub)).ignored);
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
                ignore.verdict(path.as_bytes(), None);
                let verdict = ignore.verdict(b"a", None);
                ignore.verdict(path.as_bytes(), Some(&verdict));
                ignore.has_exception_below(path.as_bytes());
                let _ = ignore.always(&path);
            }
        }
    }

    #[test]
    fn a_path_written_out_leaves_out_itself_and_what_is_below(path in "[a-z]{1,4}(/[a-z]{1,4}){0,3}") {
        let ignore = Ignore::parse(path.as_bytes()).unwrap();
        prop_assert!(ignore.verdict(path.as_bytes(), None).ignored);
        let below = format!("{path}/x");
        prop_assert!(ignore.verdict(below.as_bytes(), None).ignored);
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
fn fits_as_docker(pattern: &str, path: &[u8]) -> bool {
    match pattern.strip_prefix("**") {
        Some(end) if !end.is_empty() && !end.contains(['*', '?']) => {
            path.ends_with(end.as_bytes()) || end.as_bytes().strip_prefix(b"/") == Some(path)
        }
        _ => fits(pattern.as_bytes(), path),
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
            let fits = folders(path.as_bytes()).chain([path.as_bytes()]).any(|at| fits_as_docker(text, at));
            if fits {
                ignored = mark.is_empty();
            }
        }
        let ignore = Ignore::parse(file.as_bytes()).unwrap();
        prop_assert_eq!(ignore.verdict(path.as_bytes(), None).ignored, ignored, "{:?}", file);
    }
}

/// A pattern as a regular expression, as the docker command makes one.
fn expression(pattern: &str) -> Option<regex::Regex> {
    let (mut expression, mut rest) = (String::from("^"), pattern.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                expression += if rest.peek().is_some() { "(?:.*/)?" } else { ".*" };
            }
            '*' => expression += "[^/]*",
            '?' => expression += "[^/]",
            '\\' => expression += &regex::escape(&rest.next()?.to_string()),
            '^' | '[' | ']' | '-' => expression.push(c),
            c => expression += &regex::escape(&c.to_string()),
        }
    }
    regex::Regex::new(&(expression + "$")).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn fuzz_wildcards_fit_what_their_regular_expressions_fit(
        parts in prop::collection::vec("\\*|\\*\\*|\\*\\*/|\\?|a|b|ä|/|\\^|\\[ab\\]|\\[\\^a\\]|\\[a-c\\]|\\\\\\*|\n", 1..8),
        path in "[abä/^*\n]{0,8}",
    ) {
        let pattern = parts.concat();
        if let Some(glob::Shape::Pieces(pieces)) = glob::Shape::read(pattern.as_bytes()) {
            let expression = expression(&pattern).expect("an expression");
            let expected = expression.is_match(&path);
            prop_assert_eq!(pieces.fits(path.as_bytes()), expected, "{:?} {:?}", pattern, path);
        }
    }
}
