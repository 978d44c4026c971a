//! A run tells how far it is, and ends with the same answer as one that does not.

use super::{
    source::{Source, head, say},
    *,
};
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_its_steps_and_then_its_answer() {
    let service = service().await;
    let file = bytes(1 << 20);
    let (seen, was_seen) = tokio::sync::watch::channel(false);
    let source = Source::start(move |asked, mut stream| {
        let (file, was_seen) = (file.clone(), was_seen.clone());
        async move {
            let (_, head) = head(&asked, file.len(), "\"a\"");
            say(&mut stream, head.as_bytes()).await;
            // Slowly, until it was told how far it is.
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
            for part in file.chunks(1 << 10) {
                if !*was_seen.borrow() {
                    ticks.tick().await;
                }
                say(&mut stream, part).await;
            }
        }
    })
    .await;
    let name = unique("asset");
    let request = with(&service, &name, &[asset("MODEL", &source.url("/a.bin"))]);
    let run = pb::RunContainerStreamRequest { run: Some(request.clone()) };
    let mut client = service.grpc().await;
    let mut steps = client.run_container_stream(run).await.expect("accepted").into_inner();
    let mut told = Vec::new();
    let is_under_way = |now: &pb::AssetDownload| now.bytes_per_second > 0 && now.bytes < 1 << 20;
    while let Some(step) = steps.message().await.expect("it runs") {
        if step.download.as_ref().is_some_and(is_under_way) {
            seen.send_replace(true);
        }
        told.push(step);
    }
    let mut stages: Vec<_> = told.iter().map(pb::RunContainerStreamResponse::stage).collect();
    stages.dedup();
    assert_eq!(
        stages,
        [
            pb::RunStage::Downloading,
            pb::RunStage::Creating,
            pb::RunStage::Starting,
            pb::RunStage::Ready
        ]
    );
    let downloads: Vec<_> = told.iter().filter_map(|step| step.download.clone()).collect();
    assert!(downloads.iter().all(|now| now.env_var_key == "MODEL"));
    assert!(downloads.windows(2).all(|two| two[0].bytes <= two[1].bytes), "{downloads:?}");
    assert!(downloads.iter().any(is_under_way));
    let last = downloads.last().expect("progress");
    assert_eq!((last.done, last.bytes, last.total_bytes), (true, 1 << 20, 1 << 20));
    let answer = told.last().and_then(|step| step.result.clone()).expect("the answer");
    assert_eq!((answer.action(), answer.started), (pb::RunAction::Created, true));

    // The same by REST, one message a line; what runs already is READY at once.
    let body = json!({"run": {"image": image(), "names": [name], "command": ["sleep", "1000"],
        "labels": [{"key": "container-svc-test", "value": service.node}],
        "assets": [{"envVarKey": "MODEL", "url": source.url("/a.bin")}]}});
    let path = "/container-svc/container/stream";
    let (status, answer) = service.rest("POST", path, &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["result"]["stage"], "RUN_STAGE_READY", "{answer}");
    assert_eq!(answer["result"]["result"]["action"], "RUN_ACTION_UNCHANGED", "{answer}");
    assert!(answer["result"].get("download").is_none(), "{answer}");
    assert_eq!(source.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_pulls_tells_how_far_its_image_is() {
    let registry = Registry::start(false).await;
    let service = registry.service().await;
    let run = pb::RunContainerRequest {
        image: registry.push("told"),
        ..service.request(&unique("pull"))
    };
    let request = pb::RunContainerStreamRequest { run: Some(run) };
    let mut client = service.grpc().await;
    let mut steps = client.run_container_stream(request).await.expect("accepted").into_inner();
    let mut told = Vec::new();
    while let Some(step) = steps.message().await.expect("it runs") {
        told.push(step);
    }
    let pulls: Vec<_> = told.iter().filter_map(|step| step.pull.clone()).collect();
    assert!(pulls.iter().any(|pull| pull.layer.is_some()), "{told:?}");
    assert_eq!(told[0].stage(), pb::RunStage::Pulling);
    assert_eq!(told.last().map(pb::RunContainerStreamResponse::stage), Some(pb::RunStage::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_ends_the_stream_with_the_error() {
    let service = service().await;
    let path = "/container-svc/container/stream";
    let body = json!({"run": {"image": image(), "assets": [{"envVarKey": "A", "url": "x"}]}});
    let (status, answer) = service.rest("POST", path, &body.to_string()).await;
    assert_eq!((status, &answer["code"]), (400, &3.into()), "{answer}");
    let (status, answer) = service.rest("POST", path, "{}").await;
    assert_eq!((status, &answer["code"]), (400, &3.into()), "{answer}");
}
