//! Builds by BuildKit: its graph as steps, secrets, mounts, and the same errors.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use container_svc::rpc::pb::{self, build_image_stream_response::Event};
use serde_json::json;
use tonic::Code;

use super::{Tree, begin, build, count, finished, powers::frontend};
use crate::{
    registry::Registry,
    support::{Service, docker, eventually, image, unique},
};

pub(super) fn by_buildkit(tree: &Tree) -> pb::BuildImageRequest {
    pb::BuildImageRequest { builder: pb::BuilderKind::Buildkit.into(), ..tree.request() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_by_buildkit_tells_steps_output_and_the_cache() {
    let word = unique("kit");
    let tree = Tree::new(&format!("COPY a /a\n\nRUN echo {word}; echo err >&2\n"), &[("a", "a")]);
    let service = tree.service().await;
    let told = build(&service, by_buildkit(&tree)).await;
    let made = finished(&told);
    assert_eq!(made.builder(), pb::BuilderKind::Buildkit);
    assert_eq!(made.image_id, docker(&["image", "inspect", "--format", "{{.Id}}", tree.name()]));
    let events = &told.0;
    let run_of = |events: &[Event]| {
        let run = events.iter().find_map(|event| match event {
            Event::Step(step) if step.name.starts_with("RUN") => Some(step.clone()),
            _ => None,
        });
        run.expect("the step")
    };
    let run = run_of(events);
    assert_eq!((run.number, run.total, run.line), (3, 3, 4), "{run:?}");
    for (stream, text) in [(pb::LogStream::Stdout, word.as_str()), (pb::LogStream::Stderr, "err")] {
        let wrote = |event: &Event| matches!(event, Event::Log(log) if log.stream() == stream && log.vertex == run.vertex && String::from_utf8_lossy(&log.data).contains(text));
        assert_eq!(count(events, wrote), 1, "{text} in {events:?}");
    }
    let again = build(&service, by_buildkit(&tree)).await;
    let run = run_of(&again.0);
    let cached =
        |event: &Event| matches!(event, Event::Cached(cached) if cached.vertex == run.vertex);
    assert_eq!(count(&again.0, cached), 1, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_the_step_that_mounts_it_and_nothing_else() {
    let value = unique("hush");
    let tree =
        Tree::new("RUN --mount=type=secret,id=key busybox wc -c < /run/secrets/key > /size\n", &[]);
    let service = tree.service().await;
    let secret = pb::BuildSecret { id: "key".into(), value: value.clone().into_bytes() };
    let request = pb::BuildImageRequest { secrets: vec![secret], no_cache: true, ..tree.plain() };
    let told = build(&service, request).await;
    assert_eq!(finished(&told).builder(), pb::BuilderKind::Buildkit, "chosen by itself");
    assert!(!format!("{told:?}").contains(&value));
    let size = docker(&["run", "--rm", tree.name(), "cat", "/size"]);
    assert_eq!(size, value.len().to_string());
    let left = "busybox grep -rl hush /run /etc /tmp | busybox wc -l";
    assert_eq!(docker(&["run", "--rm", tree.name(), "sh", "-c", left]), "0");
    assert!(!docker(&["history", "--no-trunc", tree.name()]).contains(&value));

    let missing = pb::BuildImageRequest { no_cache: true, ..tree.plain() };
    let missing = build(&service, missing).await.1;
    assert!(missing.is_some(), "the step has no secret to read");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_step_prints_of_a_secret_is_told_nowhere() {
    let value = unique("hush");
    let step = "RUN --mount=type=secret,id=key cat /run/secrets/key; echo; exit 3\n";
    let tree = Tree::new(step, &[]);
    let service = tree.service().await;
    let secret = pb::BuildSecret { id: "key".into(), value: value.clone().into_bytes() };
    let request = pb::BuildImageRequest { secrets: vec![secret], no_cache: true, ..tree.plain() };
    let told = build(&service, request).await;
    let hidden =
        |event: &Event| matches!(event, Event::Log(log) if log.data.starts_with(b"[redacted]"));
    assert_eq!(count(&told.0, hidden), 1, "{told:?}");
    let in_bytes = format!("{:?}", value.as_bytes());
    let in_bytes = in_bytes.trim_matches(['[', ']']);
    let text = format!("{told:?}");
    assert!(!text.contains(&value) && !text.contains(in_bytes), "{text}");
    let secrets = json!([{"id": "key", "value": STANDARD.encode(&value)}]);
    let body = json!({"name": tree.name(), "contextPath": tree.path("ctx"), "secrets": secrets});
    let (_, answer) = service.rest("PUT", "/container-svc/image", &body.to_string()).await;
    let answer = answer.to_string();
    assert!(answer.contains("it wrote last:\\n[redacted]") && !answer.contains(&value), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_buildkit_are_told_as_those_of_the_classic_builder() {
    let tree = Tree::new("RUN echo the last words; exit 7\n", &[]);
    let service = tree.service().await;
    let (events, failed) = build(&service, by_buildkit(&tree)).await;
    let failed = failed.expect("it fails");
    assert_eq!(failed.code(), Code::FailedPrecondition, "{failed:?}");
    assert!(failed.message().contains("step 2 of 2, line 2"), "{failed:?}");
    let told = events.iter().find_map(|event| match event {
        Event::Failed(failed) => Some(failed),
        _ => None,
    });
    assert_eq!(told.and_then(|told| told.exit_code), Some(7), "{events:?}");

    tree.write("ctx/Dockerfile", "FROM scratch\n\nRUUN echo hi\n");
    let wrong = build(&service, by_buildkit(&tree)).await.1.expect("it is wrong");
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong:?}");
    assert!(wrong.message().contains("line 3, \"RUUN echo hi\""), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_has_its_line_by_the_engines_own_frontend_and_by_a_newer_one() {
    let tree = Tree::new("", &[("a", "a")]);
    let service = tree.service().await;
    for head in ["# plain\n".to_owned(), format!("# syntax={}\n", frontend())] {
        let text = format!(
            "ARG base={base}\nFROM $base AS One\nARG X={word}\nRUN echo \\\n  \
                \"a $X\" && \\\n  # why\n\\\n  ec\\\nho two\n\
             COPY \"a\" /$X/\nWORKDIR \"/w\"\nRUN echo twice\nRUN echo twice\n\
             FROM {base}\nENV y={word}\ncopy --from=one /$y \\\n  /x/\n\
             RUN [\"echo\", \"{word}\"]\nRUN echo twice\n\
             FROM scratch\nCOPY --from=1 /x /x\nENV y={word}\nCOPY --from=one $y/a \"/y\"\n",
            base = image(),
            word = unique("word"),
        );
        tree.write("ctx/Dockerfile", &format!("{head}{text}"));
        let told = build(&service, by_buildkit(&tree)).await;
        finished(&told);
        // Of what builds at the same time share, as a base image, one tells the name of another.
        let of_this = |step: &pb::BuildStep| step.number > 0 && !step.name.starts_with("FROM");
        let mut steps: Vec<_> = told
            .0
            .iter()
            .filter_map(|event| match event {
                Event::Step(step) if of_this(step) => Some((step.line, step.name.as_str())),
                _ => None,
            })
            .collect();
        steps.sort_unstable();
        let lines: Vec<_> = steps.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [5, 11, 12, 13, 14, 17, 19, 20, 22, 24], "{head}{steps:?}");
    }
}

/// Of two steps that run at once one fails, when the other wrote last; the other one, which
/// is only cancelled, is told to have failed last of all.
#[tokio::test(flavor = "multi_thread")]
async fn of_steps_that_run_at_once_the_one_that_fails_is_told_with_its_own_output() {
    let tree = Tree::with_steps_at_once();
    let service = tree.service().await;
    let (events, failed) = build(&service, tree.plain()).await;
    let failed = failed.expect("it fails");
    assert!(failed.message().contains("step 2 of 2, line 5"), "{failed:?} after {events:?}");
    assert!(failed.message().ends_with("exit code: 7"), "{failed:?}");
    let told = events.iter().find_map(|event| match event {
        Event::Failed(failed) => failed.step.clone(),
        _ => None,
    });
    assert!(told.is_some_and(|step| step.line == 5 && step.name.contains("the reason")));

    let tree = Tree::with_steps_at_once();
    let service = tree.service().await;
    let body = json!({"name": tree.name(), "contextPath": tree.path("ctx")}).to_string();
    let (_, answer) = service.rest("PUT", "/container-svc/image", &body).await;
    let told = answer["message"].as_str().expect("a message");
    assert!(told.contains("line 5") && told.ends_with("it wrote last:\nthe reason"), "{told}");
    let (_, events) = service.rest("POST", "/container-svc/events", "{}").await;
    assert!(events.to_string().contains("step 2 of 2, line 5"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_by_buildkit_that_nobody_listens_to_ends() {
    let word = unique("left");
    let tree = Tree::new(&format!("RUN echo {word}; sleep 1000.{}\n", std::process::id()), &[]);
    let service = tree.service().await;
    let mut stream = begin(&service, by_buildkit(&tree)).await.expect("it begins");
    loop {
        let message = stream.message().await.expect("it goes on").expect("it goes on");
        if let Some(Event::Log(log)) = message.event
            && String::from_utf8_lossy(&log.data).contains(&word)
        {
            break;
        }
    }
    drop(stream);
    let step = format!("sleep 1000.{}", std::process::id());
    eventually("the step is gone", || async {
        let all = std::process::Command::new("ps").args(["-eo", "args"]).output().expect("ps");
        !String::from_utf8_lossy(&all.stdout).lines().any(|line| line.starts_with(&step))
    })
    .await;
    assert_eq!(docker(&["images", "-q", tree.name()]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn base_images_come_from_a_closed_registry_for_both_builders() {
    let registry = Registry::start(true).await;
    let tree = Tree::new("", &[]);
    let (config, root) = (registry.config_of("alice"), tree.root().to_owned());
    let service = Service::with(|with| {
        with.docker_config = Some(config);
        with.build_roots = vec![root];
    });
    let service = service.await.synced().await;
    let tag = image();
    for (builder, base) in [
        (pb::BuilderKind::Classic, registry.push("classic")),
        (pb::BuilderKind::Buildkit, registry.push("kit")),
    ] {
        tree.write("ctx/Dockerfile", &format!("FROM {base}\nLABEL of={tag}\n"));
        let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let told = build(&service, request).await;
        assert_eq!(finished(&told).builder(), builder);
        // One that is only copied from, and one whose name an argument completes.
        let other = registry.push("other");
        let (host, rest) = other.split_once('/').expect("a registry");
        let lines =
            format!("ARG host\nFROM $host/{rest}\nFROM scratch\nCOPY --from={other} /noise /x\n");
        tree.write("ctx/Dockerfile", &lines);
        let arg = pb::EnvVar { key: "host".into(), value: host.into() };
        let request = pb::BuildImageRequest {
            builder: builder.into(),
            build_args: vec![arg],
            ..tree.request()
        };
        finished(&build(&service, request).await);
        docker(&["rmi", "-f", &other]);
    }
}

/// BuildKit gives a session up that does not answer for some seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_does_not_end_the_session_of_its_build() {
    let longer_than_buildkit_waits = std::time::Duration::from_secs(20);
    let tree = Tree::new(
        "RUN busybox yes 'more than waits for a reader' | busybox head -c 8000000\n\
         RUN --mount=type=secret,id=key busybox cat /run/secrets/key > /dev/null\n",
        &[],
    );
    let service = tree.service().await;
    let secret = pb::BuildSecret { id: "key".into(), value: b"hush".to_vec() };
    let request = pb::BuildImageRequest { secrets: vec![secret], no_cache: true, ..tree.plain() };
    let mut stream = begin(&service, request).await.expect("it begins");
    loop {
        let message = stream.message().await.expect("it goes on").expect("it goes on");
        if matches!(message.event, Some(Event::Log(_))) {
            break;
        }
    }
    let never = std::future::pending::<()>();
    drop(tokio::time::timeout(longer_than_buildkit_waits, never).await);
    let mut last = None;
    while let Some(message) = stream.message().await.expect("the secret came") {
        last = message.event;
    }
    assert!(matches!(last, Some(Event::Finished(_))), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_mount_keeps_what_a_step_wrote_for_later_builds_and_for_no_image() {
    let cache = unique("cache");
    let tree = Tree::new(
        &format!(
            "ARG TURN\nRUN --mount=type=cache,id={cache},target=/cache \\\n  \
             echo $TURN >> /cache/turns && busybox wc -l < /cache/turns > /count\n"
        ),
        &[],
    );
    let service = tree.service().await;
    for turn in ["1", "2", "3"] {
        let arg = pb::EnvVar { key: "TURN".into(), value: turn.into() };
        let request = pb::BuildImageRequest { build_args: vec![arg], ..tree.plain() };
        let told = build(&service, request).await;
        assert_eq!(finished(&told).builder(), pb::BuilderKind::Buildkit, "chosen by itself");
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/count"]), turn);
    }
    let left = "test ! -e /cache/turns && echo nothing";
    assert_eq!(docker(&["run", "--rm", tree.name(), "sh", "-c", left]), "nothing");
}

/// A step without its sandbox, and one in the network of the node: nobody has them by
/// writing so.
#[tokio::test(flavor = "multi_thread")]
async fn no_build_gets_powers_beyond_those_of_a_plain_step() {
    let word = unique("power");
    let tree = Tree::new("", &[]);
    let service = tree.service().await;
    let text = std::fs::read_to_string(tree.root().join("ctx/Dockerfile")).expect("a file");
    for builder in
        [pb::BuilderKind::Unspecified, pb::BuilderKind::Classic, pb::BuilderKind::Buildkit]
    {
        for power in ["--security=insecure", "--network=host"] {
            tree.write("ctx/Dockerfile", &format!("{text}RUN {power} echo {word}; exit 1\n"));
            let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
            let (events, refused) = build(&service, request).await;
            let refused = refused.expect("it is refused");
            let client = [Code::InvalidArgument, Code::FailedPrecondition];
            assert!(client.contains(&refused.code()), "{power} by {builder:?}: {refused:?}");
            let ran = |event: &Event| matches!(event, Event::Log(log) if String::from_utf8_lossy(&log.data).contains(&word));
            assert_eq!(count(&events, ran), 0, "{power} by {builder:?}: {events:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_argument_that_no_step_declares_is_warned_of_by_both_builders() {
    let tree = Tree::new("ARG KNOWN\nRUN true\n", &[]);
    let service = tree.service().await;
    for builder in [pb::BuilderKind::Classic, pb::BuilderKind::Buildkit] {
        let arg = |key: &str| pb::EnvVar { key: key.into(), value: unique("arg") };
        let request = pb::BuildImageRequest {
            builder: builder.into(),
            build_args: vec![arg("KNOWN"), arg("STRAY")],
            ..tree.request()
        };
        let told = build(&service, request).await;
        finished(&told);
        let warnings: Vec<_> = told
            .0
            .iter()
            .filter_map(|event| match event {
                Event::Warning(warning) => Some(warning.message.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(warnings.len(), 1, "{builder:?}: {told:?}");
        let names = (warnings[0].contains("STRAY"), warnings[0].contains("KNOWN"));
        assert_eq!(names, (true, false), "{builder:?}: {warnings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_arrive_and_a_newer_base_is_taken_only_when_that_is_asked_for() {
    let registry = Registry::start(false).await;
    let base = registry.push("base");
    let tree = Tree::new("", &[]);
    tree.write("ctx/Dockerfile", &format!("FROM {base}\nRUN true\n"));
    let (nobody, root) = (registry.config_of("nobody"), tree.root().to_owned());
    let service = Service::with(|config| {
        config.docker_config = Some(nobody);
        config.build_roots = vec![root];
    });
    let service = service.await.synced().await;
    let layers = |name: &str| docker(&["image", "inspect", "-f", "{{.RootFS.Layers}}", name]);
    for builder in [pb::BuilderKind::Classic, pb::BuilderKind::Buildkit] {
        let label = pb::Label { key: "team".into(), value: format!("{builder:?}") };
        let request = |pull| pb::BuildImageRequest {
            builder: builder.into(),
            labels: vec![label.clone()],
            pull,
            ..tree.request()
        };
        finished(&build(&service, request(false)).await);
        let label = ["image", "inspect", "-f", "{{.Config.Labels.team}}", tree.name()];
        assert_eq!(docker(&label), format!("{builder:?}"));
        let before = layers(tree.name());
        // Another content of the same tag, which the node has not; then the old one again.
        let kept = format!("{}:1", unique("kept"));
        docker(&["tag", &base, &kept]);
        registry.push("base");
        docker(&["tag", &kept, &base]);
        docker(&["rmi", &kept]);
        finished(&build(&service, request(false)).await);
        assert_eq!(layers(tree.name()), before, "{builder:?}");
        finished(&build(&service, request(true)).await);
        assert_ne!(layers(tree.name()), before, "{builder:?}");
    }
    docker(&["rmi", "-f", &base]);
}
