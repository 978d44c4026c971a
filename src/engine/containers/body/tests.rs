//! What the engine is asked for where a container has GPUs.

use std::sync::Arc;

use super::{super::LogFilesLimit, *};
use crate::domain::{
    asset::Policy,
    gpu::Booking,
    spec::{Defaults, RunRequest, RunSpec},
};

fn spec() -> RunSpec {
    let policy = Policy { http_hosts: vec![], addresses: vec![], file_roots: vec![] };
    let defaults = Defaults { port_address: [0, 0, 0, 0].into(), asset_policy: Arc::new(policy) };
    let envs = [("LD_PRELOAD", "/x.so"), ("A", "b")];
    let envs = envs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let request = RunRequest { image: "app".into(), envs, gpu_enabled: true, ..Default::default() };
    RunSpec::resolve(request, &defaults).expect("it is right")
}

fn create(gpus: &[Booking], gpu_access: GpuAccess, mps: Option<&str>) -> ContainerCreateBody {
    body(&NewContainer {
        name: "app",
        spec: &spec(),
        image_id: "sha256:0",
        host_ports: &[],
        labels: HashMap::new(),
        network: "net",
        log_files: LogFilesLimit { bytes: 1, count: 1 },
        keeps: Vec::new(),
        assets: Vec::new(),
        gpus,
        gpu_access,
        mps,
    })
}

fn booking(device: &str, enforced: bool) -> Booking {
    Booking { device: device.into(), memory_mb: 1024, enforced, ..Booking::default() }
}

#[test]
fn an_engine_that_knows_gpus_by_their_description_is_asked_by_that_alone() {
    let gpus = [booking("GPU-a", false), booking("MIG-b", false)];
    let host = |access| create(&gpus, access, None).host_config.unwrap_or_default();
    let described = host(GpuAccess::Cdi).device_requests.unwrap_or_default();
    assert_eq!(described.len(), 1);
    assert_eq!(described[0].driver.as_deref(), Some("cdi"));
    let ids = ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=MIG-b"].map(str::to_owned);
    assert_eq!(described[0].device_ids.as_deref(), Some(&ids[..]));
    assert_eq!((described[0].count, &described[0].capabilities), (None, &None));
    let asked = host(GpuAccess::Requests).device_requests.unwrap_or_default();
    assert_eq!(asked[0].driver.as_deref(), Some("nvidia"));
    assert_eq!(asked[0].device_ids.as_deref(), Some(&["GPU-a", "MIG-b"].map(str::to_owned)[..]));
}

#[test]
fn what_callers_would_make_gpu_libraries_load_is_left_out_either_way() {
    for access in [GpuAccess::Cdi, GpuAccess::Requests] {
        let envs = create(&[booking("GPU-a", false)], access, None).env.unwrap_or_default();
        assert_eq!(envs, ["A=b", "NVIDIA_VISIBLE_DEVICES=GPU-a"]);
    }
    let envs = create(&[], GpuAccess::Cdi, None).env.unwrap_or_default();
    assert_eq!(envs, ["A=b", "LD_PRELOAD=/x.so"], "without GPUs it is the caller's affair");
}

#[test]
fn only_who_is_kept_within_a_share_reaches_mps() {
    let shared = create(&[booking("GPU-a", true)], GpuAccess::Cdi, Some("/mps"));
    let host = shared.host_config.unwrap_or_default();
    assert_eq!(host.ipc_mode.as_deref(), Some("host"));
    let mounts = host.mounts.unwrap_or_default();
    assert_eq!(mounts[0].source.as_deref(), Some("/mps"));
    let whole = create(&[booking("GPU-a", false)], GpuAccess::Cdi, Some("/mps"));
    let host = whole.host_config.unwrap_or_default();
    assert_eq!((host.ipc_mode, host.mounts), (None, None));
}
