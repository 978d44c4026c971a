//! Where each instruction of a Dockerfile stands, to tell a failing step's line.
//!
//! Not a parser: the engine is. This finds the lines of the steps that it counts,
//! and the images that it will fetch.

use std::collections::BTreeMap;

mod frontend;
mod stages;

pub use frontend::{Frontend, SYNTAX_ARG, frontend};
pub use stages::Stages;

/// Longest text of an instruction that is kept.
const LONGEST: usize = 1024;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Line on which it begins, from 1.
    pub line: usize,
    /// Its text on one line, cut where it is long.
    pub text: String,
}

/// The instructions, in their order.
pub fn instructions(dockerfile: &str) -> Vec<Instruction> {
    let dockerfile = dockerfile.trim_start_matches('\u{feff}');
    let escape = escape_of(dockerfile);
    let mut found: Vec<Instruction> = Vec::new();
    let (mut goes_on, mut ends) = (false, Vec::<String>::new());
    for (at, line) in dockerfile.lines().enumerate() {
        if let Some(end) = ends.first() {
            if line.trim_start_matches('\t') == end {
                ends.remove(0);
            }
            continue;
        }
        let text = line.trim();
        // Comments and empty lines do not end an instruction that goes on.
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (text, more) = match text.strip_suffix(escape) {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        match found.last_mut().filter(|_| goes_on) {
            Some(instruction) => add(&mut instruction.text, text),
            None => {
                let mut instruction = Instruction { line: at + 1, text: String::new() };
                add(&mut instruction.text, text);
                found.push(instruction);
            }
        }
        goes_on = more;
        if !more && let Some(instruction) = found.last() {
            ends = heredocs(&instruction.text);
        }
    }
    found
}

/// The images that it fetches: those that stages begin with, that it copies from and
/// that it mounts, each once, as they are written but for arguments, which are filled in.
pub fn base_images(instructions: &[Instruction], given: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Images::default();
    let mut args = BTreeMap::new();
    for instruction in instructions {
        let mut words = instruction.text.split_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            // Only what stands above the first FROM counts in one.
            "ARG" if found.stages == 0 => args.extend(words.map(|word| {
                let (name, default) = word.split_once('=').unwrap_or((word, ""));
                let default = default.trim_matches(['"', '\'']);
                (name.to_owned(), given.get(name).map_or(default, String::as_str).to_owned())
            })),
            "FROM" => {
                let mut words = words.filter(|word| !word.starts_with("--"));
                found.add(&filled(words.next().unwrap_or_default(), &args));
                found.stages += 1;
                if words.next().is_some_and(|word| word.eq_ignore_ascii_case("AS")) {
                    found.names.extend(words.next().map(str::to_owned));
                }
            }
            "COPY" | "RUN" => {
                for option in words.take_while(|word| word.starts_with("--")) {
                    if let Some(image) = option.strip_prefix("--from=") {
                        found.add(image);
                    } else if let Some(mount) = option.strip_prefix("--mount=") {
                        let from = mount.split(',').find_map(|part| part.strip_prefix("from="));
                        found.add(from.unwrap_or_default());
                    }
                }
            }
            _ => {}
        }
    }
    found.images
}

/// The arguments that no ARG declares, so that nothing comes of them. Those of proxies
/// need none.
pub fn undeclared<'a>(
    instructions: &[Instruction],
    given: &'a BTreeMap<String, String>,
) -> Vec<&'a str> {
    let declared = |name: &str| {
        instructions.iter().any(|instruction| {
            let mut words = instruction.text.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            // What is cut may hold more of them.
            let cut = instruction.text.len() >= LONGEST;
            keyword.eq_ignore_ascii_case("ARG")
                && (cut || words.any(|word| word.split('=').next() == Some(name)))
        })
    };
    let built_in = |name: &str| {
        let name = name.to_ascii_uppercase();
        ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"].contains(&&*name)
            || name.starts_with("BUILDKIT_")
    };
    let names = given.keys().map(String::as_str);
    names.filter(|name| !built_in(name) && !declared(name)).collect()
}

#[derive(Default)]
struct Images {
    images: Vec<String>,
    /// Stages so far, and the names of those that have one.
    stages: usize,
    names: Vec<String>,
}

impl Images {
    /// A stage, by its name or number, is no image.
    fn add(&mut self, image: &str) {
        let stage = self.names.iter().any(|name| name.eq_ignore_ascii_case(image))
            || image.parse().is_ok_and(|number: usize| number < self.stages);
        if !stage && !matches!(image, "" | "scratch") && !self.images.iter().any(|i| i == image) {
            self.images.push(image.to_owned());
        }
    }
}

/// A text with `$NAME`, `${NAME}` and `${NAME:-default}` filled in.
fn filled(text: &str, args: &BTreeMap<String, String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let name_end = |text: &str| {
            text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
        };
        let braced = after.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let (name, default) = match braced {
            Some((inside, beyond)) => {
                rest = beyond;
                let (name, more) = inside.split_at(name_end(inside));
                (name, more.trim_start_matches(':').strip_prefix('-').unwrap_or_default())
            }
            None => {
                let (name, beyond) = after.split_at(name_end(after));
                rest = beyond;
                (name, "")
            }
        };
        let value = args.get(name).map(String::as_str).filter(|value| !value.is_empty());
        out.push_str(value.unwrap_or(default));
    }
    out + rest
}

