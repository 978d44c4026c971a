//! What the words mean, and what is printed.

use clap::Parser;
use tonic::Status;

use super::{
    select::{By, first_found},
    *,
};
use crate::cli::output::Target;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Line::parse_from(["logs"].into_iter().chain(line.split_whitespace())).args
}

fn sources(line: &str) -> Vec<Source> {
    args(line).sources().unwrap()
}

fn word(word: &str) -> Source {
    Source::Word(word.to_owned())
}

fn pattern(glob: &str) -> Source {
    Source::Pattern(glob.to_owned())
}

fn log(container: &str, position: i64, stream: pb::LogStream, content: &str) -> pb::Log {
    pb::Log {
        id: format!("{container}-{position}"),
        node_id: "n".into(),
        container_id: container.into(),
        created_at: Some(prost_types::Timestamp { seconds: 1, nanos: 20_000_000 }),
        content: content.into(),
        stream: Some(stream.into()),
        position: Some(position),
        ..Default::default()
    }
}

fn out(content: &str) -> pb::Log {
    log("c", 0, pb::LogStream::Stdout, content)
}

fn err(content: &str) -> pb::Log {
    log("c", 0, pb::LogStream::Stderr, content)
}

fn gap(reason: &str, count: Option<i64>) -> pb::Log {
    let gap = pb::LogGap { reason: reason.into(), count, ..Default::default() };
    pb::Log { gap: Some(gap), ..out("") }
}

fn written(renderer: &mut Renderer) -> Vec<(Target, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    renderer.take().map(|(target, bytes)| (target, text(bytes))).collect()
}

fn render(line: &str, logs: &[pb::Log]) -> Vec<(Target, String)> {
    let mut renderer = Renderer::new(&args(line), None);
    logs.iter().for_each(|log| renderer.log(log, None).unwrap());
    written(&mut renderer)
}

#[test]
fn words_are_names_and_stars_make_patterns() {
    assert_eq!(sources("web db web"), [word("web"), word("db")]);
    assert_eq!(sources("web-* a?"), [pattern("web-*"), pattern("a?")]);
    assert_eq!(sources("web --pattern w*"), [word("web"), pattern("w*")]);
    assert_eq!(sources("--label a=b"), [Source::Any]);
    assert_eq!(sources("-a"), [Source::Any]);
    let nobody = Line::try_parse_from(["logs", "-f"]).err().unwrap().to_string();
    assert!(nobody.contains("<NAME|--pattern <GLOB>|--label <LABEL>|--all>"), "{nobody}");
    for line in ["logs --label=", "logs web --pattern=", "logs --pattern="] {
        let args = Line::parse_from(line.split_whitespace()).args;
        assert_eq!(args.sources().is_ok(), line.contains("web"), "{line}");
    }
}

#[test]
fn a_word_is_tried_as_a_name_an_id_and_a_hash() {
    let by = |text: &str| text.to_owned();
    let cafe = [By::Name(by("cafe")), By::Id(by("cafe")), By::Hash(by("cafe"))];
    assert_eq!(word("cafe").meanings(), cafe);
    assert_eq!(word("web").meanings(), [By::Name(by("web")), By::Hash(by("web"))]);
    assert_eq!(word("v1:cafe").meanings(), [By::Hash(by("v1:cafe"))]);
    assert_eq!(pattern("w*").meanings(), [By::Pattern(by("w*"))]);
}

#[tokio::test]
async fn only_what_is_not_found_is_tried_otherwise() {
    let ask = async |by: By| match by {
        By::Name(_) => Err(Failure::from(Status::not_found("no name"))),
        By::Id(_) => Err(Status::not_found("no id").into()),
        other => Ok(other),
    };
    let found = first_found(word("cafe").meanings(), ask).await.unwrap();
    assert_eq!(found, By::Hash("cafe".into()));
    let none = async |by: By| match by {
        By::Name(_) => Err::<(), _>(Failure::from(Status::not_found("no name"))),
        _ => Err(Status::not_found("no other").into()),
    };
    let failure = first_found(word("cafe").meanings(), none).await.unwrap_err();
    assert_eq!((failure.to_string().as_str(), failure.code()), ("no name", 3));
    let refused = async |_| Err::<(), _>(Failure::from(Status::permission_denied("no")));
    assert_eq!(first_found(word("cafe").meanings(), refused).await.unwrap_err().code(), 4);
}

#[test]
fn all_lines_are_asked_for_unless_the_flags_say_less() {
    let epoch = Some(prost_types::Timestamp::default());
    let all = args("web").tail_request();
    assert_eq!((all.since, all.last_lines, all.no_follow), (epoch, None, true));
    assert_eq!(all.view(), pb::LogView::Full);
    let last = args("web -f -n 5 --since 10m --stream stderr --grep-i x -l a=b");
    let request = last.tail_request();
    assert_eq!((request.since, request.last_lines, request.no_follow), (None, Some(5), false));
    assert_eq!(last.oldest(), last.since, "left out here");
    assert_eq!(request.streams, [i32::from(pb::LogStream::Stderr)]);
    assert_eq!((request.contains_ignore_case.as_str(), request.label.as_str()), ("x", "a=b"));
    let until = args("web -n 5 --until 1m --regex a.b").list_request();
    assert_eq!((until.order(), until.page_size), (pb::LogOrder::NewestFirst, 5));
    assert_eq!((until.regex.as_str(), until.until.is_some()), ("a.b", true));
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let bad = [
        "web --grep a --regex b",
        "web --grep a --grep-i b",
        "web -f --until 1m",
        "web --all",
        "web --tail x",
        "web --since tomorrow",
        "web --stream both",
    ];
    for line in bad {
        let words = ["logs"].into_iter().chain(line.split_whitespace());
        assert!(Line::try_parse_from(words).is_err(), "{line}");
    }
}

