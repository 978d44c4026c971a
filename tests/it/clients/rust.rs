//! The Rust client, which the command line uses, against the same contract.

use std::time::Duration;

use container_svc_client::{
    Client, Explain as _, pb,
    tonic::{Code, Request, Status},
};
use tokio::process::Command;

use super::stage::{ROOT, Stage, succeeds};
use crate::support::image;

async fn open(stage: &Stage) -> Client {
    let client = Client::builder(&stage.service.url).token(&stage.service.token);
    client.connect().await.expect("it listens")
}

fn request(stage: &Stage, name: &str, script: &str) -> pb::RunContainerRequest {
    pb::RunContainerRequest {
        image: image().to_owned(),
        names: vec![format!("{}{name}", stage.name)],
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

async fn run(client: &Client, request: &pb::RunContainerRequest) -> pb::RunContainerResponse {
    client.containers().run_container(request.clone()).await.expect("it runs").into_inner()
}

/// Reads a stream to its end, and the error that it ends with.
async fn read<T>(
    mut stream: container_svc_client::tonic::Streaming<T>,
) -> (Vec<T>, Option<Status>) {
    let mut all = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => all.push(message),
            Ok(None) => return (all, None),
            Err(status) => return (all, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_created_then_unchanged_then_replaced_with_its_reasons() {
    let stage = Stage::set("rust").await;
    let client = open(&stage).await;
    let mut wanted = request(&stage, "run", "sleep 1000");
    assert_eq!(run(&client, &wanted).await.action(), pb::RunAction::Created);
    let again = run(&client, &wanted).await;
    assert_eq!((again.action(), again.started), (pb::RunAction::Unchanged, false));
    wanted.envs.push(pb::EnvVar { key: "A".into(), value: "b".into() });
    let replaced = run(&client, &wanted).await;
    assert_eq!(replaced.action(), pb::RunAction::Replaced);
    assert_eq!(replaced.differing_fields, ["envs"]);

    let mut made = vec![replaced.id];
    for name in ["page-1", "page-2"] {
        made.push(run(&client, &request(&stage, name, "sleep 1000")).await.id);
    }
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut list =
        pb::ListContainersRequest { managed_only: true, page_size: 2, ..Default::default() };
    loop {
        let page = client.containers().list_containers(list.clone()).await.expect("a page");
        let page = page.into_inner();
        seen.extend(page.containers.into_iter().map(|container| container.id));
        pages += 1;
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
    }
    seen.retain(|id| made.contains(id));
    seen.sort();
    made.sort();
    assert!(seen == made && pages >= 2, "{pages} pages of {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_follow_fail_and_end() {
    let stage = Stage::set("rust").await;
    let client = open(&stage).await;
    let script = "n=0; while n=$((n+1)); do echo $n; sleep 0.1; done";
    let id = run(&client, &request(&stage, "tail", script)).await.id;
    let tail =
        pb::TailLogsRequest { container_id: id, last_lines: Some(10_000), ..Default::default() };
    let mut tail = client.logs().tail_logs(tail).await.expect("a tail").into_inner();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let message = tail.message().await.expect("no error").expect("it goes on");
        seen.extend(message.logs.into_iter().map(|line| line.content));
    }
    assert_eq!(seen, (1..=seen.len()).map(|n| n.to_string()).collect::<Vec<_>>());
    // A stream that is dropped is cancelled.
    drop(tail);

    let build = pb::BuildImageStreamRequest {
        name: format!("{}build", stage.name),
        context_path: stage.build().display().to_string(),
        ..Default::default()
    };
    let build = client.builds().build_image_stream(build).await.expect("a build").into_inner();
    let (events, status) = read(build).await;
    let status = status.expect("it fails");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.facts().get("exitCode").map(String::as_str), Some("7"));
    let Some(pb::build_image_stream_response::Event::Failed(failed)) =
        events.last().and_then(|event| event.event.clone())
    else {
        panic!("{events:?}")
    };
    assert_eq!((failed.exit_code, failed.step.map(|step| step.number)), (Some(7), Some(3)));

    let pull = pb::PullImageRequest { name: stage.pull().to_owned(), ..Default::default() };
    let pull = client.images().pull_image(pull).await.expect("a pull").into_inner();
    let (progress, status) = read(pull).await;
    let last = progress.last().expect("progress");
    assert!(status.is_none() && last.done, "{status:?} {last:?}");
    assert!(last.progress.is_some_and(|all| all.layers_done > 0), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_why_to_programs() {
    let stage = Stage::set("rust").await;
    let client = open(&stage).await;
    let url = &stage.service.url;
    for (token, reason) in [(None, "NO_TOKEN"), (Some("wrong"), "BAD_TOKEN")] {
        let mut stranger = Client::builder(url);
        if let Some(token) = token {
            stranger = stranger.token(token);
        }
        let stranger = stranger.connect().await.expect("it listens");
        let refused = stranger.node().get_host(pb::GetHostRequest {}).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(refused.reason().as_deref(), Some(reason));
    }

    let viewer = Client::builder(url).token(stage.viewer()).connect().await.expect("it listens");
    let denied = request(&stage, "denied", "true");
    let denied = viewer.containers().run_container(denied).await.expect_err("denied");
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(denied.reason().as_deref(), Some("PERMISSION_MISSING"));
    assert_eq!(denied.facts()["permission"], "container-svc:container:run");

    let wrong = pb::RunContainerRequest {
        ports: vec![pb::PortMapping { internal: 70_000, ..Default::default() }],
        ..Default::default()
    };
    let wrong = client.containers().run_container(wrong).await.expect_err("wrong");
    let fields: Vec<_> = wrong.violations().into_iter().map(|wrong| wrong.field).collect();
    assert!(fields.contains(&"image".to_owned()), "{fields:?}");
    assert!(fields.contains(&"ports[0].internal".to_owned()), "{fields:?}");

    let mut watch = Request::new(pb::WatchContainersRequest::default());
    watch.set_timeout(Duration::from_millis(300));
    let ended = match client.containers().watch_containers(watch).await {
        Ok(watch) => read(watch.into_inner()).await.1.expect("it ends"),
        Err(status) => status,
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_the_authorities_that_are_trusted() {
    let stage = Stage::set("rust").await;
    let pem = std::fs::read(stage.ca()).expect("a certificate");
    let client = Client::builder(stage.tls()).token(&stage.service.token).ca(pem).connect().await;
    let client = client.expect("it is trusted");
    assert!(client.node().get_host(pb::GetHostRequest {}).await.is_ok());
    let stranger = Client::builder(stage.tls()).connect().await.expect_err("not trusted");
    assert!(stranger.to_string().contains("ertificate"), "{stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_tells_lines_and_exit_code() {
    let stage = Stage::set("rust").await;
    let mut example = Command::new(env!("CARGO"));
    example.args(["run", "--quiet", "-p", "container-svc-client", "--example", "run", "--"]);
    example.args([image(), "sh", "-c", "echo one; sleep 1; echo two; exit 7"]).current_dir(ROOT);
    example.env("CONTAINER_SVC_ADDRESS", &stage.service.url);
    example.env("CONTAINER_SVC_TOKEN", &stage.service.token);
    assert_eq!(succeeds(&mut example).await, "one\ntwo\nexit code 7\n");
}

#[test]
fn the_lines_of_the_readme_are_those_of_a_program_that_compiles() {
    let readme = include_str!("../../../clients/rust/README.md");
    let (_, lines) = readme.split_once("```rust\n").expect("an example");
    let (lines, _) = lines.split_once("```").expect("its end");
    assert!(lines.lines().count() <= 10, "ten lines: {lines}");
    let program = include_str!("../../../clients/rust/examples/lines.rs");
    let program = program.replace("\n    ", "\n");
    let (head, body) = lines.split_once("\n\n").expect("imports, then what is done");
    assert!(program.contains(head) && program.contains(body), "not in the program: {lines}");
}
