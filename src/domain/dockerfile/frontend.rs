//! Which frontend a Dockerfile asks for: an image that BuildKit runs to read the file
//! in place of doing so itself.
//!
//! Source: `DetectSyntax` in BuildKit's `frontend/dockerfile/parser/directives.go`, and
//! `ParseDirectives` of older ones, which take the last of several lines. Nothing that
//! one of them takes for a frontend may be overlooked here, so whatever could be one is.

/// The build argument by which BuildKit takes a frontend too, before it looks at the
/// Dockerfile.
pub const SYNTAX_ARG: &str = "BUILDKIT_SYNTAX";

/// A frontend that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// Line of the Dockerfile, from 1.
    pub line: usize,
    /// What is asked for: an image, behind which words for it may stand.
    pub asked: String,
}

/// The frontend that a Dockerfile asks for, in any of the ways in which BuildKit
/// looks for one: a `# syntax=` or `// syntax=` line, also below a `#!` line, or JSON.
pub fn frontend(dockerfile: &str) -> Option<Frontend> {
    let text = dockerfile.trim_start_matches('\u{feff}');
    let (below, first) = match text.strip_prefix("#!") {
        Some(rest) => (rest.split_once('\n').map_or("", |(_, below)| below), 2),
        None => (text, 1),
    };
    // The last one that says something, as older engines take that.
    let marked = |mark| {
        let asked =
            directives(below, mark).filter(|(_, key, _)| key.eq_ignore_ascii_case("syntax"));
        asked.filter(|(.., value)| !value.is_empty()).last()
    };
    let found = marked("#").or_else(|| marked("//"));
    let of_lines =
        found.map(|(at, _, asked)| Frontend { line: first + at, asked: asked.to_owned() });
    of_lines.or_else(|| {
        let json = below.trim_start();
        json.starts_with('{').then(|| Frontend { line: first, asked: of_json(json) })
    })
}

/// The directives above everything else, each with its line, from 0, its name and value.
pub(super) fn directives<'a>(
    text: &'a str,
    mark: &'a str,
) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    let comments = text.lines().map_while(move |line| line.trim().strip_prefix(mark));
    let pairs = comments.map_while(|comment| comment.split_once('='));
    pairs.enumerate().map(|(at, (key, value))| (at, key.trim(), value.trim()))
}

/// What JSON asks for; what cannot be read is repeated, as it can be nothing else than
/// the text of a frontend.
fn of_json(json: &str) -> String {
    let read: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(json).ok();
    let keys = read.iter().flatten();
    let mut asked = keys.filter(|(key, _)| key.eq_ignore_ascii_case("syntax"));
    let asked = asked.find_map(|(_, value)| value.as_str().map(str::to_owned));
    asked.unwrap_or_else(|| json.lines().next().unwrap_or_default().chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<(usize, String)> {
        frontend(text).map(|found| (found.line, found.asked))
    }

    #[test]
    fn no_way_to_ask_for_a_frontend_is_overlooked() {
        for (text, line) in [
            ("# syntax=evil/x\nFROM a", 1),
            ("\u{feff}# syntax=evil/x\nFROM a", 1),
            ("#!/usr/bin/env x\n#syntax = evil/x\nFROM a", 2),
            ("// syntax=evil/x\nFROM a", 1),
            ("# escape=`\n# Syntax=evil/x\nFROM a", 2),
            ("# syntax= \n# syntax=evil/x\nFROM a", 2),
            ("# syntax=good/x\n# syntax=evil/x\nFROM a", 2),
            ("# syntax=\n// x=y\nFROM a\n", 0),
            (" {\"syntax\":\"evil/x\"}", 1),
            ("#!/usr/bin/env x\n{\"a\":1,\n\"SYNTAX\":\"evil/x\"}", 2),
        ] {
            let expected = (line > 0).then(|| (line, "evil/x".to_owned()));
            assert_eq!(asked(text), expected, "{text}");
        }
        assert_eq!(asked("{ evil").unwrap().1, "{ evil", "what cannot be read is asked for too");
    }

    #[test]
    fn a_frontend_is_asked_for_above_everything_else_only() {
        let found = asked("# syntax = docker/dockerfile:1 more\nFROM a");
        assert_eq!(found, Some((1, "docker/dockerfile:1 more".to_owned())));
        assert_eq!(asked("# a comment\n# syntax=x\nFROM a"), None);
        assert_eq!(asked("FROM a\n# syntax=x"), None);
        assert_eq!(asked("FROM a\n{\"syntax\":\"x\"}"), None);
    }
}
