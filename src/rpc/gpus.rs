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
    app::{App, gpus::Standing},
    domain::{
        Error,
        container::Container,
        gpu::{
            Booking, Device, Inventory, Memory, RawWish, label, overrun::OnOverrun,
            placement::used_by, xid::Xid,
        },
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
        waiting: i32::try_from(app.gpu_queue_length()).unwrap_or(i32::MAX),
    }
}

/// What a run asks for; `all` is the older field beside it.
pub(super) fn wish(wish: pb::Gpus, all: bool) -> RawWish {
    let spread = wish.placement() == pb::GpuPlacement::Spread;
    let on_overrun = match wish.on_overrun() {
        pb::GpuOverrunAction::Unspecified => None,
        pb::GpuOverrunAction::Report => Some(OnOverrun::Report),
        pb::GpuOverrunAction::Restart => Some(OnOverrun::Restart),
        pb::GpuOverrunAction::Stop => Some(OnOverrun::Stop),
    };
    RawWish {
        all,
        queue: wish.queue,
        queue_timeout: duration(wish.queue_timeout),
        on_overrun,
        count: wish.count.into(),
        ids: wish.ids,
        memory_mb: wish.memory_mb.into(),
        compute: wish.compute_percent.into(),
        exclusive: wish.exclusive,
        shared: wish.shared,
        profile: wish.mig_profile,
        spread,
    }
}

impl From<Standing> for pb::GpuStanding {
    fn from(standing: Standing) -> Self {
        let count = |count| i32::try_from(count).unwrap_or(i32::MAX);
        Self { position: count(standing.place), length: count(standing.of), reason: standing.why }
    }
}

/// What a container has of GPUs, as they were seen last.
pub(super) fn of(container: &Container, app: &App) -> Vec<pb::ContainerGpu> {
    let bookings = label::read(container);
    if bookings.is_empty() {
        return Vec::new();
    }
    let seen = app.gpus.last();
    let (runs, kept) = (container.is_running(), app.is_kept_by_mps(container));
    let one = |booking: Booking| {
        let used = used_by(&seen, &container.id, &booking.device).filter(|_| runs);
        let level = match used {
            // Nothing gets out of an instance, whatever it tries. MPS keeps those who go
            // through it, as every program does by default; one that takes its variables
            // out of its environment does not.
            _ if booking.is_instance() || (booking.enforced && kept) => pb::GpuLevel::Enforced,
            Some(_) => pb::GpuLevel::Observed,
            None => pb::GpuLevel::Booked,
        };
        pb::ContainerGpu {
            uuid: booking.device,
            memory_mb: i32::try_from(booking.memory_mb).unwrap_or(i32::MAX),
            compute_percent: small(booking.compute),
            exclusive: booking.exclusive,
            level: level.into(),
            used_bytes: used.map(large),
        }
    };
    bookings.into_iter().map(one).collect()
}

fn gpus(seen: &Inventory, app: &App) -> Vec<pb::Gpu> {
    let booked = app.gpu_bookings();
    seen.devices.iter().map(|device| gpu(device, &booked, app)).collect()
}

fn gpu(device: &Device, booked: &[Booking], app: &App) -> pb::Gpu {
    let here = booked.iter().filter(|booking| {
        booking.device == device.uuid
            || device.instances.iter().any(|part| part.uuid == booking.device)
    });
    let bookings = here.map(|booking| pb::GpuBooking {
        container_name: booking.holder.clone(),
        container_id: booking.container_id.clone(),
        uuid: booking.device.clone(),
        memory_mb: i32::try_from(booking.memory_mb).unwrap_or(i32::MAX),
        compute_percent: small(booking.compute),
        exclusive: booking.exclusive,
    });
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
        bookings: bookings.collect(),
        drained: device.drained.clone(),
        xids: device.xids.iter().map(xid).collect(),
    }
}

fn xid(xid: &Xid) -> pb::GpuXid {
    let Xid { code, at } = *xid;
    pb::GpuXid { code: large(code), at: Some(timestamp(at)), fatal: xid.fatal().is_some() }
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
