//! What the disk had no room for is told before what a caller does next.

use super::*;
use crate::small_disk::SmallDisk;

/// Fails when it may, and at once when it is started again.
fn fails(service: &Service, name: &str) -> pb::RunContainerRequest {
    let words = "until [ -e /go ]; do sleep 0.1; done; exit 1";
    let quick = std::time::Duration::from_millis(100).try_into().ok();
    pb::RunContainerRequest {
        command: ["sh", "-c", words].map(str::to_owned).to_vec(),
        restart: Some(pb::RestartOptions {
            min_backoff: quick,
            max_backoff: quick,
            max_restarts: Some(1),
            ..Default::default()
        }),
        ..service.request(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_that_the_disk_had_no_room_for_are_told_before_what_a_caller_does() {
    let disk = SmallDisk::mount();
    let service = Service::with(|config| disk.hold(&config.database())).await.synced().await;
    let names = [unique("stopped"), unique("started"), unique("removed")];
    for name in &names {
        run(&service, fails(&service, name)).await;
    }
    disk.fill();
    for name in &names {
        docker(&["exec", name, "touch", "/go"]);
    }
    eventually("all are given up", || async {
        let told = names.iter().map(|name| {
            let path = format!("/container-svc/container?name={name}");
            let service = &service;
            async move { service.get(&path).await.1["container"]["restart"]["state"].clone() }
        });
        let told = futures_util::future::join_all(told).await;
        told.iter().all(|state| state == "RESTART_STATE_GAVE_UP")
    })
    .await;
    // The service itself tries again once a second.
    disk.relieve();
    let [stopped, started, removed] = &names;
    tokio::join!(
        stop(&service, stopped),
        run(&service, fails(&service, started)),
        remove(&service, removed)
    );
    use pb::EventKind as Kind;
    for (name, then) in names.iter().zip([Kind::Stopped, Kind::Started, Kind::Removed]) {
        let told = kinds(&deeds(of(&service, name).await));
        let expected = [Kind::Created, Kind::BackingOff, Kind::Restarted, Kind::GaveUp, then];
        assert_eq!(told.get(..5), Some(&expected[..]), "{told:?}");
    }
}
