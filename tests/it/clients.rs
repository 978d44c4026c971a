//! Ways in: gRPC-web, CORS, a Unix socket, reflection's neighbours on one port.

use container_svc::config::Listen;

use crate::support::{Service, unique};

mod browser;
mod contract;
mod neighbours;
mod published;
mod rust;
mod stage;

#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_is_answered_on_the_same_port() {
    let service = Service::start().await.synced().await;
    let dir = tempfile::tempdir().expect("a directory");
    let frame = dir.path().join("frame");
    std::fs::write(&frame, [0_u8; 5]).expect("an empty message");
    let data = format!("@{}", frame.display());
    let more = ["-H", "Content-Type: application/grpc-web+proto", "--data-binary", &data];
    let path = "/containersvc.v1.NodeService/GetDaemonInfo";
    let (status, head, body) = service.raw("POST", path, "", &more).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
    // The trailers are the last frame of the body.
    assert!(body.contains("grpc-status:0"), "{body:?}");
    assert!(body.contains("docker.sock"), "{body:?}");

    let url = format!("{}{path}", service.url);
    let out = tokio::process::Command::new("curl")
        .args(["-s", "-i", "-X", "POST", "--max-time", "10"])
        .args(more)
        .arg(&url)
        .output()
        .await
        .expect("curl");
    let refused = String::from_utf8_lossy(&out.stdout).to_lowercase();
    assert!(refused.contains("grpc-status: 16"), "no token: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_origins_are_let_in_by_configuration_only() {
    let ask = ["-H", "Origin: https://a.example", "-H", "Access-Control-Request-Method: PUT"];
    for (origins, allowed) in [(vec!["https://a.example".to_owned()], true), (vec![], false)] {
        let service = Service::with(|config| config.cors_origins = origins).await;
        let (status, head, _) = service.raw("OPTIONS", "/container-svc/container", "", &ask).await;
        assert_eq!(status, 200);
        let granted = head.contains("access-control-allow-origin: https://a.example");
        assert_eq!(granted, allowed, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_a_second_door_with_the_same_lock() {
    let dir = tempfile::Builder::new().prefix(&unique("sock")).tempdir().expect("a directory");
    let socket = dir.path().join("s.sock");
    // One that was left behind does not stop it.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let place = socket.clone();
    let mut service = Service::with(|config| config.listen.push(Listen::Unix(place))).await;
    let door = ["--unix-socket".to_owned(), socket.display().to_string()];
    let door: Vec<&str> = door.iter().map(String::as_str).collect();
    let (status, _, body) = service.raw("GET", "/container-svc/daemon/info", "", &door).await;
    assert_eq!((status, body.contains("\"available\":true")), (200, true), "{body}");
    let token = std::mem::replace(&mut service.token, "wrong".to_owned());
    assert_eq!(service.raw("GET", "/container-svc/daemon/info", "", &door).await.0, 401);
    service.token = token;
    service.stop().await;
    assert!(!socket.exists(), "it is taken away at the end");
}
