//! What is done about a container that is ill.

use super::*;
use crate::builds::Tree;

/// A container with a server, which is ill while it has no page.
fn server(service: &Service, name: &str, more: pb::RestartOptions) -> pb::RunContainerRequest {
    pb::RunContainerRequest {
        health_check: Some(pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Http(pb::HttpProbe {
                port: 80,
                path: "/health".into(),
            })),
            interval: ms(100),
            retries: Some(2),
            // On a busy machine the server is not there with the first probes.
            start_period: ms(20_000),
            ..Default::default()
        }),
        // Long enough to be seen.
        restart: Some(pb::RestartOptions { min_backoff: ms(2000), max_backoff: ms(2000), ..more }),
        ..script(service, name, "echo start; touch /www/health; exec httpd -f -p 80 -h /www")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_ill_is_stopped_and_comes_back_well() {
    let service = Service::start().await.synced().await;
    let name = unique("ill");
    run(&service, server(&service, &name, pb::RestartOptions::default())).await;
    let healthy = || async { health(&service, &name).await == Some(pb::HealthState::Healthy) };
    eventually("it is well", healthy).await;
    docker(&["exec", &name, "rm", "/www/health"]);
    let status = becomes(&service, &name, pb::RestartState::BackingOff).await;
    assert_eq!(status.reason, "unhealthy");
    eventually("it comes back", || async { starts(&name) == 2 && healthy().await }).await;
    use pb::EventKind::{BackingOff, Created, Died, Healthy, Restarted, Unhealthy};
    let expected = [Created, Healthy, Unhealthy, BackingOff, Died, Restarted, Healthy];
    eventually("all of it is told", || async { kinds(&service, &name).await == expected }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_it_waits_for_its_health_wins() {
    let service = Service::start().await.synced().await;
    let name = unique("ill");
    let mut request = server(&service, &name, pb::RestartOptions::default());
    request.restart = quick(8000, 8000, 10);
    run(&service, request).await;
    let healthy = || async { health(&service, &name).await == Some(pb::HealthState::Healthy) };
    eventually("it is well", healthy).await;
    docker(&["exec", &name, "rm", "/www/health"]);
    let status = becomes(&service, &name, pb::RestartState::BackingOff).await;
    let next = time(status.next_try_at);
    stop(&service, &name).await;
    assert!(Timestamp::now() < next, "the stop came in the middle of the wait");
    let end = next + Duration::from_millis(500);
    holds_until(end, || async { starts(&name) == 1 && !runs(&service, &name).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_ill_is_given_up_and_left_running() {
    let service = Service::start().await.synced().await;
    let name = unique("ill");
    let options = pb::RestartOptions { max_restarts: Some(2), ..Default::default() };
    let mut request = server(&service, &name, options);
    request.command = ["sh", "-c", "echo start; exec sleep 1000"].map(str::to_owned).to_vec();
    request.health_check.as_mut().expect("it has one").start_period = None;
    run(&service, request).await;
    let status = becomes(&service, &name, pb::RestartState::GaveUp).await;
    assert_eq!((status.reason.as_str(), status.last_log_lines.len()), ("unhealthy", 3));
    assert_eq!((starts(&name), runs(&service, &name).await), (3, true));
    // Its end is still an end: the budget stays used up.
    docker(&["kill", &name]);
    eventually("the reason changes", || async {
        restart(&service, &name).await.reason == "exit code 137"
    })
    .await;
    assert_eq!(restart(&service, &name).await.state(), pb::RestartState::GaveUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_not_asked_for_nothing_is_done_about_bad_health() {
    let service = Service::start().await.synced().await;
    let name = unique("ill");
    let options = pb::RestartOptions { on_unhealthy: Some(false), ..Default::default() };
    run(&service, server(&service, &name, options)).await;
    for (command, state) in [
        ("touch", pb::HealthState::Healthy),
        ("rm", pb::HealthState::Unhealthy),
        ("touch", pb::HealthState::Healthy),
    ] {
        docker(&["exec", &name, command, "/www/health"]);
        eventually(&format!("{state:?}"), || async {
            health(&service, &name).await == Some(state)
        })
        .await;
    }
    assert_eq!(starts(&name), 1);
    use pb::EventKind::{Created, Healthy, Unhealthy};
    eventually("all of it is told", || async {
        kinds(&service, &name).await == [Created, Healthy, Unhealthy, Healthy]
    })
    .await;
}

/// The image of the tests, but for its signal to stop, which is KILL there.
pub(super) struct Kindly(Tree);

impl Kindly {
    pub(super) fn make() -> Self {
        let tree = Tree::new("STOPSIGNAL SIGTERM\n", &[]);
        let mut docker = std::process::Command::new("docker");
        docker.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", tree.name()]);
        let built = docker.arg(tree.path("ctx")).output().expect("the docker command");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self(tree)
    }

    pub(super) fn name(&self) -> &str {
        self.0.name()
    }
}

/// One that ends when it may, and is ill as soon as it is asked to.
fn slow_to_end(
    service: &Service,
    image: &Kindly,
    name: &str,
    restart: Option<pb::RestartOptions>,
) -> pb::RunContainerRequest {
    let words = "echo start; touch /www/health; httpd -f -p 80 -h /www & \
                 trap 'rm -f /www/health; echo asked; until [ -e /end ]; do sleep 0.1; done; \
                 exit 1' TERM; while :; do sleep 0.1; done";
    let mut request = server(service, name, pb::RestartOptions::default());
    // A busy engine may tell of a signal later than it is felt.
    request.health_check.as_mut().expect("a check").interval = ms(1000);
    pb::RunContainerRequest {
        restart,
        stop_timeout: ms(60_000),
        restart_policy: pb::RestartPolicy::Always.into(),
        ..pb::RunContainerRequest {
            image: image.name().to_owned(),
            command: script(service, name, words).command,
            ..request
        }
    }
}

/// It may end, now and in its later runs.
fn may_end(name: &str) {
    docker(&["exec", name, "touch", "/end"]);
}

/// `docker stop`, which goes on by itself.
fn docker_stop(name: &str) -> std::process::Child {
    let mut stop = std::process::Command::new("docker");
    stop.stdout(std::process::Stdio::null());
    stop.args(["stop", "-t", "60", name]).spawn().expect("the docker command")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_the_engine_that_makes_it_ill_wins() {
    let image = Kindly::make();
    let mut service = Service::program(|_| {}).await.synced().await;
    // Also where the service began in the middle of the stop. It knows of that by the engine,
    // which remembers 256 events: a busy one may have forgotten.
    for killed in [false, true, true, true, true] {
        let name = unique("ending");
        run(&service, slow_to_end(&service, &image, &name, quick(100, 100, 10))).await;
        let healthy = || async { health(&service, &name).await == Some(pb::HealthState::Healthy) };
        eventually("it is well", healthy).await;
        if killed {
            service.kill();
        }
        let mut stop = docker_stop(&name);
        if killed {
            service.resume().await;
        }
        let ill = || did(&service, &name, pb::EventKind::Unhealthy);
        eventually("it is ill of its stop", ill).await;
        let remembered = !killed || was_asked_before_it_was_ill(&service, &name).await;
        may_end(&name);
        assert!(stop.wait().expect("it ends").success());
        if !remembered {
            continue;
        }
        eventually("the stop is seen", || did(&service, &name, pb::EventKind::Stopped)).await;
        let end = Timestamp::now() + Duration::from_secs(1);
        holds_until(end, || async { starts(&name) == 1 && !runs(&service, &name).await }).await;
        let for_health = |event: &pb::Event| {
            let detail = &event.detail;
            matches!(detail, Some(pb::event::Detail::Restart(it)) if it.reason == "unhealthy")
        };
        let told = events(&service, &name).await;
        assert!(!told.iter().any(for_health), "{told:?}");
        if killed {
            return;
        }
    }
    panic!("the engine forgot each of the stops");
}

/// True when the engine still knows of a signal from before the container was told as ill.
async fn was_asked_before_it_was_ill(service: &Service, name: &str) -> bool {
    let container = format!("container={name}");
    let asked = ["--filter", &container, "--filter", "event=kill", "--format", "{{.TimeNano}}"];
    let past = ["events", "--since", "1", "--until", "0s"];
    let asked = docker(&[&past[..], &asked[..]].concat());
    let first = asked.lines().next().and_then(|nanos| nanos.parse::<i128>().ok());
    let told = events(service, name).await;
    let ill = told.iter().find(|event| event.kind() == pb::EventKind::Unhealthy);
    let ill = ill.map(|event| time(event.at).as_nanosecond());
    first.is_some_and(|first| ill.is_some_and(|ill| first < ill))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_the_engine_while_it_is_stopped_for_its_health_wins() {
    let image = Kindly::make();
    let service = Service::start().await.synced().await;
    let name = unique("ending");
    run(&service, slow_to_end(&service, &image, &name, quick(100, 100, 10))).await;
    let healthy = || async { health(&service, &name).await == Some(pb::HealthState::Healthy) };
    eventually("it is well", healthy).await;
    docker(&["exec", &name, "rm", "/www/health"]);
    becomes(&service, &name, pb::RestartState::BackingOff).await;
    let asked = || docker(&["logs", &name]).matches("asked").count();
    // Two signals at once are one.
    eventually("it was asked to end for its health", || async { asked() == 1 }).await;
    let mut stop = docker_stop(&name);
    eventually("it was asked by both", || async { asked() == 2 }).await;
    may_end(&name);
    assert!(stop.wait().expect("it ends").success());
    eventually("the stop is seen", || did(&service, &name, pb::EventKind::Stopped)).await;
    let end = Timestamp::now() + Duration::from_secs(1);
    holds_until(end, || async { starts(&name) == 1 && !runs(&service, &name).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_end_that_is_no_stop_is_a_crash_and_one_to_reload_is_none() {
    let image = Kindly::make();
    let service = Service::start().await.synced().await;
    let name = unique("ending");
    run(&service, slow_to_end(&service, &image, &name, quick(2000, 2000, 10))).await;
    let healthy = || async { health(&service, &name).await == Some(pb::HealthState::Healthy) };
    eventually("it is well", healthy).await;
    docker(&["kill", "-s", "TERM", &name]);
    eventually("it is ill of that", || did(&service, &name, pb::EventKind::Unhealthy)).await;
    may_end(&name);
    eventually("it comes back", || async { starts(&name) == 2 && healthy().await }).await;
    let told = kinds(&service, &name).await;
    assert!(!told.contains(&pb::EventKind::Stopped), "{told:?}");
    // Its health counts again, whatever else it is told.
    docker(&["kill", "-s", "USR1", &name]);
    docker(&["exec", &name, "rm", "/www/health"]);
    let status = becomes(&service, &name, pb::RestartState::BackingOff).await;
    assert_eq!(status.reason, "unhealthy");
}