/// True for what only BuildKit understands: mounts of a RUN, and heredocs.
pub fn needs_buildkit(instructions: &[Instruction]) -> bool {
    instructions.iter().any(|instruction| {
        let mut words = instruction.text.split_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        let options = words.take_while(|word| word.starts_with("--"));
        let own = ["--mount=", "--network=", "--security=", "--chmod=", "--link"];
        let mut asked = options.filter(|word| own.iter().any(|own| word.starts_with(own)));
        let can = ["RUN", "COPY", "ADD"].contains(&keyword.as_str());
        (can && asked.next().is_some()) || !heredocs(&instruction.text).is_empty()
    })
}

fn escape_of(dockerfile: &str) -> char {
    match directive(dockerfile, "escape") {
        Some("`") => '`',
        _ => '\\',
    }
}

/// A directive stands in a comment above everything else.
fn directive<'a>(dockerfile: &'a str, wanted: &str) -> Option<&'a str> {
    let mut all = frontend::directives(dockerfile.trim_start_matches('\u{feff}'), "#");
    all.find(|(_, key, _)| key.eq_ignore_ascii_case(wanted)).map(|(.., value)| value)
}

fn add(to: &mut String, text: &str) {
    let text = text.trim();
    if !to.is_empty() && !text.is_empty() {
        to.push(' ');
    }
    let room = LONGEST.saturating_sub(to.len());
    to.extend(text.chars().take(room));
}

/// The words that end the heredocs of an instruction, in their order.
fn heredocs(text: &str) -> Vec<String> {
    let keyword = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !["RUN", "COPY", "ADD"].contains(&keyword.as_str()) {
        return Vec::new();
    }
    let words = text.split_whitespace().filter_map(|word| word.strip_prefix("<<"));
    let words = words.map(|word| word.trim_start_matches('-').trim_matches(['"', '\'']));
    let is_name = |word: &&str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    words.filter(is_name).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(dockerfile: &str) -> Vec<(usize, String)> {
        instructions(dockerfile).into_iter().map(|found| (found.line, found.text)).collect()
    }

    #[test]
    fn each_step_has_the_line_on_which_it_begins() {
        let dockerfile =
            "# syntax=x\n\nFROM a\n  # why\nRUN one && \\\n  # not this\n\n  two\nCOPY . /\n";
        let expected = [(3, "FROM a"), (5, "RUN one && two"), (9, "COPY . /")];
        assert_eq!(lines(dockerfile), expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(lines("# escape=`\nRUN a `\n b\nRUN c\\\nRUN d").len(), 3);
        let heredoc = "FROM a\nRUN <<EOF\nFROM b\nEOF\nCOPY <<-\"x\" /x\nRUN y\n\tx\nRUN z";
        assert_eq!(lines(heredoc).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 5, 8]);
    }

    #[test]
    fn base_images_are_those_that_are_fetched() {
        let none = BTreeMap::new();
        let dockerfile = "ARG v=1\nfrom --platform=linux/amd64 a:1 AS one\nFROM One as two\nFROM scratch\nFROM a:1\nFROM b";
        assert_eq!(base_images(&instructions(dockerfile), &none), ["a:1", "b"]);
        let dockerfile = "FROM a AS one\nCOPY --from=one /x /\nCOPY --chown=1 --from=r.example/c /x /\n\
             COPY --from=0 /x /\nCOPY --from=1 /x /\nRUN --mount=type=bind,from=d,target=/d true";
        assert_eq!(base_images(&instructions(dockerfile), &none), ["a", "r.example/c", "1", "d"]);
    }

    #[test]
    fn arguments_of_a_base_image_are_filled_in() {
        let given = BTreeMap::from([("tag".to_owned(), "2".to_owned())]);
        let dockerfile = "ARG host=\"r.example\" tag=1\nARG none\nFROM $host/a:${tag}\n\
             FROM ${host}/b:${none:-3}\nARG host=other\nFROM $host/c$";
        let images = base_images(&instructions(dockerfile), &given);
        assert_eq!(images, ["r.example/a:2", "r.example/b:3", "r.example/c"]);
    }

    #[test]
    fn an_argument_that_nothing_declares_is_found() {
        let given = ["a", "b", "c", "d", "https_proxy", "BUILDKIT_INLINE_CACHE"];
        let given = given.map(|name| (name.to_owned(), "x".to_owned())).into();
        let dockerfile = "ARG a=1\nFROM x\narg b \\\n  c=\"3\"\nRUN echo ARG d\n";
        assert_eq!(undeclared(&instructions(dockerfile), &given), ["d"]);
    }

    #[test]
    fn what_only_buildkit_understands_is_seen() {
        for (text, needed) in [
            ("RUN --mount=type=secret,id=a cat x", true),
            ("copy --chmod=600 a b", true),
            ("RUN <<EOF\nx\nEOF", true),
            ("RUN echo --mount=x << EOF", false),
            ("RUN cat <<<x", false),
            ("COPY --from=a --chown=1 b c", false),
        ] {
            assert_eq!(needs_buildkit(&instructions(text)), needed, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|([A-Z]{0,4} ?[a<\\\\#`=\"-]{0,6}\n){0,8}") {
            base_images(&instructions(&text), &BTreeMap::from([("a".into(), text.clone())]));
            Stages::of(instructions(&text)).line("", 1, 1, &text);
            frontend(&text);
        }
    }
}
