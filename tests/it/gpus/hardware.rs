//! The real driver, where there is one: what the node has, the memory of a real process,
//! and a booking, told as a report. Where there is none, the reason is printed.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use container_svc::rpc::pb;
use tempfile::TempDir;
use tonic::Code;

use super::{gpus, node, text};
use crate::support::{Service, eventually, unique};

/// MiB that the process holds.
const HELD: u64 = 256;

/// A process that holds GPU memory until it is dropped.
struct Holder {
    process: Child,
    _dir: TempDir,
}

impl Holder {
    /// Starts it; why it cannot be started.
    fn start() -> Result<Self, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("hold");
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&program)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/gpus/hold.c"))
            .arg("-ldl")
            .output()
            .expect("no cc: run `make tools`");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut process = Command::new(program)
            .arg(HELD.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut word = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut word).expect("a word");
        let holder = Self { process, _dir: dir };
        if word.trim() == "holds" { Ok(holder) } else { Err(word.trim().to_owned()) }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_holds_gpu_memory_says_why_it_cannot_where_there_is_no_driver() {
    // So it is built, and tried, on every machine.
    match Holder::start() {
        Ok(_) => println!("it holds {HELD} MiB"),
        Err(why) => assert!(why.contains("cuda") || why.contains("cu"), "{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_gpu_is_told_with_the_memory_of_a_real_process_and_can_be_booked() {
    let service = Service::start().await.synced().await;
    let told = node(&service).await;
    if told["available"] != true {
        println!("skipped, as this machine has no GPU: {}", text(&told["reason"]));
        return;
    }
    println!("driver {}, CUDA {}", text(&told["driverVersion"]), text(&told["cudaVersion"]));
    assert!(!text(&told["driverVersion"]).is_empty());
    let seen = gpus(&service).await;
    for gpu in seen["gpus"].as_array().expect("a list") {
        println!("{gpu:#}");
        if gpu.get("error").is_some() {
            continue;
        }
        assert!(text(&gpu["uuid"]).starts_with("GPU-") && !text(&gpu["name"]).is_empty());
        let total: u64 = text(&gpu["memory"]["totalBytes"]).parse().expect("bytes");
        assert!(total > 1 << 30, "{total} bytes");
    }

    match Holder::start() {
        Err(why) => println!("no process observed: {why}"),
        Ok(holder) => {
            let (pid, least) = (u64::from(holder.process.id()), HELD << 20);
            let used = async || {
                let seen = gpus(&service).await;
                let gpus = seen["gpus"].as_array().expect("a list").clone();
                let mut all = gpus.iter().flat_map(|gpu| gpu["processes"].as_array().cloned());
                let all: Vec<_> = all.by_ref().flatten().collect();
                let ours = all.into_iter().find(|one| one["pid"] == pid)?;
                Some(text(&ours["usedBytes"]).parse::<u64>().unwrap_or(least))
            };
            eventually("the process is seen with its memory", || async {
                used().await.is_some_and(|used| used >= least)
            })
            .await;
            println!("process {pid} is seen with {} MiB", used().await.unwrap_or(0) >> 20);
            drop(holder);
            eventually("it is gone", || async { used().await.is_none() }).await;
        }
    }

    let name = unique("hardware");
    let wish = pb::Gpus { memory_mb: 64, ..Default::default() };
    let request = pb::RunContainerRequest { gpus: Some(wish), ..service.request(&name) };
    match service.grpc().await.run_container(request).await {
        Ok(_) => {
            let (_, told) = service.get(&format!("/container-svc/container?name={name}")).await;
            println!("booked: {:#}", told["container"]["gpus"]);
            assert_eq!(told["container"]["gpus"][0]["memoryMB"], 64);
        }
        Err(refused) => {
            // A machine with a GPU, and an engine that cannot give it.
            println!("not booked: {}", refused.message());
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        }
    }
}
