//! The service in a container of the engine that it serves, as many will run it.

use std::{path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    gpus::stub::{Stub, device},
    proxy::engine_socket,
    support::{docker, eventually, image, unique},
};

/// Where the data are in the container.
const DATA: &str = "/var/lib/container-svc";

/// The program in a container; it, what it made and its volume are removed when it
/// is dropped.
struct Contained {
    name: String,
    url: String,
    token: String,
    volume: Option<String>,
}

impl Contained {
    /// Starts it with mounts of ours.
    async fn start(mounts: &[&str]) -> Self {
        Self::start_with(mounts, &[]).await
    }

    /// And with settings.
    async fn start_with(mounts: &[&str], settings: &[&str]) -> Self {
        let name = unique("contained");
        let program = Path::new(env!("CARGO_BIN_EXE_container-svc"));
        let directory = program.parent().expect("a directory").display();
        let mut args = ["run", "-d", "--name", &name].map(str::to_owned).to_vec();
        let socket = engine_socket();
        for mount in [
            format!("{}:/var/run/docker.sock", socket.display()),
            // The libraries that the program is linked with, at their own places.
            format!("{directory}:/program:ro"),
            "/lib:/lib:ro".into(),
            "/lib64:/lib64:ro".into(),
            "/usr/lib:/usr/lib:ro".into(),
            // What says which registries are what they claim to be.
            "/etc/ssl:/etc/ssl:ro".into(),
            "/usr/share/ca-certificates:/usr/share/ca-certificates:ro".into(),
        ] {
            args.extend(["-v".to_owned(), mount]);
        }
        for setting in [
            "CONTAINER_SVC_LISTEN=0.0.0.0:11337".to_owned(),
            format!("CONTAINER_SVC_DATA_DIR={DATA}"),
            format!("CONTAINER_SVC_NODE_ID={name}"),
            format!("CONTAINER_SVC_NETWORK={name}"),
            "CONTAINER_SVC_ASSET_FILE_ROOTS=/etc/assets".to_owned(),
        ] {
            args.extend(["-e".to_owned(), setting]);
        }
        args.extend(settings.iter().flat_map(|one| ["-e".to_owned(), (*one).to_owned()]));
        args.extend(mounts.iter().flat_map(|mount| ["-v".to_owned(), (*mount).to_owned()]));
        let binary = format!("/program/{}", program.file_name().expect("a name").to_string_lossy());
        args.extend([image().to_owned(), binary, "serve".to_owned()]);
        docker(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let mut contained = Self { name, url: String::new(), token: String::new(), volume: None };
        let address = docker(&[
            "inspect",
            "-f",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            &contained.name,
        ]);
        assert!(!address.is_empty(), "it runs: {}", contained.logs());
        contained.url = format!("http://{address}:11337");
        let file = format!("{DATA}/admin.token");
        eventually("the token is written", || async {
            docker(&["exec", &contained.name, "cat", &file]).starts_with("csvc_")
        })
        .await;
        contained.token = docker(&["exec", &contained.name, "cat", &file]);
        eventually("it follows the engine", || async {
            contained.node()["engine"]["synced"] == true
        })
        .await;
        contained
    }

    fn logs(&self) -> String {
        let out = Command::new("docker").args(["logs", &self.name]).output().expect("docker");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let bearer = format!("Authorization: Bearer {}", self.token);
        let url = format!("{}{path}", self.url);
        let out = Command::new("curl")
            .args(["-s", "--max-time", "20", "-X", method, "-H", &bearer, "-d", body, &url])
            .output()
            .expect("curl");
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    }

    fn node(&self) -> Value {
        self.call("GET", "/container-svc/node", "")["node"].clone()
    }

    /// Runs a container through it and answers how its log is collected.
    async fn log_source(&self) -> String {
        let name = unique("inside");
        let body = format!(
            r#"{{"image":"{}","names":["{name}"],"command":["sh","-c","echo hello; exec sleep 1000"]}}"#,
            image()
        );
        let answer = self.call("PUT", "/container-svc/container", &body);
        assert_eq!(answer["action"], "RUN_ACTION_CREATED", "{answer} {}", self.logs());
        let line = format!(r#"{{"name":"{name}"}}"#);
        eventually("its line is collected", || async {
            self.call("POST", "/container-svc/logs", &line)["logs"][0]["content"] == "hello"
        })
        .await;
        let path = format!("/container-svc/container?name={name}");
        self.call("GET", &path, "")["log"]["source"].as_str().unwrap_or_default().to_owned()
    }

    /// The admin token, as another container reads it at a place of the host.
    fn read_from(&self, host_dir: &str) -> String {
        let mount = format!("{host_dir}:/there:ro");
        docker(&["run", "--rm", "-v", &mount, image(), "cat", "/there/admin.token"])
    }
}

/// Mounts a file that no other test has: who has its content is known by that alone, also
/// beside other services of the engine.
fn own_asset(dir: &TempDir) -> String {
    let file = dir.path().join("name.txt");
    std::fs::write(&file, unique("content")).expect("a file");
    format!("{}:/etc/assets/name.txt:ro", file.display())
}

impl Drop for Contained {
    fn drop(&mut self) {
        docker(&["rm", "-f", "-v", &self.name]);
        let label = format!("label=container-svc.node={}", self.name);
        for id in docker(&["ps", "-aq", "--filter", &label]).lines() {
            docker(&["rm", "-f", id]);
        }
        docker(&["network", "rm", &self.name]);
        if let Some(volume) = &self.volume {
            docker(&["volume", "rm", volume]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_reaches_a_container_from_a_service_in_a_container() {
    let service = Contained::start(&[]).await;
    let name = unique("inside");
    let body = format!(
        r#"{{"image":"{}","names":["{name}"],
            "healthCheck":{{"http":{{"port":80}},"interval":"0.2s","startPeriod":"20s"}}}}"#,
        image()
    );
    let answer = service.call("PUT", "/container-svc/container", &body);
    assert_eq!(answer["action"], "RUN_ACTION_CREATED", "{answer} {}", service.logs());
    let path = format!("/container-svc/container?name={name}");
    let health = || service.call("GET", &path, "")["container"]["health"]["state"].clone();
    eventually("it is well", || async { health() == "HEALTH_STATE_HEALTHY" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_is_mounted_from_a_service_in_a_container() {
    let dir = TempDir::new().expect("a directory");
    let mounts = [format!("{}:/var/lib", dir.path().display()), own_asset(&dir)];
    let service = Contained::start(&mounts.each_ref().map(String::as_str)).await;
    let name = unique("inside");
    let run = |roots: &str| {
        let body = format!(
            r#"{{"image":"{}","names":["{name}"],"command":["sleep","1000"],
                "assets":[{{"envVarKey":"NAME","url":"file://{roots}/name.txt"}}]}}"#,
            image()
        );
        service.call("PUT", "/container-svc/container", &body)
    };
    assert_eq!(run("/etc")["details"][0]["reason"], "INVALID_FIELD");
    let answer = run("/etc/assets");
    assert_eq!(answer["action"], "RUN_ACTION_CREATED", "{answer} {}", service.logs());
    let told = docker(&["exec", &name, "sh", "-c", "cat $NAME"]);
    assert_eq!(told, docker(&["exec", &service.name, "cat", "/etc/assets/name.txt"]));
    assert_eq!(run("/etc/assets")["action"], "RUN_ACTION_UNCHANGED");
    let used = service.call("GET", "/container-svc/assets", "")["assets"][0]["usedBy"].clone();
    assert_eq!(used, serde_json::json!([name]));
}

/// The folder of the cache has another name on the host then.
#[tokio::test(flavor = "multi_thread")]
async fn an_asset_on_a_mount_of_its_own_is_in_use() {
    let (dir, cache) = (TempDir::new().expect("a directory"), TempDir::new().expect("another"));
    let mounts = [
        format!("{}:/var/lib", dir.path().display()),
        format!("{}:{DATA}/assets", cache.path().display()),
        own_asset(&dir),
    ];
    let service = Contained::start(&mounts.each_ref().map(String::as_str)).await;
    let name = unique("inside");
    let url = "file:///etc/assets/name.txt";
    let body = format!(
        r#"{{"image":"{}","names":["{name}"],"command":["sleep","1000"],
            "assets":[{{"envVarKey":"NAME","url":"{url}"}}]}}"#,
        image()
    );
    let run = || service.call("PUT", "/container-svc/container", &body)["action"].clone();
    assert_eq!(run(), "RUN_ACTION_CREATED", "{}", service.logs());
    assert_eq!(run(), "RUN_ACTION_UNCHANGED");
    let used = service.call("GET", "/container-svc/assets", "")["assets"][0]["usedBy"].clone();
    assert_eq!(used, serde_json::json!([name]));
    let refused = service.call("DELETE", &format!("/container-svc/asset?url={url}"), "");
    assert_eq!(refused["details"][0]["reason"], "ASSET_IN_USE", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_the_host_is_known_by_its_name_there() {
    let dir = TempDir::new().expect("a directory");
    let host = dir.path().display().to_string();
    let service = Contained::start(&[&format!("{host}:/var/lib")]).await;
    let node = service.node();
    let id = docker(&["inspect", "-f", "{{.Id}}", &service.name]);
    assert_eq!(node["ownContainerId"], id, "{node}");
    assert_eq!(node["hostDataDir"], format!("{host}/container-svc"), "{node}");
    assert_eq!(service.read_from(&format!("{host}/container-svc")), service.token);
    // The engine's files are not mounted, so lines come from its API.
    assert_eq!(service.log_source().await, "LOG_SOURCE_ENGINE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_known_by_the_place_of_its_data_and_logs_come_from_files_where_they_are() {
    let volume = unique("volume");
    let logs = docker(&["info", "-f", "{{.DockerRootDir}}"]) + "/containers";
    let mounts = [format!("{volume}:{DATA}"), format!("{logs}:{logs}:ro")];
    let mut service = Contained::start(&mounts.each_ref().map(String::as_str)).await;
    service.volume = Some(volume.clone());
    let place = docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &volume]);
    assert_eq!(service.node()["hostDataDir"], place);
    assert_eq!(service.read_from(&place), service.token);
    assert_eq!(service.log_source().await, "LOG_SOURCE_FILES");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_in_the_containers_own_layer_have_no_place_on_the_host() {
    let service = Contained::start(&[]).await;
    let node = service.node();
    assert!(node["ownContainerId"].is_string() && node["hostDataDir"].is_null(), "{node}");
}

/// The driver tells process ids of the host; in here they are other processes.
#[tokio::test(flavor = "multi_thread")]
async fn what_uses_a_gpu_on_the_host_is_not_taken_for_a_process_in_here() {
    let stub = Stub::new(&format!("{}\nprocess pid=1 used=1048576", device(0, 1, "")));
    let folder = stub.path().parent().expect("a folder").display().to_string();
    let service = Contained::start_with(
        &[&format!("{folder}:/stub:ro")],
        &["CONTAINER_SVC_NVML_LIBRARY=/stub/libnvml.so"],
    )
    .await;
    let processes =
        || service.call("GET", "/container-svc/gpus", "")["gpus"][0]["processes"].clone();
    eventually("the process is told", || async { processes()[0]["pid"] == 1 }).await;
    assert_eq!(processes()[0]["containerId"], "", "{}", processes());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_host_paths_are_what_they_are() {
    let service = crate::support::Service::start().await.synced().await;
    let (_, body) = service.get("/container-svc/node").await;
    assert!(body["node"].get("ownContainerId").is_none(), "{body}");
    let dir = body["node"]["hostDataDir"].as_str().expect("a directory");
    assert!(Path::new(dir).join("container-svc.db").exists(), "{dir}");
}
