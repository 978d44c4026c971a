//! A stop reaches what the engine itself restarts, and only the one that is meant.

use super::*;

/// Removed with the test.
struct Foreign(String);

impl Drop for Foreign {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_restarts_for_ever_is_stopped() {
    let service = Service::start().await.synced().await;
    let name = unique("loop");
    docker(&["run", "-d", "--restart=always", "--name", &name, image(), "false"]);
    let foreign = Foreign(name.clone());
    eventually("the engine waits before the next try", || async {
        docker(&["inspect", "-f", "{{.State.Status}}", &foreign.0]) == "restarting"
    })
    .await;
    eventually("that is seen", || async {
        container(&service, &name).await.state() == pb::ContainerState::Restarting
    })
    .await;
    stop(&service, &name).await;
    assert_eq!(docker(&["inspect", "-f", "{{.State.Status}}", &name]), "exited");
    let count = || docker(&["inspect", "-f", "{{.RestartCount}}", &name]);
    let before = count();
    // The engine waits at most twice as long each time, from 100 ms on.
    let end = Timestamp::now() + Duration::from_secs(2);
    holds_until(end, || async { count() == before }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replacement_left_over_goes_without_the_record_of_its_successor() {
    let service = Service::start().await.synced().await;
    let name = unique("live");
    let request = pb::RunContainerRequest {
        restart_policy: pb::RestartPolicy::Always.into(),
        restart: quick(100, 200, 1000),
        ..service.request(&name)
    };
    run(&service, request).await;
    // As one that could not be removed when its successor ran.
    let label = |key: &str| {
        let format = format!("{{{{index .Config.Labels \"{key}\"}}}}");
        format!("{key}={}", docker(&["inspect", "-f", &format, &name]))
    };
    let (node, key) = (label("container-svc.node"), label("container-svc.key"));
    let left = format!("{name}__old");
    let mut args = vec!["create", "--name", &left, "--label", &node, "--label", &key];
    args.extend([image(), "sleep", "1000"]);
    let id = docker(&args);
    docker(&["start", &id]);
    let by_id = |id: &str| pb::StopContainerRequest { id: id.to_owned(), ..Default::default() };
    // It is stopped, unless the service has removed it by itself before.
    eventually("it is gone, or was seen and stopped", || async {
        match service.grpc().await.stop_container(by_id(&id)).await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
                docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("id={id}")]).is_empty()
            }
        }
    })
    .await;
    docker(&["kill", &name]);
    eventually("the successor comes back", || async {
        did(&service, &name, pb::EventKind::Restarted).await && runs(&service, &name).await
    })
    .await;
}
