//! The invariants of ARCHITECTURE.md, read off the sources.

#![expect(clippy::expect_used, reason = "a test says what it misses")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The crate's own modules that a file of the module may name.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("engine", &["domain"]),
    ("store", &["domain"]),
    ("gpu", &["domain"]),
    ("fetch", &["domain"]),
    ("probe", &["domain"]),
    ("app", &["engine", "store", "gpu", "fetch", "probe", "domain"]),
    ("rpc", &["app", "domain"]),
    ("gateway", &["rpc", "domain"]),
    ("config", &["domain"]),
];

/// Crates that only one place may name, and the place.
const OWNED: &[(&str, &str)] =
    &[("bollard", "engine"), ("rusqlite", "store"), ("reqwest", "fetch"), ("nvml_wrapper", "gpu")];

/// Crates that are not for `domain`.
const NOT_IN_DOMAIN: &[&str] = &[
    "tokio",
    "tonic",
    "prost",
    "prost_types",
    "axum",
    "bollard",
    "rusqlite",
    "reqwest",
    "nvml_wrapper",
    "container_svc_client",
];

/// Crates that are not for `app`: a use case knows no transport.
const NOT_IN_APP: &[&str] =
    &["tonic", "tonic_types", "axum", "prost", "prost_types", "pb", "container_svc_client"];

/// Where tasks may be spawned: their end is seen there.
const SPAWNS: &str = "app/tasks.rs";

/// Words that mean "without bound".
const UNBOUNDED: &[&str] = &["unbounded_channel", "usize::MAX", "UnboundedSender"];

/// What is wrong with a file at this path below src.
fn violations(path: &str, source: &str) -> Vec<String> {
    let module = path.split(['/', '.']).next().unwrap_or_default();
    let code = code(source);
    let mut wrong = Vec::new();

    if !source.starts_with("//!") {
        wrong.push("does not open with //!".to_owned());
    }
    // Unit tests may use what they need to make a world.
    if path.ends_with("/tests.rs") {
        return wrong;
    }
    if let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) {
        for other in crate_uses(&code) {
            let known = MAY_IMPORT.iter().any(|(name, _)| *name == other)
                || ["server", "cli"].contains(&other.as_str());
            if known && other != module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{module} imports {other}"));
            }
        }
    }
    for (name, owner) in OWNED {
        if module != *owner && names(&code, name) {
            wrong.push(format!("{module} names {name}, which is for {owner} alone"));
        }
    }
    let (not_here, place) = match module {
        "domain" => (NOT_IN_DOMAIN, "domain"),
        "app" => (NOT_IN_APP, "app"),
        _ => (&[] as &[&str], ""),
    };
    for name in not_here {
        if names(&code, name) {
            wrong.push(format!("{place} names {name}"));
        }
    }
    for word in UNBOUNDED {
        if code.contains(word) {
            wrong.push(format!("{word}: nothing is without bound"));
        }
    }
    if path != SPAWNS {
        for call in ["tokio::spawn(", "task::spawn("] {
            if code.contains(call) {
                wrong.push(format!("{call}…): spawn through {SPAWNS}"));
            }
        }
    }
    wrong
}

/// The source without comments and without its unit tests: a module of tests that is
/// written out comes last, one in a file of its own may be named anywhere.
fn code(source: &str) -> String {
    let mut kept = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("#[cfg(test)]")
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.contains('{'))
        {
            break;
        }
        if !line.trim_start().starts_with("//") {
            kept.push_str(line.split(" // ").next().unwrap_or_default());
            kept.push('\n');
        }
    }
    kept
}

/// The modules that are named by `crate::x`, or in the braces of `crate::{x, …}`.
fn crate_uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut word) = (0_i32, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                    c if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            found.push(word);
        } else {
            found.push(rest.to_owned());
        }
    }
    let head = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    found.iter().map(|text| head(text)).filter(|name| !name.is_empty()).collect()
}

/// Whether a path begins with this crate or module: `name::`, or `use name;`.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        starts && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is there") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_sources_hold_the_invariants() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 5, "src was not found");
    files.sort();

    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        let source = fs::read_to_string(&file).expect("a readable source");
        wrong.extend(violations(&path, &source).into_iter().map(|w| format!("src/{path}: {w}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_broken_invariant_is_found() {
    let bad = [
        ("domain/spec.rs", "//! x\nuse tokio::time::sleep;"),
        ("domain/spec.rs", "//! x\nuse crate::engine::Engine;"),
        ("domain/spec.rs", "//! x\nfn f(c: prost_types::Timestamp) {}"),
        ("engine/mod.rs", "//! x\nuse crate::store::Store;"),
        ("store/mod.rs", "//! x\nuse crate::{domain::{Error, Kind}, app::Run};"),
        ("fetch/mod.rs", "//! x\nuse crate::{\n    domain::Error,\n    engine::Engine,\n};"),
        ("app/run.rs", "//! x\nuse tonic::Status;"),
        ("app/run.rs", "//! x\nuse crate::rpc::pb;"),
        ("app/run.rs", "//! x\nfn f() -> pb::Container {}"),
        ("rpc/mod.rs", "//! x\nuse crate::gateway::Bridge;"),
        ("rpc/mod.rs", "//! x\nuse bollard::Docker;"),
        ("server.rs", "//! x\nfn f(c: rusqlite::Connection) {}"),
        ("cli/mod.rs", "//! x\nuse reqwest::Client;"),
        ("rpc/watch.rs", "//! x\nlet (a, b) = mpsc::unbounded_channel();"),
        ("rpc/mod.rs", "//! x\nx.max_decoding_message_size(usize::MAX);"),
        ("server.rs", "//! x\ntokio::spawn(async {});"),
        ("config.rs", "//! x\n#[cfg(test)]\nmod tests;\n\nuse crate::app::App;"),
        ("app/run.rs", "//! x\n    #[cfg(test)]\n    fn f() {}\nfn g() { tokio::spawn(h()); }"),
        ("server.rs", "use std::fs;"),
    ];
    for (path, source) in bad {
        assert!(!violations(path, source).is_empty(), "not found in {path}: {source}");
    }
}

#[test]
fn what_is_allowed_is_not_a_violation() {
    let good = [
        ("domain/spec.rs", "//! x\nuse crate::domain::Error;\nuse sha2::Sha256;"),
        ("engine/mod.rs", "//! x\nuse bollard::Docker;\nuse crate::domain::Error;"),
        ("app/run.rs", "//! x\n// not tonic::Status\nuse crate::{domain::Error, engine::Engine};"),
        ("app/tasks.rs", "//! x\ntokio::spawn(async {});"),
        (
            "app/run.rs",
            "//! x\nfn f() {}\n#[cfg(test)]\nmod tests { fn g() { tokio::spawn(f()); } }",
        ),
        ("server.rs", "//! x\nuse crate::{app::App, gateway, rpc};"),
    ];
    for (path, source) in good {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{path}: {source}");
    }
}