#[test]
fn each_stream_goes_where_the_container_wrote_it_in_order() {
    use Target::{Stderr, Stdout};
    let lines = [out("a"), out("b"), err("c"), out("d")];
    let expected = [(Stdout, "a\nb\n".to_owned()), (Stderr, "c\n".into()), (Stdout, "d\n".into())];
    assert_eq!(render("web", &lines), expected);
    let timed = [(Stdout, "1970-01-01T00:00:01.020000000Z a\n".to_owned())];
    assert_eq!(render("web -t", &[out("a")]), timed);
}

#[test]
fn bytes_are_exact_and_long_lines_are_joined_again() {
    let raw = pb::Log { raw: Some(b"\xff\x00".to_vec()), ..out("\u{fffd}") };
    let mut renderer = Renderer::new(&args("web"), None);
    renderer.log(&raw, None).unwrap();
    assert_eq!(renderer.take().collect::<Vec<_>>(), [(Target::Stdout, b"\xff\x00\n".to_vec())]);

    let part = pb::Log { continues: Some(true), ..out("long ") };
    let text = |line: &str| -> String {
        let written = render(line, &[part.clone(), err("other"), out("line"), out("next")]);
        written.into_iter().filter(|(to, _)| *to == Target::Stdout).map(|(_, text)| text).collect()
    };
    assert_eq!(text("web -t"), {
        let at = "1970-01-01T00:00:01.020000000Z";
        format!("{at} long line\n{at} next\n")
    });
    // A part that was left out must not glue lines together.
    assert_eq!(text("web --grep l"), "long \nline\nnext\n");
}

#[test]
fn missing_lines_are_told_on_stderr_and_say_why() {
    let told = |log: pb::Log| render("web", &[log]).remove(0);
    let note = |text: &str| (Target::Stderr, format!("--- {text} ---\n"));
    assert_eq!(told(gap("rotated", Some(120))), note("120 lines missing: rotated by the engine"));
    assert_eq!(told(gap("truncated", Some(1))), note("1 line missing: the log was truncated"));
    let damaged = note("some lines missing: the engine's log is damaged");
    assert_eq!(told(gap("damaged", None)), damaged);
    assert_eq!(told(gap("eaten", None)), note("some lines missing: eaten"));
    let mut renderer = Renderer::new(&args("web"), None);
    renderer.missed(Some(7), None);
    let left = note("7 lines left out: no longer stored, or read too late");
    assert_eq!(written(&mut renderer), [left]);
}

#[test]
fn a_prefix_is_padded_and_has_the_colour_of_its_name() {
    let name = |text| Some(names::Name { text, width: 5 });
    let mut plain = Renderer::new(&args("a b"), None);
    plain.log(&out("x"), name("web")).unwrap();
    plain.log(&gap("removed", None), name("web")).unwrap();
    let expected = [
        (Target::Stdout, "web   | x\n".to_owned()),
        (
            Target::Stderr,
            "web   | --- some lines missing: the container was removed before they were read ---\n"
                .to_owned(),
        ),
    ];
    assert_eq!(written(&mut plain), expected, "no terminal, no colour");

    let mut coloured = Renderer::new(&args("a b"), None).coloured();
    for text in ["web", "db", "web"] {
        coloured.log(&out("x"), name(text)).unwrap();
    }
    let text = written(&mut coloured).remove(0).1;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("\x1b[") && lines[0].ends_with("mweb   |\x1b[0m x"), "{text:?}");
    assert_eq!(lines[0], lines[2]);
    assert_ne!(lines[0].split('m').next(), lines[1].split('m').next(), "{text:?}");
}

#[test]
fn json_is_the_line_as_rest_tells_it_in_full() {
    let mut renderer = Renderer::new(&args("web"), Some(Json::of("Log").unwrap()));
    renderer.log(&err("a"), None).unwrap();
    renderer.log(&gap("rotated", Some(3)), None).unwrap();
    let [(Target::Stdout, text)] = &written(&mut renderer)[..] else { panic!("only stdout") };
    let lines: Vec<&str> = text.lines().collect();
    let common =
        r#"{"id":"c-0","nodeId":"n","containerId":"c","createdAt":"1970-01-01T00:00:01.020Z""#;
    assert_eq!(
        lines[0],
        format!(r#"{common},"content":"a","stream":"LOG_STREAM_STDERR","position":"0"}}"#)
    );
    let told = r#""gap":{"reason":"rotated","count":"3"}}"#;
    assert!(lines[1].starts_with(common) && lines[1].ends_with(told), "{}", lines[1]);
}

#[test]
fn a_line_that_two_words_mean_is_printed_once() {
    let mut once = Once::default();
    let stdout = pb::LogStream::Stdout;
    let mut seen = |container, position| once.seen(&log(container, position, stdout, ""));
    assert_eq!(
        [seen("a", 4), seen("a", 5), seen("a", 4), seen("a", 5)],
        [false, false, true, true]
    );
    assert!(!seen("b", 4) && !seen("a", 6));
}
