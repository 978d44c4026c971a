//! GPUs are found, told and watched, through NVIDIA's own interface; a node without
//! one works as well. The library is a stub, as tests run where no GPU is.

use serde_json::Value;

use crate::support::{Service, docker, eventually, unique};

mod booked;
mod cuda;
mod faults;
mod hardware;
mod mps;
mod queue;
mod recovery;
mod sight;
pub(crate) mod stub;
mod watched;

pub(crate) use stub::{Stub, devices};
use stub::{device, uuid};

/// The real program with a stub in place of NVIDIA's library.
async fn service(stub: &Stub) -> Service {
    let library = stub.setting();
    Service::program(|config| config.nvml_library = library).await.synced().await
}

async fn gpus(service: &Service) -> Value {
    let (status, answer) = service.get("/container-svc/gpus").await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// What GetNode says of GPUs.
async fn node(service: &Service) -> Value {
    let (status, answer) = service.get("/container-svc/node").await;
    assert_eq!(status, 200, "{answer}");
    answer["node"]["gpus"].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_library_starts_and_says_why_it_has_no_gpu() {
    let service = Service::with(|config| config.nvml_library = "/nowhere/libnvml.so".into()).await;
    let told = node(&service).await;
    assert_eq!((&told["available"], &told["count"]), (&Value::Bool(false), &0.into()));
    let why = text(&told["reason"]);
    assert!(why.contains("/nowhere/libnvml.so") && why.contains("install"), "{why}");
    assert_eq!(gpus(&service).await["gpus"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_device_is_told_with_what_it_knows() {
    let stub = Stub::new(&devices(8));
    let service = service(&stub).await;
    let told = gpus(&service).await;
    let node = &told["node"];
    assert_eq!(
        (&node["available"], text(&node["driverVersion"]), text(&node["cudaVersion"])),
        (&Value::Bool(true), "550.54.15", "12.4")
    );
    assert_eq!((&node["count"], node.get("reason")), (&8.into(), None));
    let all = told["gpus"].as_array().expect("a list");
    assert_eq!(all.len(), 8);
    for (index, gpu) in all.iter().enumerate() {
        assert_eq!((&gpu["index"], text(&gpu["uuid"])), (&index.into(), uuid(index).as_str()));
        assert_eq!(text(&gpu["name"]), "NVIDIA T4");
        let memory = &gpu["memory"];
        let bytes = |field: &str| text(&memory[field]).parse::<u64>().expect("bytes") >> 20;
        assert_eq!((bytes("totalBytes"), bytes("reservedBytes")), (16_384, 512));
        assert_eq!((bytes("usedBytes"), bytes("freeBytes")), (0, 16_384 - 512));
        assert_eq!(
            (&gpu["utilizationPercent"], &gpu["temperatureCelsius"]),
            (&40.into(), &50.into())
        );
        assert_eq!(
            (&gpu["powerMilliwatts"], &gpu["powerLimitMilliwatts"]),
            (&61_500.into(), &70_000.into())
        );
        assert_eq!((&gpu["eccEnabled"], text(&gpu["eccUncorrectedErrors"])), (&true.into(), "0"));
        assert!(gpu.get("migEnabled").is_none(), "a T4 cannot be cut: {gpu}");
        assert!(gpu.get("error").is_none(), "{gpu}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_and_found_again_without_a_restart() {
    let stub = Stub::new("init code=18");
    let service = service(&stub).await;
    for (lines, word) in [
        ("init code=18", "different versions"),
        ("init code=9", "modprobe"),
        ("init code=4", "/dev/nvidiactl"),
        ("", "no device"),
    ] {
        stub.says(lines);
        eventually(word, || async { text(&node(&service).await["reason"]).contains(word) }).await;
    }
    stub.says(&devices(1));
    eventually("the device is found", || async { node(&service).await["count"] == 1 }).await;

    stub.says(&device(0, 0, "lost=15"));
    eventually("its loss is told, by the name that it had", || async {
        let gpu = &gpus(&service).await["gpus"][0];
        text(&gpu["error"]).contains("fell off the bus") && text(&gpu["uuid"]) == uuid(0)
    })
    .await;
    assert_eq!(node(&service).await["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_hangs_holds_up_nobody_for_long() {
    let stub = Stub::new("hang");
    let service = service(&stub).await;
    eventually("it is told", || async {
        text(&node(&service).await["reason"]).contains("did not answer")
    })
    .await;
    let (status, _) = service.get("/container-svc/daemon/info").await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_told_with_the_container_that_it_runs_in() {
    let stub = Stub::new(&devices(1));
    let service = service(&stub).await;
    let name = unique("gpu");
    let run = service.grpc().await.run_container(service.request(&name)).await;
    let id = run.expect("runs").into_inner().id;
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &id]);
    let own = std::process::id();
    let lines =
        format!("{}process pid={pid} used=1048576\nprocess pid={own} used=2097152", devices(1));
    stub.says(&lines);
    eventually("both are there", || async {
        gpus(&service).await["gpus"][0]["processes"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    let told = gpus(&service).await["gpus"][0]["processes"].clone();
    assert_eq!(
        told[0],
        serde_json::json!({"pid": pid.parse::<u32>().expect("a pid"), "usedBytes": "1048576",
            "containerId": id, "containerName": name, "instance": ""})
    );
    assert_eq!((&told[1]["pid"], text(&told[1]["containerName"])), (&own.into(), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_cut_tells_its_instances() {
    let stub = Stub::new(&format!(
        "{}\ninstance uuid=MIG-a name=NVIDIA_A100_MIG_1g.5gb total=5368709120 used=1048576\n\
         process pid=1 used=1048576\n\
         instance uuid=MIG-b name=NVIDIA_A100_MIG_2g.10gb total=10737418240 used=0",
        device(0, 0, "mig=1")
    ));
    let service = service(&stub).await;
    let gpu = gpus(&service).await["gpus"][0].clone();
    assert_eq!(gpu["migEnabled"], true);
    let profiles: Vec<_> = gpu["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| text(&it["profile"]))
        .collect();
    assert_eq!(profiles, ["1g.5gb", "2g.10gb"]);
    assert_eq!(gpu["processes"].as_array().map(Vec::len), Some(1), "told once: {gpu}");
    assert_eq!(text(&gpu["processes"][0]["instance"]), "MIG-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_samples_at_its_interval_and_refuses_one_out_of_range() {
    let stub = Stub::new(&devices(2));
    let service = service(&stub).await;
    let path = "/container-svc/gpus/watch?interval=0.25s";
    // The stream has no end; curl's own limit ends it.
    let (status, _, body) = service.raw("GET", path, "", &["--max-time", "2"]).await;
    assert_eq!(status, 200);
    let samples: Vec<Value> =
        body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!((3..=9).contains(&samples.len()), "{} samples in 2 s", samples.len());
    for sample in &samples {
        assert_eq!(sample["result"]["gpus"].as_array().map(Vec::len), Some(2), "{sample}");
        assert!(text(&sample["result"]["at"]).starts_with("20"));
    }
    for interval in ["0.1s", "3601s", "-1s"] {
        let path = format!("/container-svc/gpus/watch?interval={interval}");
        let (status, answer) = service.get(&path).await;
        assert_eq!((status, &answer["code"]), (400, &3.into()), "{interval}: {answer}");
        assert!(text(&answer["message"]).contains("interval"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_and_the_command_line_tell_of_gpus() {
    let stub = Stub::new(&format!("{}\n{}", device(0, 1024, ""), device(1, 0, "lost=15")));
    let service = service(&stub).await;
    eventually("the figures are there", || async {
        let (_, _, text) = service.raw("GET", "/metrics", "", &[]).await;
        let labels = format!("{{gpu=\"0\",uuid=\"{}\"}}", uuid(0));
        [
            "container_svc_gpus 2".to_owned(),
            format!("container_svc_gpu_usable{labels} 1"),
            format!("container_svc_gpu_memory_used_bytes{labels} {}", 1_u64 << 30),
            format!("container_svc_gpu_utilization_ratio{labels} 0.4"),
            format!("container_svc_gpu_power_watts{labels} 61.5"),
            "container_svc_gpu_usable{gpu=\"1\",uuid=\"\"} 0".to_owned(),
        ]
        .iter()
        .all(|line| text.lines().any(|have| have == line))
    })
    .await;
    let command = || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_container-svc"));
        let own =
            [("CONTAINER_SVC_ADDRESS", &service.url), ("CONTAINER_SVC_TOKEN", &service.token)];
        command.env_clear().envs(own).kill_on_drop(true);
        command
    };
    let out = command().arg("gpus").output().await.expect("it runs");
    let table = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{out:?}");
    for part in ["Driver 550.54.15, CUDA 12.4", &uuid(0), "1024/16384 MiB", "61W", "fell off"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let mut watch = command();
    watch.args(["--json", "gpus", "--watch", "--interval", "250ms"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    let out = watch.stdout.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(out));
    for _ in 0..2 {
        let line = lines.next_line().await.expect("text").expect("a sample");
        let sample: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(sample["node"]["count"], 2);
    }
    watch.kill().await.expect("ended");
}
