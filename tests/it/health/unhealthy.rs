//! What is done about a container that is ill.

use super::*;

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
            ..Default::default()
        }),
        restart: Some(pb::RestartOptions { min_backoff: ms(300), max_backoff: ms(300), ..more }),
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
    request.restart = quick(1000, 1000, 10);
    run(&service, request).await;
    docker(&["exec", &name, "rm", "/www/health"]);
    becomes(&service, &name, pb::RestartState::BackingOff).await;
    stop(&service, &name).await;
    let end = Timestamp::now() + Duration::from_secs(2);
    holds_until(end, || async { starts(&name) == 1 && !runs(&service, &name).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_ill_is_given_up_and_left_running() {
    let service = Service::start().await.synced().await;
    let name = unique("ill");
    let options = pb::RestartOptions { max_restarts: Some(2), ..Default::default() };
    let mut request = server(&service, &name, options);
    request.command = ["sh", "-c", "echo start; exec sleep 1000"].map(str::to_owned).to_vec();
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
