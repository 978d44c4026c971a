//! What an image says of itself is not taken for the service's own word.

use super::*;
use crate::support::image;

/// An image with labels; removed with this.
struct Labelled(String);

impl Labelled {
    fn new(labels: &[(&str, &str)]) -> Self {
        let tag = format!("{}:1", unique("labelled"));
        let container = docker(&["create", image()]);
        let changes = labels.iter().map(|(key, value)| format!("--change=LABEL {key}='{value}'"));
        let changes: Vec<_> = changes.collect();
        let mut args = vec!["commit"];
        args.extend(changes.iter().map(String::as_str));
        args.extend([container.as_str(), tag.as_str()]);
        docker(&args);
        docker(&["rm", &container]);
        Self(tag)
    }
}

impl Drop for Labelled {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_an_image_open_no_keep_and_decide_nothing() {
    let mut service = Service::start().await.synced().await;
    let (victim, spare) = (unique("victim"), unique("spare"));
    for name in [&victim, &spare] {
        run(&service, keeping(&service, name, &[("/data", false)])).await;
        docker(&["exec", name, "sh", "-c", "echo precious > /data/file"]);
        remove(&service, name).await;
    }
    let volume = listed(&service, &format!("?name={spare}")).await[0]["volume"].clone();
    let hostile = Labelled::new(&[
        ("container-svc.helper", &service.node),
        ("container-svc.import.staged", volume.as_str().expect("a name")),
        ("container-svc.keep.owner", &victim),
        ("container-svc.keep.path", "/data"),
        ("container-svc.import.bytes", "1"),
        ("container-svc.gpus", "GPU-1:80000:100:exclusive"),
        ("container-svc.health", r#"{"probe":{"tcp":{"port":1}}}"#),
        ("vendor", "somebody"),
    ]);
    let name = unique("hostile");
    let request = pb::RunContainerRequest { image: hostile.0.clone(), ..service.request(&name) };
    let ran = run(&service, request.clone()).await;
    assert_eq!(run(&service, request).await.action(), pb::RunAction::Unchanged);
    let labels = docker(&["inspect", "-f", "{{json .Config.Labels}}", &name]);
    let labels: Value = serde_json::from_str(&labels).expect("JSON");
    for key in ["helper", "import.staged", "keep.owner", "gpus", "health"] {
        assert_eq!(labels[format!("container-svc.{key}")], "", "{key}");
    }
    assert_eq!(labels["vendor"], "somebody", "what is not ours stays");

    // One that a crash left behind goes, so that we know when it was looked for.
    let left = format!("container-svc-helper-{name}");
    let label = format!("container-svc.helper={}", service.node);
    docker(&["create", "--name", &left, "--label", &label, image()]);
    service.stop().await;
    service.resume().await;
    let service = service.synced().await;
    eventually("what a crash left is gone", || async {
        docker(&["ps", "-aq", "--filter", &format!("name={left}")]).is_empty()
    })
    .await;
    assert_eq!(docker(&["inspect", "-f", "{{.Id}} {{.State.Running}}", &name]), ran.id + " true");
    for name in [&victim, &spare] {
        run(&service, keeping(&service, name, &[("/data", false)])).await;
        assert_eq!(read(name, "/data/file"), "precious", "{name}");
    }
}
