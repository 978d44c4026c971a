//! What a build answers and tells: steps, output, the cache, warnings, the image.

use container_svc::rpc::pb::{self, build_image_stream_response::Event};
use serde_json::{Value, json};

use super::{BUILDERS, Tree, build, count, finished};
use crate::support::{docker, unique};

fn id_of(name: &str) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}}", name])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_call_builds_and_answers_with_the_image() {
    let word = unique("hello");
    let tree = Tree::new("COPY a /a\n", &[("a", &word)]);
    let service = tree.service().await;
    let body = json!({"name": tree.name, "contextPath": tree.path("ctx")}).to_string();
    let (status, answer) = service.rest("PUT", "/container-svc/image", &body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["imageId"], id_of(&tree.name));
    assert_eq!(answer["builder"], "BUILDER_KIND_BUILDKIT");
    assert!(answer["size"].as_str().is_some_and(|size| size.len() > 5), "{answer}");
    assert!(answer["duration"].as_str().is_some_and(|took| took.ends_with('s')), "{answer}");
    assert_eq!(docker(&["run", "--rm", &tree.name, "cat", "/a"]), word);

    let named = json!({
        "name": tree.name, "contextPath": tree.path("ctx"), "dockerfilePath": "Other"
    });
    tree.write("ctx/Other", "FROM scratch\nCOPY a /b\n");
    let (status, answer) = service.rest("PUT", "/container-svc/image", &named.to_string()).await;
    assert_eq!((status, &answer["imageId"]), (200, &id_of(&tree.name).into()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_steps_output_warnings_and_what_the_cache_gave() {
    let unique = unique("arg");
    let tree = Tree::new("ARG X=none\n\nRUN echo \"out $X\"; \\\n  echo err >&2\nCOPY . /x\n", &[]);
    let service = tree.service().await;
    let arg = |key: &str| pb::EnvVar { key: key.into(), value: unique.clone() };
    let second = tree.name.replace(":1", ":2");
    let request = pb::BuildImageRequest {
        build_args: vec![arg("X"), arg("UNDECLARED")],
        labels: vec![pb::Label { key: "of".into(), value: unique.clone() }],
        tags: vec![second.clone()],
        ..tree.request()
    };
    let told = build(&service, request.clone()).await;
    let image = finished(&told);
    assert_eq!((&image.image_id, &id_of(&second)), (&id_of(&tree.name), &image.image_id));
    docker(&["rmi", &second]);
    let events = &told.0;
    assert!(matches!(&events[0], Event::Started(_)), "{events:?}");
    let steps: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step(step) => Some((step.number, step.total, step.line)),
            _ => None,
        })
        .collect();
    // The label is a step of the builder's own.
    assert_eq!(steps, [(1, 5, 1), (2, 5, 2), (3, 5, 4), (4, 5, 6), (5, 5, 0)]);
    let wrote = |stream: pb::LogStream| -> String {
        let logs = events.iter().filter_map(|event| match event {
            Event::Log(log) if log.stream() == stream && log.vertex == "3" => Some(&log.data),
            _ => None,
        });
        String::from_utf8(logs.flatten().copied().collect()).expect("text")
    };
    assert_eq!(wrote(pb::LogStream::Stdout), format!("out {unique}\n"));
    assert_eq!(wrote(pb::LogStream::Stderr), "err\n");
    let warned = |event: &Event| matches!(event, Event::Warning(warning) if warning.message.contains("UNDECLARED"));
    assert_eq!(count(events, warned), 1, "{events:?}");
    let sent = |event: &Event| matches!(event, Event::Progress(p) if p.id == "context" && p.current_bytes > 0);
    assert!(count(events, sent) > 0, "{events:?}");

    let again = build(&service, request.clone()).await;
    assert_eq!(finished(&again).image_id, image.image_id);
    assert_eq!(count(&again.0, |event| matches!(event, Event::Cached(_))), 4, "{again:?}");
    let anew = pb::BuildImageRequest { no_cache: true, ..request };
    let anew = build(&service, anew).await;
    assert_eq!(count(&anew.0, |event| matches!(event, Event::Cached(_))), 0, "{anew:?}");
    docker(&["rmi", &second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_is_told_with_its_line_its_code_and_its_last_output() {
    for (builder, ended) in BUILDERS.into_iter().zip(["non-zero code: 7", "exit code: 7"]) {
        let word = unique("words");
        let lines = format!("# why\nRUN echo one\nRUN echo the last {word}; exit 7\n");
        let tree = Tree::new(&lines, &[]);
        let service = tree.service().await;
        let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let (events, failed) = build(&service, request).await;
        let failed = failed.expect("it fails");
        assert_eq!(failed.code(), tonic::Code::FailedPrecondition, "{failed:?}");
        for part in ["step 3 of 3, line 4", "exit 7", ended] {
            assert!(failed.message().contains(part), "{part} in {failed:?}");
        }
        let Some(Event::Failed(told)) = events.last() else { panic!("{events:?}") };
        assert_eq!((told.exit_code, told.step.as_ref().map(|step| step.line)), (Some(7), Some(4)));

        let body = json!({
            "name": tree.name, "contextPath": tree.path("ctx"), "builder": builder.as_str_name()
        });
        let (status, answer) = service.rest("PUT", "/container-svc/image", &body.to_string()).await;
        assert_eq!((status, &answer["code"]), (400, &9.into()), "{answer}");
        let told = answer["message"].as_str().expect("a message");
        assert!(told.ends_with(&format!("it wrote last:\nthe last {word}")), "{told}");
        assert!(!told.contains("one\n"), "of the failing step alone: {told}");
        let name = tree.name.as_str();
        assert_eq!(docker(&["images", "-q", name]), "", "no image has the name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_gets_no_name_is_a_build_that_failed() {
    let word = unique("nameless");
    let tree = Tree::new(&format!("LABEL of={word}\n"), &[]);
    let service = tree.service().await;
    for builder in BUILDERS {
        // Which the engine gives to no image, as it begins a digest too.
        let name = "sha256:1".to_owned();
        let request = pb::BuildImageRequest { name, builder: builder.into(), ..tree.request() };
        let (events, failed) = build(&service, request).await;
        let failed = failed.expect("it gets no name");
        assert_eq!(failed.code(), tonic::Code::FailedPrecondition, "{failed:?}");
        assert!(failed.message().contains("ambiguous tag"), "{failed:?}");
        let Some(Event::Failed(told)) = events.last() else { panic!("{events:?}") };
        let step = told.step.as_ref().map_or(0, |step| step.number);
        assert_eq!(step, 0, "no step of the Dockerfile is at fault: {told:?}");
    }
    let filter = format!("label=of={word}");
    for id in docker(&["images", "-q", "--no-trunc", "--filter", &filter]).lines() {
        docker(&["rmi", id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_repeats_a_long_command_reaches_a_grpc_client_with_its_end() {
    let command = format!("RUN : {}; exit 9\n", "long ".repeat(8000));
    let tree = Tree::new(&command, &[]);
    let service = tree.service().await;
    for builder in BUILDERS {
        let request = pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let (events, failed) = build(&service, request).await;
        let failed = failed.expect("it fails");
        assert_eq!(failed.code(), tonic::Code::FailedPrecondition, "{failed:?}");
        let begins = "the build failed at step 2 of 2, line 2";
        assert!(failed.message().starts_with(begins), "{builder:?}: {failed:?}");
        assert!(failed.message().trim_end().ends_with('9'), "{failed:?}");
        let Some(Event::Failed(told)) = events.last() else { panic!("{events:?}") };
        assert_eq!((told.exit_code, told.message.len() < 40_000), (Some(9), true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_lines_or_events_over_rest() {
    let tree = Tree::new("COPY . /x\n", &[("word", &unique("word"))]);
    let service = tree.service().await;
    for builder in BUILDERS {
        let builder = builder.as_str_name();
        let body = json!({
            "name": tree.name, "contextPath": tree.path("ctx"), "builder": builder
        });
        let body = body.to_string();
        let path = "/container-svc/image/build";
        let (status, head, lines) = service.raw("POST", path, &body, &[]).await;
        assert_eq!(status, 200, "{lines}");
        assert!(head.contains("application/json"), "{head}");
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["result"]["started"]["builder"], builder);
        assert!(lines.iter().any(|line| line["result"]["step"]["number"] == 2), "{lines:?}");
        let last = &lines[lines.len() - 1]["result"]["finished"];
        assert_eq!(last["imageId"], id_of(&tree.name), "{last}");
        let more = ["-H", "Accept: text/event-stream"];
        let (_, head, events) = service.raw("POST", path, &body, &more).await;
        assert!(head.contains("text/event-stream"), "{head}");
        assert!(events.starts_with("data: {\"result\":{\"started\""), "{events}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_ends_the_build_and_its_own_platform_is_built() {
    let tree = Tree::new("RUN echo one > /one\nFROM scratch AS last\nCOPY a /a\n", &[("a", "a")]);
    let text = std::fs::read_to_string(tree.root().join("ctx/Dockerfile")).expect("a file");
    tree.write("ctx/Dockerfile", &text.replacen('\n', " AS first\n", 1));
    let service = tree.service().await;
    for builder in BUILDERS {
        let request = || pb::BuildImageRequest { builder: builder.into(), ..tree.request() };
        let target = pb::BuildImageRequest { target: "first".into(), ..request() };
        finished(&build(&service, target).await);
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/one"]), "one");
        let own = docker(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]);
        let here = pb::BuildImageRequest { platform: own.clone(), ..request() };
        finished(&build(&service, here).await);
        let of = ["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", tree.name()];
        assert_eq!(docker(&of), own);
        let wrong = pb::BuildImageRequest { platform: "no/where".into(), ..request() };
        let refused = build(&service, wrong).await.1.expect("there is none");
        let client = [tonic::Code::InvalidArgument, tonic::Code::FailedPrecondition];
        assert!(client.contains(&refused.code()), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_of_one_build_each_get_all_of_it() {
    let tree = Tree::new(&format!("ARG TURN\nRUN echo for both {}\n", unique("word")), &[]);
    let service = tree.service().await;
    for builder in BUILDERS {
        let request =
            || pb::BuildImageRequest { no_cache: true, builder: builder.into(), ..tree.request() };
        let (one, two) = tokio::join!(build(&service, request()), build(&service, request()));
        for told in [one, two] {
            finished(&told);
            let wrote = |event: &Event| matches!(event, Event::Log(log) if log.data.starts_with(b"for both"));
            assert_eq!(count(&told.0, wrote), 1, "{told:?}");
        }
    }
}
