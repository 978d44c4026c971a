//! A run that was overtaken while its asset came undoes nothing of what came first.

use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::{
    source::{Source, give},
    *,
};

/// A source that answers when it is opened.
async fn held() -> (Source, watch::Sender<bool>) {
    let (open, opened) = watch::channel(false);
    let source = Source::start(move |asked, mut stream| {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|open| *open).await;
            give(&asked, &mut stream, b"weights", "\"a\"").await;
        }
    })
    .await;
    (source, open)
}

fn described(service: &Service, name: &str, version: &str) -> pb::RunContainerRequest {
    pb::RunContainerRequest {
        envs: vec![pb::EnvVar { key: "VERSION".into(), value: version.into() }],
        ..service.request(name)
    }
}

/// Begins a run of version "old" that waits for its asset, does something else with the
/// name, and answers how the run ends.
fn overtaken<'a>(
    service: &'a Service,
    name: &'a str,
    version: &'a str,
    newer: impl Future<Output = ()> + 'a,
) -> LocalBoxFuture<'a, Result<pb::RunContainerResponse, Status>> {
    Box::pin(async move {
        let (source, open) = held().await;
        let request = pb::RunContainerRequest {
            assets: vec![asset("A", &source.url("/a"))],
            ..described(service, name, version)
        };
        let mut client = service.grpc().await;
        let (ended, ()) = tokio::join!(client.run_container(request), async {
            eventually("the download has begun", || async { !source.seen().is_empty() }).await;
            newer.await;
            open.send_replace(true);
        });
        ended.map(tonic::Response::into_inner)
    })
}

fn aborted(ended: Result<pb::RunContainerResponse, Status>, words: &str) {
    let status = ended.expect_err("it is overtaken");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}

async fn stop(service: &Service, name: &str) {
    let stop = pb::StopContainerRequest { name: name.into(), ..Default::default() };
    service.grpc().await.stop_container(stop).await.expect("stopped");
}

async fn remove(service: &Service, name: &str) {
    let remove =
        pb::RemoveContainerRequest { name: name.into(), force: true, ..Default::default() };
    service.grpc().await.remove_container(remove).await.expect("removed");
}

