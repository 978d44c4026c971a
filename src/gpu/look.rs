//! One look at all GPUs. What a device cannot tell is left out; nothing fails.

use nvml_wrapper::{
    Device as Handle, Nvml, cuda_driver_version_major, cuda_driver_version_minor,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
    struct_wrappers::device::{MemoryInfo, ProcessInfo},
};

use tokio::sync::mpsc;

use super::{Drained, Look, events::Events, library::Library};
use crate::domain::gpu::{
    Device, Instance, Inventory, Memory, Process, container_of_cgroup, is_host_namespace,
    profile_of,
};

/// Most GPUs, instances of one, and processes on one that are looked at.
const MOST_DEVICES: u32 = 64;
const MOST_INSTANCES: u32 = 16;
const MOST_PROCESSES: usize = 1024;

/// Looks when it is asked, as long as the library answers. Answers with the question
/// that is to be answered next.
pub(super) fn serve(
    nvml: &Nvml,
    library: &mut Library,
    drains: &Drained,
    mut question: Look,
    questions: &mut mpsc::Receiver<Look>,
) -> Option<Look> {
    let mut events = Events::default();
    loop {
        let seen = look(nvml, library, &mut events, drains);
        let alive = seen.is_ok();
        let seen = seen.unwrap_or_else(|error| Inventory::none(library.explained(&error)));
        // Nobody waits any more when it took too long.
        let _ = question.send(seen);
        question = questions.blocking_recv()?;
        if !alive {
            return Some(question);
        }
    }
}

/// What is there now; an error when the driver was exchanged, or is gone.
fn look<'nvml>(
    nvml: &'nvml Nvml,
    library: &mut Library,
    events: &mut Events<'nvml>,
    drains: &Drained,
) -> Result<Inventory, NvmlError> {
    let count = nvml.device_count()?.min(MOST_DEVICES);
    let numbers = |version| {
        let number = |of: fn(i32) -> i32| u32::try_from(of(version)).ok();
        Some((number(cuda_driver_version_major)?, number(cuda_driver_version_minor)?))
    };
    let mut devices: Vec<Device> = (0..count)
        .map(|index| {
            let (uuid, name) = library.known.get(&index).cloned().unwrap_or_default();
            device(nvml, Device { index, uuid, name, ..Device::default() })
        })
        .collect();
    events.listen(nvml, &devices);
    for (uuid, xid) in events.poll() {
        tracing::warn!(uuid, xid = xid.code, "a GPU reports an error");
        library.note(&uuid, xid);
        drains.lock().note(&uuid, xid);
    }
    for device in &mut devices {
        device.xids = library.xids.get(&device.uuid).cloned().unwrap_or_default();
        device.drained = drains.why(&device.uuid, device.lost.is_some());
    }
    let told = devices.iter().filter(|device| !device.uuid.is_empty());
    library.known =
        told.map(|device| (device.index, (device.uuid.clone(), device.name.clone()))).collect();
    Ok(Inventory {
        missing: devices
            .is_empty()
            .then(|| "the NVIDIA driver finds no device; see whether `lspci` shows one".to_owned()),
        driver: nvml.sys_driver_version().unwrap_or_default(),
        cuda: nvml.sys_cuda_driver_version().ok().and_then(numbers),
        devices,
    })
}

/// One device, beginning with what is known of it.
fn device(nvml: &Nvml, mut device: Device) -> Device {
    let handle = match nvml.device_by_index(device.index) {
        Ok(handle) => handle,
        Err(error) => {
            device.lost = Some(lost(&error));
            return device;
        }
    };
    match handle.uuid() {
        Ok(uuid) => device.uuid = uuid,
        Err(error) => {
            device.lost = Some(lost(&error));
            return device;
        }
    }
    if let Ok(name) = handle.name() {
        device.name = name;
    }
    match handle.memory_info() {
        Ok(info) => device.memory = Some(memory(&info)),
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => {
            device.lost = Some(lost(&error));
            return device;
        }
        Err(_) => {}
    }
    if let Ok(rates) = handle.utilization_rates() {
        device.utilization = Some(rates.gpu);
        device.memory_utilization = Some(rates.memory);
    }
    device.temperature = handle.temperature(TemperatureSensor::Gpu).ok();
    device.power = handle.power_usage().ok();
    device.power_limit = handle.enforced_power_limit().ok();
    device.ecc = handle.is_ecc_enabled().ok().map(|state| state.currently_enabled);
    if device.ecc == Some(true) {
        let errors = handle.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
        device.ecc_errors = errors.ok();
    }
    device.mig = handle.mig_mode().ok().map(|mode| mode.current == 1);
    device.processes = processes(&handle, None);
    if device.mig == Some(true) {
        let count = handle.mig_device_count().unwrap_or(0).min(MOST_INSTANCES);
        // A number without an instance answers NOT_FOUND.
        for part in (0..count).filter_map(|index| handle.mig_device_by_index(index).ok()) {
            let Ok(uuid) = part.uuid() else { continue };
            let inside = processes(&part, Some(&uuid));
            // The whole device tells of the same processes again.
            device.processes.retain(|one| inside.iter().all(|other| other.pid != one.pid));
            device.processes.extend(inside);
            device.instances.push(Instance {
                profile: part.name().map(|name| profile_of(&name).to_owned()).unwrap_or_default(),
                memory: part.memory_info().ok().map(|info| memory(&info)),
                uuid,
            });
        }
    }
    device
}

/// Why a device cannot be used.
fn lost(error: &NvmlError) -> String {
    match error {
        NvmlError::GpuLost => {
            "it fell off the bus; see the kernel's log, and restart the machine".to_owned()
        }
        NvmlError::ResetRequired => {
            "it must be reset; stop what uses it and run `nvidia-smi --gpu-reset`".to_owned()
        }
        NvmlError::InsufficientPower => {
            "its power cable is not attached; attach it and restart the machine".to_owned()
        }
        NvmlError::NoPermission => {
            "this user may not use it; give it access to the device in /dev".to_owned()
        }
        other => format!("the driver answers: {other}; see the kernel's log"),
    }
}

fn memory(info: &MemoryInfo) -> Memory {
    let &MemoryInfo { total, free, used, reserved, .. } = info;
    Memory { total, free, used, reserved }
}

fn processes(handle: &Handle<'_>, instance: Option<&str>) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let compute = handle.running_compute_processes().unwrap_or_default();
    // Clients of MPS are no processes of their own to the device.
    let clients = handle.mps_running_compute_processes().unwrap_or_default();
    let graphics = handle.running_graphics_processes().unwrap_or_default();
    for ProcessInfo { pid, used_gpu_memory, .. } in
        compute.into_iter().chain(clients).chain(graphics)
    {
        // One that computes and draws is listed twice, with the same memory.
        if found.len() < MOST_PROCESSES && found.iter().all(|process| process.pid != pid) {
            found.push(Process {
                pid,
                memory: match used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                },
                container_id: container(pid),
                instance: instance.map(str::to_owned),
            });
        }
    }
    found
}

/// The container of a process, while it lives. The driver tells the process ids of the
/// host; in a namespace of our own the same number is somebody else.
fn container(pid: u32) -> Option<String> {
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    if !is_host_namespace(&namespace.to_string_lossy()) {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    container_of_cgroup(&text).map(str::to_owned)
}
