//! Each end of a run is told once, whether the service saw it or was away.

use super::*;

async fn is_there(service: &Service, name: &str) -> bool {
    service.get(&format!("/container-svc/container?name={name}")).await.0 == 200
}

/// The ends that are told of a name: exit code, and whether for want of memory.
async fn deaths(service: &Service, name: &str) -> Vec<(Option<i32>, bool)> {
    let events = of(service, name).await;
    let died = events.into_iter().filter_map(|event| match event.detail {
        Some(pb::event::Detail::Died(died)) => Some((died.exit_code, died.oom_killed)),
        _ => None,
    });
    died.collect()
}

async fn dies(service: &Service, name: &str, expected: &[(Option<i32>, bool)]) {
    let what = format!("{name} dies as {expected:?}");
    eventually(&what, || async { deaths(service, name).await.len() >= expected.len() }).await;
    assert_eq!(deaths(service, name).await, expected);
}

/// A container that is not the service's; removed when dropped.
struct Foreign(String);

impl Foreign {
    fn run(args: &[&str], command: &[&str]) -> (Self, String) {
        let name = unique("foreign");
        let run = ["run", "-d", "--name", &name];
        docker(&[&run[..], args, &[image()], command].concat());
        (Self(name.clone()), name)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_with_its_code_also_of_foreign_containers() {
    let service = Service::start().await.synced().await;
    let name = unique("dies");
    let mut request = service.request(&name);
    request.command = vec!["sh".into(), "-c".into(), "exit 3".into()];
    run(&service, request).await;
    dies(&service, &name, &[(Some(3), false)]).await;
    let (_foreign, foreign) = Foreign::run(&[], &["sleep", "1000"]);
    docker(&["kill", &foreign]);
    dies(&service, &foreign, &[(Some(137), false)]).await;
    // One that is gone before anybody could ask for it.
    let brief = unique("brief");
    docker(&["run", "--rm", "--name", &brief, image(), "sh", "-c", "exit 4"]);
    dies(&service, &brief, &[(Some(4), false)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_with_its_code_though_the_engine_leaves_before_it_is_asked() {
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    let script = "trap 'exit 3' USR1; while :; do sleep 0.05; done";
    let (_foreign, name) = Foreign::run(&[], &["sh", "-c", script]);
    let (_other, other) = Foreign::run(&[], &["sleep", "1000"]);
    eventually("both are seen", || async {
        is_there(&service, &name).await && is_there(&service, &other).await
    })
    .await;
    // The end is in the stream; then no question is answered, and the stream breaks.
    let id = docker(&["inspect", "-f", "{{.Id}}", &name]);
    proxy.set_for(Mode::Refuse, &format!("/containers/{id}/json"));
    let met = proxy.met_now();
    docker(&["exec", &name, "sh", "-c", "kill -USR1 1"]);
    met.await;
    eventually("it has ended", || async {
        docker(&["inspect", "-f", "{{.State.Status}}", &name]) == "exited"
    })
    .await;
    // It runs again when it is asked about, and the engine has forgotten the code.
    docker(&["start", &name]);
    proxy.set(Mode::Pass);
    docker(&["kill", &other]);
    dies(&service, &other, &[(Some(137), false)]).await;
    dies(&service, &name, &[(Some(3), false)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_for_want_of_memory_is_told_as_such() {
    let service = Service::start().await.synced().await;
    // A busy engine may hear of the want of memory after the end, and then it never tells.
    for _ in 0..5 {
        let name = unique("oom");
        let mut request = service.request(&name);
        request.restart_policy = pb::RestartPolicy::Never.into();
        request.resources = Some(pb::Resources { memory_mb: 16, ..Default::default() });
        // The shell doubles a text until it has no more memory.
        let grow = "a=aaaaaaaaaaaaaaaa; while true; do a=$a$a; done";
        request.command = vec!["sh".into(), "-c".into(), grow.into()];
        run(&service, request).await;
        let look = |of| docker(&["inspect", "-f", of, &name]);
        eventually("it has ended", || async { look("{{.State.Status}}") == "exited" }).await;
        let known = look("{{.State.OOMKilled}}") == "true";
        dies(&service, &name, &[(Some(137), known)]).await;
        if known {
            return;
        }
    }
    panic!("the engine never told of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_while_the_service_was_down_are_told_once() {
    let mut service = Service::start().await.synced().await;
    let name = unique("down");
    run(&service, service.request(&name)).await;
    stop(&service, &name).await;
    dies(&service, &name, &[(Some(137), false)]).await;
    run(&service, service.request(&name)).await;

    service.stop().await;
    docker(&["kill", &name]);
    service.resume().await;
    let mut service = service.synced().await;
    let twice = [(Some(137), false), (Some(137), false)];
    dies(&service, &name, &twice).await;

    // Nothing new: nothing is told again.
    service.stop().await;
    service.resume().await;
    let mut service = service.synced().await;
    assert_eq!(deaths(&service, &name).await, twice);

    // It ended, and runs again: the engine has forgotten the code.
    docker(&["start", &name]);
    service.stop().await;
    docker(&["kill", &name]);
    docker(&["start", &name]);
    service.resume().await;
    let service = service.synced().await;
    dies(&service, &name, &[twice[0], twice[1], (None, false)]).await;
    docker(&["kill", &name]);
    dies(&service, &name, &[twice[0], twice[1], (None, false), twice[0]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_before_the_first_start_of_the_service_is_not_told() {
    let (_foreign, foreign) = Foreign::run(&[], &["true"]);
    eventually("it has ended", || async {
        docker(&["inspect", "-f", "{{.State.Status}}", &foreign]) == "exited"
    })
    .await;
    let service = Service::start().await.synced().await;
    docker(&["start", &foreign]);
    dies(&service, &foreign, &[(Some(0), false)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_in_a_gap_of_the_event_stream_are_told_once() {
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    let (_one, one) = Foreign::run(&[], &["sleep", "1000"]);
    let (_two, two) = Foreign::run(&["--restart", "always"], &["sleep", "1000"]);
    eventually("both are seen", || async {
        let running = async |name: &str| {
            let path = format!("/container-svc/container/is-running?name={name}");
            service.get(&path).await.1["isRunning"] == true
        };
        running(&one).await && running(&two).await
    })
    .await;
    proxy.set(Mode::Refuse);
    eventually("the loss is seen", || async {
        service.get("/container-svc/node").await.1["node"]["engine"]["synced"] == false
    })
    .await;
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &two]);
    docker(&["kill", &one]);
    // As if it had ended by itself, so that the engine starts it again.
    let killed = std::process::Command::new("kill").args(["-9", &pid]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    eventually("it runs again", || async {
        let now = docker(&["inspect", "-f", "{{.State.Pid}}", &two]);
        now != "0" && now != pid
    })
    .await;
    proxy.set(Mode::Pass);
    dies(&service, &one, &[(Some(137), false)]).await;
    dies(&service, &two, &[(None, false)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_in_quick_succession_are_told_once_each() {
    let service = Service::start().await.synced().await;
    let (_foreign, foreign) = Foreign::run(&[], &["true"]);
    for _ in 1..10 {
        eventually("it has ended", || async {
            docker(&["inspect", "-f", "{{.State.Status}}", &foreign]) == "exited"
        })
        .await;
        docker(&["start", &foreign]);
    }
    dies(&service, &foreign, &[(Some(0), false); 10]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_else_removed_is_told_once() {
    let mut service = Service::start().await.synced().await;
    let (one, two) = (unique("gone"), unique("gone"));
    run(&service, service.request(&one)).await;
    run(&service, service.request(&two)).await;
    docker(&["rm", "-f", &one]);
    let removed = async |service: &Service, name: &str| {
        let events = of(service, name).await;
        let removed = events.iter().filter(|event| event.kind() == pb::EventKind::Removed);
        removed.map(|event| event.message.clone()).collect::<Vec<_>>()
    };
    let by_others = ["removed: not by this service"];
    eventually("it is told", || async { removed(&service, &one).await == by_others }).await;
    service.stop().await;
    docker(&["rm", "-f", &two]);
    service.resume().await;
    let service = service.synced().await;
    eventually("it is told", || async { removed(&service, &two).await == by_others }).await;
    assert_eq!(removed(&service, &one).await, by_others);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_during_the_listing_is_told_of_one_that_is_gone_when_it_is_asked_about() {
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    let (_foreign, name) = Foreign::run(&[], &["sleep", "1000"]);
    eventually("it is seen", || is_there(&service, &name)).await;
    proxy.set(Mode::Refuse);
    eventually("the loss is seen", || async {
        service.get("/container-svc/node").await.1["node"]["engine"]["synced"] == false
    })
    .await;
    // It is in the next listing, and gone before the engine tells of it.
    let id = docker(&["inspect", "-f", "{{.Id}}", &name]);
    let met = proxy.met_now();
    proxy.set_for(Mode::Late, &format!("/containers/{id}/json"));
    met.await;
    docker(&["rm", "-f", &name]);
    proxy.set(Mode::Pass);
    dies(&service, &name, &[(Some(137), false)]).await;
}
