//! Run, replace, stop, remove, ask: what a caller is promised.

use container_svc::rpc::pb::{self, RunAction};
use serde_json::json;
use tonic::Code;

use crate::support::{Service, docker, eventually, image, unique};

fn port(internal: i32, host: i32) -> pb::PortMapping {
    pb::PortMapping { internal, host, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_changes_nothing() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let name = unique("same");
    let mut request = service.request(&name);
    request.ports = vec![port(80, 0)];
    let first = client.run_container(request.clone()).await.expect("runs").into_inner();
    assert_eq!((first.started, first.action()), (true, RunAction::Created));
    let again = client.run_container(request.clone()).await.expect("runs").into_inner();
    assert_eq!((again.started, again.action()), (false, RunAction::Unchanged));
    assert_eq!((&again.id, &again.ports, &again.hash), (&first.id, &first.ports, &first.hash));
    assert_eq!(service.made(), std::slice::from_ref(&first.id));
    let (least, most) = service.ports.range;
    let host = first.ports[0].host;
    assert!((i32::from(least)..=i32::from(most)).contains(&host), "{host}");

    // Stopped by hand, it is started again with the same port.
    docker(&["stop", "-t", "0", &name]);
    eventually("the stop is seen", || async {
        let (_, answer) =
            service.get(&format!("/container-svc/container/is-running?name={name}")).await;
        answer == json!({"isRunning": false})
    })
    .await;
    let started = client.run_container(request).await.expect("runs").into_inner();
    assert_eq!((started.started, started.action()), (true, RunAction::Started));
    assert_eq!((&started.id, &started.ports), (&first.id, &first.ports));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_request_replaces_and_keeps_the_port_and_says_why() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let name = unique("replace");
    let mut request = service.request(&name);
    request.ports = vec![port(80, 0)];
    let first = client.run_container(request.clone()).await.expect("runs").into_inner();
    request.envs.push(pb::EnvVar { key: "A".into(), value: "b".into() });
    request.user = "app".into();
    let second = client.run_container(request.clone()).await.expect("runs").into_inner();
    assert_eq!(second.action(), RunAction::Replaced);
    assert_eq!(second.differing_fields, ["envs", "user"]);
    assert_ne!(second.id, first.id);
    assert_eq!(second.ports, first.ports);
    assert_eq!(service.made(), std::slice::from_ref(&second.id), "the predecessor is gone");

    // The same name with new content is another image.
    let tag = format!("{name}:1");
    docker(&["tag", image(), &tag]);
    request.image.clone_from(&tag);
    let retagged = client.run_container(request.clone()).await.expect("runs").into_inner();
    assert_eq!(retagged.differing_fields, ["image"]);
    docker(&["commit", "--change", "ENV REBUILT=1", &name, &tag]);
    // The engine tells of the new content by an event, a moment later.
    eventually("the new content is seen", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move {
            let ran = client.run_container(request).await.expect("runs").into_inner();
            ran.differing_fields == ["imageId"]
        }
    })
    .await;
    drop(service);
    docker(&["rmi", "-f", &tag]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_does_not_start_gives_way_to_its_predecessor() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let name = unique("rollback");
    let good = service.request(&name);
    let first = client.run_container(good.clone()).await.expect("runs").into_inner();
    let mut bad = good.clone();
    bad.command = vec!["/no/such/program".into()];
    let error = client.run_container(bad.clone()).await.expect_err("cannot start");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("/no/such/program"), "{}", error.message());
    assert_eq!(service.made(), std::slice::from_ref(&first.id));
    let again = client.run_container(good).await.expect("runs").into_inner();
    assert_eq!((again.action(), again.id), (RunAction::Unchanged, first.id));

    // Without a predecessor, nothing is left behind.
    let name = unique("neverstarts");
    bad.names = vec![name];
    client.run_container(bad).await.expect_err("cannot start");
    assert_eq!(service.made().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_container_is_never_touched() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let name = unique("foreign");
    let id = docker(&["run", "-d", "--name", &name, image(), "sleep", "1000"]);
    eventually("it is seen", || async {
        service.get(&format!("/container-svc/container?name={name}")).await.0 == 200
    })
    .await;
    let error = client.run_container(service.request(&name)).await.expect_err("not ours");
    assert_eq!(error.code(), Code::AlreadyExists);
    let mut alias = service.request(&unique("alias"));
    alias.names.push(name.clone());
    assert_eq!(client.run_container(alias).await.expect_err("taken").code(), Code::AlreadyExists);
    let remove =
        pb::RemoveContainerRequest { name: name.clone(), force: true, ..Default::default() };
    let error = client.remove_container(remove).await.expect_err("not ours");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(
        docker(&["inspect", "-f", "{{.Id}} {{.State.Running}}", &name]),
        format!("{id} true")
    );
    docker(&["rm", "-f", &name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_names_the_hash_is_the_identity() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let mut request = service.request("unused");
    request.names.clear();
    let first = client.run_container(request.clone()).await.expect("runs").into_inner();
    let again = client.run_container(request.clone()).await.expect("runs").into_inner();
    assert_eq!((again.action(), &again.id), (RunAction::Unchanged, &first.id));
    for hash in [first.hash.as_str()] {
        let (_, answer) =
            service.get(&format!("/container-svc/container/is-running?hash={hash}")).await;
        assert_eq!(answer, json!({"isRunning": true}));
    }

    let own = unique("hash");
    request.hash.clone_from(&own);
    let mine = client.run_container(request.clone()).await.expect("runs").into_inner();
    assert_eq!(mine.action(), RunAction::Created, "another identity");
    let (_, answer) = service.get(&format!("/container-svc/container/is-running?hash={own}")).await;
    assert_eq!(answer, json!({"isRunning": true}));
    request.user = "app".into();
    let changed = client.run_container(request).await.expect("runs").into_inner();
    assert_eq!(
        (changed.action(), changed.differing_fields),
        (RunAction::Replaced, vec!["user".into()])
    );
    assert_eq!(service.made().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_the_request_reaches_the_container() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let (name, alias) = (unique("fields"), unique("alias"));
    let mut request = service.request(&name);
    request.names.push(alias.clone());
    request.entrypoint = vec!["sh".into(), "-c".into()];
    request.command = vec!["pwd; id -u; echo $KEY-$EMPTY-; sleep 1000".into()];
    request.working_dir = "/tmp".into();
    request.user = "1000:1000".into();
    request.envs = vec![
        pb::EnvVar { key: "KEY".into(), value: "a=b c".into() },
        pb::EnvVar { key: "EMPTY".into(), value: String::new() },
        pb::EnvVar { key: "DB_PASSWORD".into(), value: "hunter2".into() },
    ];
    request.resources = Some(pb::Resources { cpu: 0.5, memory_mb: 32, pids: 20, disk_mb: 0 });
    request.stop_timeout = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    request.ports = vec![pb::PortMapping {
        internal: 53,
        host: 0,
        protocol: Some("udp".into()),
        host_address: Some("127.0.0.1".into()),
    }];
    let ran = client.run_container(request).await.expect("runs").into_inner();
    assert_eq!(ran.ports[0].protocol.as_deref(), Some("udp"));
    assert_eq!(ran.ports[0].host_address.as_deref(), Some("127.0.0.1"));

    let told = docker(&[
        "inspect",
        "-f",
        "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.Config.StopTimeout}}",
        &name,
    ]);
    assert_eq!(told, "500000000 33554432 20 2");
    let path = format!("/container-svc/container/summary?name={alias}");
    eventually("its output is in the summary", || async {
        service.get(&path).await.1["logs"] == "/tmp\n1000\na=b c--\n"
    })
    .await;
    let (_, summary) = service.get(&path).await;
    let keys: Vec<&str> = summary["status"]
        .as_str()
        .expect("text")
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(key, _)| key))
        .collect();
    assert_eq!(keys, ["ID", "Name", "Image", "State", "Status", "Created", "Started", "Ports"]);
    assert_eq!(service.get(&format!("{path}&lines=1")).await.1["logs"], "a=b c--\n");

    let (_, got) = service.get(&format!("/container-svc/container?name={alias}")).await;
    let container = &got["container"];
    assert_eq!(container["names"], json!([name, alias]));
    assert_eq!(
        container["resources"],
        json!({"cpu": 0.5, "memoryMB": 32, "diskMB": 0, "pids": 20})
    );
    assert!(container["envs"].to_string().contains("[redacted]"));
    assert!(!got.to_string().contains("hunter2"), "a secret was shown");
    assert_eq!(got["history"][0]["action"], "created");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_is_idempotent_and_remove_is_not() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let name = unique("stop");
    let ran = client.run_container(service.request(&name)).await.expect("runs").into_inner();
    let remove =
        |force| pb::RemoveContainerRequest { name: name.clone(), force, ..Default::default() };
    let error = client.remove_container(remove(false)).await.expect_err("it runs");
    assert_eq!(error.code(), Code::FailedPrecondition);
    for id in [&ran.id[..12], &ran.id] {
        let stop = pb::StopContainerRequest { id: id.to_owned(), ..Default::default() };
        client.stop_container(stop).await.expect("stops");
    }
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &name]), "false");
    client.remove_container(remove(false)).await.expect("removed");
    assert_eq!(
        client.remove_container(remove(false)).await.expect_err("gone").code(),
        Code::NotFound
    );
    let stop = pb::StopContainerRequest { name, ..Default::default() };
    assert_eq!(client.stop_container(stop).await.expect_err("gone").code(), Code::NotFound);
    assert!(service.made().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let names: Vec<String> = (0..5).map(|_| unique("list")).collect();
    for name in &names {
        client.run_container(service.request(name)).await.expect("runs");
    }
    let label = format!("container-svc-test={}", service.node);
    let mut request =
        pb::ListContainersRequest { label, page_size: 2, managed_only: true, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = client.list_containers(request.clone()).await.expect("lists").into_inner();
        assert!(page.containers.len() <= 2);
        seen.extend(page.containers.into_iter().map(|row| row.names[0].clone()));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let newest_first: Vec<String> = names.iter().rev().cloned().collect();
    assert_eq!(seen, newest_first);
    request.name = "other".into();
    let error = client.list_containers(request).await.expect_err("another query");
    assert_eq!(error.code(), Code::InvalidArgument);
    let (_, limited) = service.rest("POST", "/container-svc/containers", r#"{"limit":1}"#).await;
    assert_eq!(limited["containers"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_every_change_and_goes_on_from_its_cursor() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let name = unique("watch");
    let watch = |cursor: String| pb::WatchContainersRequest {
        cursor,
        name: name.clone(),
        ..Default::default()
    };
    let mut stream =
        client.watch_containers(watch(String::new())).await.expect("watches").into_inner();
    let synced = stream.message().await.expect("alive").expect("an item");
    assert_eq!(synced.r#type(), pb::WatchEventType::Synced);

    client.run_container(service.request(&name)).await.expect("runs");
    let mut last = synced.cursor;
    loop {
        let item = stream.message().await.expect("alive").expect("an item");
        last.clone_from(&item.cursor);
        if item.container.is_some_and(|row| row.state() == pb::ContainerState::Running) {
            break;
        }
    }
    drop(stream);
    let remove =
        pb::RemoveContainerRequest { name: name.clone(), force: true, ..Default::default() };
    client.remove_container(remove).await.expect("removed");
    let mut stream = client.watch_containers(watch(last)).await.expect("resumes").into_inner();
    loop {
        let item = stream.message().await.expect("alive").expect("an item");
        assert_ne!(item.r#type(), pb::WatchEventType::Reset);
        if item.r#type() == pb::WatchEventType::Removed {
            break;
        }
    }
    let old = watch("000000000000-7".into());
    let mut stream = client.watch_containers(old).await.expect("watches").into_inner();
    let first = stream.message().await.expect("alive").expect("an item");
    assert_eq!(first.r#type(), pb::WatchEventType::Reset, "of another run of the service");
}
