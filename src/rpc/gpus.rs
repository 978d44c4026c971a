//! GpuService.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::{duration, timestamp},
    pb::{self, gpu_service_server::GpuService},
};
use crate::{
    app::App,
    domain::{
        Error,
        gpu::{Device, Inventory, Memory},
    },
};

#[tonic::async_trait]
impl GpuService for Service {
    async fn list_gpus(
        &self,
        _: Request<pb::ListGpusRequest>,
    ) -> Result<Response<pb::ListGpusResponse>, Status> {
        let seen = self.0.gpus.look().await;
        Ok(Response::new(pb::ListGpusResponse {
            node: Some(node(&seen, &self.0)),
            gpus: gpus(&seen, &self.0),
        }))
    }

    type WatchGpusStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchGpusResponse, Status>> + Send>>;

    async fn watch_gpus(
        &self,
        request: Request<pb::WatchGpusRequest>,
    ) -> Result<Response<Self::WatchGpusStream>, Status> {
        let every = duration(request.into_inner().interval).transpose();
        let every = every.map_err(|why| Error::field("interval", why))?;
        let app = self.0.clone();
        let samples = self.0.watch_gpus(every)?.map(move |(at, seen)| {
            Ok(pb::WatchGpusResponse {
                at: Some(timestamp(at)),
                node: Some(node(&seen, &app)),
                gpus: gpus(&seen, &app),
            })
        });
        Ok(Response::new(Box::pin(samples)))
    }
}

/// Whether the node has GPUs, and with which driver.
pub(super) fn node(seen: &Inventory, app: &App) -> pb::NodeGpus {
    pb::NodeGpus {
        available: seen.missing.is_none(),
        reason: seen.missing.clone(),
        driver_version: seen.driver.clone(),
        cuda_version: seen
            .cuda
            .map(|(major, minor)| format!("{major}.{minor}"))
            .unwrap_or_default(),
        count: i32::try_from(seen.devices.len()).unwrap_or(i32::MAX),
        library: app.gpus.library().to_owned(),
    }
}

fn gpus(seen: &Inventory, app: &App) -> Vec<pb::Gpu> {
    seen.devices.iter().map(|device| gpu(device, app)).collect()
}

fn gpu(device: &Device, app: &App) -> pb::Gpu {
    let instances = device.instances.iter().map(|part| pb::GpuInstance {
        uuid: part.uuid.clone(),
        profile: part.profile.clone(),
        memory: part.memory.map(memory),
    });
    let processes = device.processes.iter().map(|process| {
        let container_id = process.container_id.clone().unwrap_or_default();
        let found = app.view.by_id(&container_id);
        pb::GpuProcess {
            pid: small(process.pid),
            used_bytes: process.memory.map(large),
            container_name: found.map(|found| found.name().to_owned()).unwrap_or_default(),
            container_id,
            instance: process.instance.clone().unwrap_or_default(),
        }
    });
    pb::Gpu {
        index: small(device.index),
        uuid: device.uuid.clone(),
        name: device.name.clone(),
        error: device.lost.clone(),
        memory: device.memory.map(memory),
        utilization_percent: device.utilization.map(small),
        memory_utilization_percent: device.memory_utilization.map(small),
        temperature_celsius: device.temperature.map(small),
        power_milliwatts: device.power.map(small),
        power_limit_milliwatts: device.power_limit.map(small),
        ecc_enabled: device.ecc,
        ecc_uncorrected_errors: device.ecc_errors.map(large),
        mig_enabled: device.mig,
        instances: instances.collect(),
        processes: processes.collect(),
    }
}

fn memory(memory: Memory) -> pb::GpuMemory {
    pb::GpuMemory {
        total_bytes: large(memory.total),
        free_bytes: large(memory.free),
        used_bytes: large(memory.used),
        reserved_bytes: large(memory.reserved),
    }
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn large(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
