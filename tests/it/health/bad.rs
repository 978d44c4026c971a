//! What makes no sense is refused, by name, and nothing is left of it.

use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_check_or_restart_that_makes_no_sense_is_refused_with_its_field() {
    let service = Service::start().await.synced().await;
    let tcp = |more: serde_json::Value| {
        let mut check = json!({"tcp": {"port": 80}});
        check.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        json!({"healthCheck": check})
    };
    for (fields, field, words) in [
        (json!({"healthCheck": {}}), "healthCheck", "no probe"),
        (json!({"healthCheck": {"interval": "1s"}}), "healthCheck", "no probe"),
        (json!({"healthCheck": {"http": {}}}), "healthCheck.http.port", "0 is no port"),
        (
            json!({"healthCheck": {"http": {"port": 80, "path": "x"}}}),
            "healthCheck.http.path",
            "begin",
        ),
        (json!({"healthCheck": {"tcp": {"port": 70000}}}), "healthCheck.tcp.port", "70000"),
        (
            json!({"healthCheck": {"grpc": {"service": "x"}}}),
            "healthCheck.grpc.port",
            "0 is no port",
        ),
        (json!({"healthCheck": {"exec": {}}}), "healthCheck.exec.command", "no program"),
        (tcp(json!({"disabled": true})), "healthCheck.disabled", "leave one"),
        (tcp(json!({"interval": "0s"})), "healthCheck.interval", "0ns is out of range"),
        (tcp(json!({"interval": "-1s"})), "healthCheck.interval", "no positive duration"),
        (tcp(json!({"timeout": "0s"})), "healthCheck.timeout", "out of range"),
        (tcp(json!({"retries": 0})), "healthCheck.retries", "use 1 to 100"),
        (tcp(json!({"startPeriod": "7200s"})), "healthCheck.startPeriod", "out of range"),
        (json!({"restart": {"maxRestarts": 0}}), "restart.maxRestarts", "use 1 to 1000"),
        (json!({"restart": {"window": "0s"}}), "restart.window", "out of range"),
        (json!({"restart": {"minBackoff": "0s"}}), "restart.minBackoff", "out of range"),
        (
            json!({"restart": {"minBackoff": "10s", "maxBackoff": "1s"}}),
            "restart.maxBackoff",
            "use 10s to",
        ),
        (json!({"restart": {"stableAfter": "0s"}}), "restart.stableAfter", "out of range"),
        (
            json!({"healthCheck": {"disabled": true}, "restart": {"onUnhealthy": true}}),
            "restart.onUnhealthy",
            "disabled",
        ),
    ] {
        let mut body = json!({"image": image(), "names": [unique("bad")]});
        body.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        let (status, told) =
            service.rest("PUT", "/container-svc/container", &body.to_string()).await;
        assert_eq!(status, 400, "{fields}: {told}");
        let message = told["message"].as_str().expect("a message");
        assert!(message.contains(words), "{fields}: {message}");
        assert!(told["details"].to_string().contains(&format!("\"field\":\"{field}\"")), "{told}");
    }
    assert_eq!(service.made(), Vec::<String>::new());
}