fn state(name: &str) -> String {
    docker(&["inspect", "-f", "{{.State.Status}} {{.Config.Env}}", name])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_run_is_not_undone_by_an_older_one() {
    let service = service().await;
    // Also when the newer one finds what it wants and changes nothing.
    for there in [false, true] {
        let name = unique("turn");
        if there {
            run(&service, described(&service, &name, "new")).await;
        }
        let ended = overtaken(&service, &name, "old", async {
            run(&service, described(&service, &name, "new")).await;
        });
        aborted(ended.await, &format!("a newer run of \"{name}\""));
        assert!(state(&name).starts_with("running [VERSION=new"), "{}", state(&name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_or_a_removal_is_not_undone_by_an_older_run() {
    let service = service().await;
    let name = unique("turn");
    run(&service, described(&service, &name, "new")).await;
    aborted(overtaken(&service, &name, "old", stop(&service, &name)).await, "a newer stop");
    assert!(state(&name).starts_with("exited [VERSION=new"), "{}", state(&name));
    // One that stands still is stopped on purpose all the same.
    aborted(overtaken(&service, &name, "old", stop(&service, &name)).await, "a newer stop");
    aborted(overtaken(&service, &name, "old", remove(&service, &name)).await, "a newer removal");
    assert_eq!(service.made(), [""; 0]);
    // Nor one whose container is not there yet.
    aborted(overtaken(&service, &name, "old", stop(&service, &name)).await, "a newer stop");
    aborted(overtaken(&service, &name, "old", remove(&service, &name)).await, "a newer removal");
    assert_eq!(service.made(), [""; 0]);
    // Who comes afterwards is served, and a name that nobody runs is still not known.
    run(&service, described(&service, &name, "last")).await;
    remove(&service, &name).await;
    let stop = pb::StopContainerRequest { name, ..Default::default() };
    let missing = service.grpc().await.stop_container(stop).await.expect_err("not there");
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_wanted_what_a_newer_one_made_is_unchanged() {
    let service = service().await;
    let name = unique("turn");
    let (source, open) = held().await;
    let request = pb::RunContainerRequest {
        assets: vec![asset("A", &source.url("/a"))],
        ..described(&service, &name, "same")
    };
    let runs = (0..3).map(|_| run(&service, request.clone()));
    let (answers, ()) = tokio::join!(futures_util::future::join_all(runs), async {
        eventually("the download has begun", || async { !source.seen().is_empty() }).await;
        open.send_replace(true);
    });
    let made = answers.iter().filter(|answer| answer.action() == pb::RunAction::Created);
    assert_eq!(made.count(), 1);
    assert_eq!(service.made(), [answers[0].id.clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_or_came_to_others_overtakes_nothing() {
    let service = service().await;
    let (name, other) = (unique("turn"), unique("turn"));
    run(&service, described(&service, &other, "other")).await;
    let ended = overtaken(&service, &name, "old", async {
        let broken = pb::RunContainerRequest {
            command: vec!["/no/such/program".into()],
            ..described(&service, &name, "new")
        };
        let failed = service.grpc().await.run_container(broken).await;
        assert_eq!(failed.expect_err("no program").code(), Code::FailedPrecondition);
        stop(&service, &other).await;
    });
    assert_eq!(ended.await.expect("it runs").action(), pb::RunAction::Created);
    assert!(state(&name).contains("VERSION=old"), "{}", state(&name));
}

/// What was asked for before may be older than what is wanted fresh.
#[tokio::test(flavor = "multi_thread")]
async fn who_wants_it_fresh_joins_no_other_download() {
    let service = service().await;
    let (source, open) = held().await;
    let plain = asset("A", &source.url("/a"));
    let fresh = pb::Asset { refresh: Some(true), ..plain.clone() };
    let [one, two] = [unique("asset"), unique("asset")];
    let (first, second) = (with(&service, &one, &[plain]), with(&service, &two, &[fresh]));
    let asked = |count: usize| {
        let source = &source;
        eventually("it asks", move || async move { source.seen().len() == count })
    };
    let later = async {
        asked(1).await;
        let run = run(&service, second);
        let both = async {
            asked(2).await;
            let _ = open.send(true);
        };
        tokio::join!(run, both)
    };
    tokio::join!(run(&service, first), later);
}

/// Nobody's mistake in a checksum becomes another's error, or is not seen.
#[tokio::test(flavor = "multi_thread")]
async fn checksums_that_differ_in_their_last_digit_share_no_download() {
    let service = service().await;
    let (source, open) = held().await;
    let right = sha256(b"weights");
    let last = if right.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{last}", &right[..63]);
    let names = [unique("asset"), unique("asset")];
    let checked = |name: &str, sha256: &str| {
        let checked = pb::Asset { sha256: Some(sha256.into()), ..asset("A", &source.url("/a")) };
        with(&service, name, &[checked])
    };
    let ask = async |request| service.grpc().await.run_container(request).await;
    let both = async {
        eventually("each asks", || async { source.seen().len() == 2 }).await;
        let _ = open.send(true);
    };
    let (good, bad, ()) =
        tokio::join!(ask(checked(&names[0], &right)), ask(checked(&names[1], &wrong)), both);
    good.expect("it is what was asked for");
    let bad = bad.expect_err("it is not");
    assert!(bad.message().contains(&wrong) && bad.message().contains(&right), "{bad:?}");
    assert_eq!(exec(&names[0], "cat $A"), "weights");
}

/// A run has its files before a container does.
#[tokio::test(flavor = "multi_thread")]
async fn an_asset_of_a_run_under_way_is_not_removed() {
    let service = service().await;
    let quick = Source::of(b"quick".to_vec(), "\"q\"").await;
    let (source, open) = held().await;
    let assets = [asset("A", &quick.url("/a")), asset("B", &source.url("/b"))];
    let name = unique("asset");
    let meanwhile = async {
        let there = || async { files(&service, "files").len() == 1 };
        eventually("the quick one is there", there).await;
        let gone = format!("/container-svc/asset?url={}", quick.url("/a"));
        let (status, answer) = service.rest("DELETE", &gone, "").await;
        assert_eq!(status, 400, "{answer}");
        assert_eq!(files(&service, "files").len(), 1);
        let _ = open.send(true);
    };
    tokio::join!(run(&service, with(&service, &name, &assets)), meanwhile);
    assert_eq!(exec(&name, "cat $A $B"), "quickweights");
    assert_eq!(quick.seen().len(), 1);
}
