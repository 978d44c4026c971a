//! `build`, `images`, `push` and `rmi`: for a person, for a script, as JSON.

use serde_json::Value;

use super::{Ended, PROGRAM, cli, end, of};
use crate::{
    builds::Tree,
    registry::Registry,
    support::{docker, unique},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_shown_live_to_a_person_and_as_lines_to_a_script() {
    for builder in ["classic", "auto"] {
        let (out, why) = (unique("out"), unique("reason"));
        let lines = format!("RUN echo {out}\nRUN echo the {why} >&2; test -e /fixed\n");
        shown(&Tree::new(&lines, &[]), builder, &out, &why).await;
    }
}

async fn shown(tree: &Tree, builder: &str, word: &str, why: &str) {
    let service = tree.service().await;
    let (path, name) = (tree.path("ctx"), tree.name());
    let args = ["build", "--builder", builder, "-t", name, &path];
    // `script` runs it under a terminal of its own, of a known size.
    let person = || {
        let mut person = of(&service, "script");
        let line = format!("stty cols 120 rows 30; exec {PROGRAM} {}", args.join(" "));
        person.env("TERM", "xterm").args(["-qec", &line, "/dev/null"]);
        end(person)
    };
    let Ended { code, out, .. } = person().await;
    assert_eq!(code, Some(6), "{out}");
    let last: Vec<_> = out.lines().rev().take(3).collect();
    assert!(last[0].contains("error: the build failed at step 3 of 3, line 3"), "{last:?}");
    assert!(last[1].contains(why), "its output last: {last:?}");
    let script = cli(&service, &args).await;
    assert_eq!((script.code, script.out.as_str()), (Some(6), ""));
    let (step, why) = (format!("[2/3] RUN echo {word}\n"), format!("the {why}\n"));
    for part in [&step, "  cached\n", &why, "error: the build failed"] {
        assert!(script.err.contains(part), "{part:?} in {}", script.err);
    }
    let said = |ended: &Ended| ended.err.lines().filter(|line| *line == why.trim_end()).count();
    assert_eq!(said(&script), 1, "it stands there already: {}", script.err);
    let silent = cli(&service, &[&args[..], &["-q"]].concat()).await;
    assert!(silent.err.starts_with(&format!("{why}error: ")), "{silent:?}");

    let fixed = tree.root().join("ctx/Dockerfile");
    let text = std::fs::read_to_string(&fixed).expect("a file").replace("; test -e /fixed", "");
    std::fs::write(&fixed, text).expect("a file");
    let Ended { code, out, .. } = person().await;
    assert_eq!(code, Some(0), "{out}");
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", name]);
    let step = format!("[2/3] RUN echo {word}  cached");
    for part in [&step, "built in ", "MiB", &id] {
        assert!(out.contains(part), "{part} in {out}");
    }
    let quiet = cli(&service, &[&args[..], &["-q"]].concat()).await.done();
    assert_eq!(quiet, format!("{id}\n"));
    let json = cli(&service, &[&args[..], &["--json"]].concat()).await.done();
    let lines: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[lines.len() - 1]["finished"]["imageId"], id);
}

/// A terminal of 120 columns, in which a step that began later runs beside the one that fails.
#[tokio::test(flavor = "multi_thread")]
async fn the_step_that_failed_is_shown_and_not_one_that_ran_beside_it() {
    let tree = Tree::with_steps_at_once();
    let service = tree.service().await;
    let mut person = of(&service, "script");
    let (path, name) = (tree.path("ctx"), tree.name());
    let line = format!("stty cols 120 rows 30; exec {PROGRAM} build -t {name} {path}");
    person.env("TERM", "xterm").args(["-qec", &line, "/dev/null"]);
    let Ended { code, out, .. } = end(person).await;
    assert_eq!(code, Some(6), "{out}");
    let (shown, rest) = out.rsplit_once("  failed").expect("a step failed");
    let step = shown.rsplit('\r').next().unwrap_or_default();
    assert!(step.contains("echo the reason") && !step.contains("echo noise"), "{step}");
    let last: Vec<_> = rest.lines().rev().take(2).collect();
    assert!(last[0].contains("error: the build failed at step 2 of 2, line 5"), "{last:?}");
    assert!(last[1].ends_with("the reason"), "its output last: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_step_that_failed_wrote_comes_last_where_others_wrote_beside_it() {
    let tree = Tree::with_steps_at_once();
    let service = tree.service().await;
    let path = tree.path("ctx");
    let args = ["build", "-t", tree.name(), &path];
    let script = cli(&service, &args).await;
    assert_eq!(script.code, Some(6), "{script:?}");
    let (before, last) = script.err.rsplit_once("  failed\n").expect("a step failed");
    assert!(before.contains("\nnoise\n"), "{before}");
    assert!(last.starts_with("the reason\nerror: the build failed"), "{last}");
    let silent = cli(&service, &[&args[..], &["-q"]].concat()).await;
    assert!(silent.err.starts_with("the reason\nerror: the build failed"), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_pushed_and_removed_by_the_command_line() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let name = registry.make("cli");
    let pushed = cli(&service, &["push", &name]).await;
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    assert!(pushed.out.starts_with("sha256:") && pushed.out.lines().count() == 1, "{pushed:?}");
    assert!(pushed.err.contains(": Pushed"), "{pushed:?}");

    let table = cli(&service, &["images", &name]).await.done();
    let [heading, row] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    let words: Vec<&str> = heading.split_whitespace().collect();
    assert_eq!(words, ["ID", "NAMES", "SIZE", "AGE", "USED", "BY"]);
    assert!(row.contains(&name) && row.contains("MiB"), "{row}");
    let id = cli(&service, &["images", "-q", &name]).await.done();
    assert_eq!(id.trim(), docker(&["image", "inspect", "--format", "{{.Id}}", &name]));

    let removed = cli(&service, &["rmi", &name]).await.done();
    assert!(removed.starts_with(&format!("{name}\n")), "{removed}");
    assert_eq!(cli(&service, &["rmi", &name]).await.code, Some(3));
    let dry = ["rmi", "--unused", "--all", "--older-than", "3650d", "--keep", "1TiB", "--dry-run"];
    let dry = cli(&service, &dry).await;
    assert_eq!((dry.code, dry.out.as_str()), (Some(0), ""), "{dry:?}");
    assert!(dry.err.starts_with("0 images would go"), "{dry:?}");
}
