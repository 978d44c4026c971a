//! The figures of the service, from memory and /proc; the engine is not asked.

use jiff::Timestamp;
use procfs::{WithCurrentSystemInfo as _, process::Process};

use super::App;
use crate::{
    domain::{
        container::State,
        gpu::{Device, Inventory},
        metrics::Family,
    },
    store::logs::Source,
};

impl App {
    /// Everything that can be counted now.
    pub fn metrics(&self) -> Vec<Family> {
        // One function a subsystem. A new one is added here.
        [
            service(),
            process(),
            self.container_figures(),
            self.engine_figures(),
            self.log_figures(),
            self.event_figures(),
            self.gpu_figures(),
        ]
        .concat()
    }

    fn container_figures(&self) -> Vec<Family> {
        let all = self.view.all();
        let mut family = Family::gauge(
            "container_svc_containers",
            "Containers of the node by state, and whether this service made them.",
        );
        for state in State::ALL {
            for managed in [true, false] {
                let is = |container: &_| self.is_ours(container) == managed;
                let count = all.iter().filter(|it| it.state == state && is(it)).count();
                let managed = if managed { "true" } else { "false" };
                let labels = [("state", state.word()), ("managed", managed)];
                family = family.labelled(&labels, count as f64);
            }
        }
        let help = "Containers that are checked, by how they do.";
        let mut health = Family::gauge("container_svc_containers_health", help);
        for (status, count) in self.conditions() {
            health = health.labelled(&[("health", status.word())], count as f64);
        }
        let (waiting, given_up) = self.restarts.count();
        let help = "Containers that ended and wait for their restart, or were given up.";
        let restarts = Family::gauge("container_svc_containers_ended", help)
            .labelled(&[("restart", "backing_off")], waiting as f64)
            .labelled(&[("restart", "gave_up")], given_up as f64);
        vec![family, health, restarts]
    }

    fn event_figures(&self) -> Vec<Family> {
        let help = "Events since the service began, by kind.";
        let family = Family::counter("container_svc_events_total", help);
        let counts = self.store.event_counts();
        vec![counts.fold(family, |family, (kind, count)| {
            family.labelled(&[("kind", kind.word())], count as f64)
        })]
    }

    fn engine_figures(&self) -> Vec<Family> {
        let fresh = self.view.freshness();
        let age = fresh.lost_at.map_or(0.0, |at| seconds_since(at, Timestamp::now()));
        vec![
            Family::gauge(
                "container_svc_engine_reachable",
                "1 when the Docker engine answered the last time that it was asked, each second.",
            )
            .value(flag(self.node.engine_answers())),
            Family::gauge(
                "container_svc_view_synced",
                "1 while what the service knows of the node follows the engine's events.",
            )
            .value(flag(fresh.synced)),
            Family::gauge(
                "container_svc_view_age_seconds",
                "How long what the service knows of the node has been out of step; 0 while synced.",
            )
            .value(age),
        ]
    }
}

impl App {
    fn log_figures(&self) -> Vec<Family> {
        let (sources, retired) = (self.logs.store.sources(), self.logs.store.retired());
        let sum = |of: fn(&Source) -> u64| sources.iter().map(|s| of(s)).sum::<u64>() as f64;
        let gauge = |name, help, value| Family::gauge(name, help).value(value);
        let counter = |name, help, value: u64| Family::counter(name, help).value(value as f64);
        vec![
            gauge("container_svc_log_lines", "Log lines in the store.", sum(|s| s.lines)),
            gauge("container_svc_log_raw_bytes", "Bytes of these lines.", sum(|s| s.raw_bytes)),
            gauge(
                "container_svc_log_stored_bytes",
                "Bytes that these lines take in the store.",
                sum(|s| s.stored_bytes),
            ),
            counter(
                "container_svc_log_retired_lines_total",
                "Log lines that retention took away.",
                retired.lines,
            ),
            counter(
                "container_svc_log_retired_raw_bytes_total",
                "Bytes of the lines that retention took away.",
                retired.raw_bytes,
            ),
            gauge(
                "container_svc_log_collectors_failing",
                "Containers whose log cannot be collected at the moment.",
                self.logs.failing() as f64,
            ),
            gauge(
                "container_svc_log_store_writable",
                "1 while log lines can be stored; 0 as when the disk is full.",
                flag(self.logs.trouble().is_none()),
            ),
        ]
    }
}

impl App {
    fn gpu_figures(&self) -> Vec<Family> {
        let waiting = self.gpu_queue_length() as f64;
        let mut families = device_figures(&self.gpus.last());
        let help = "Runs that wait for GPUs.";
        families.push(Family::gauge("container_svc_gpu_queue_length", help).value(waiting));
        families
    }
}

/// As they were seen last; a scrape does not ask the driver.
fn device_figures(seen: &Inventory) -> Vec<Family> {
    let each = |name, help, value: fn(&Device) -> Option<f64>| {
        let told = seen.devices.iter().filter_map(|device| Some((device, value(device)?)));
        told.fold(Family::gauge(name, help), |family, (device, value)| {
            let labels = [("gpu", device.index.to_string()), ("uuid", device.uuid.clone())];
            let labels = labels.each_ref().map(|(key, value)| (*key, value.as_str()));
            family.labelled(&labels, value)
        })
    };
    vec![
        Family::gauge("container_svc_gpus", "GPUs of the node.").value(seen.devices.len() as f64),
        each("container_svc_gpu_usable", "1 while the GPU answers and is not drained.", |gpu| {
            Some(flag(gpu.lost.is_none() && gpu.drained.is_none()))
        }),
        each("container_svc_gpu_memory_total_bytes", "Memory of the GPU.", |gpu| {
            gpu.memory.map(|memory| memory.total as f64)
        }),
        each("container_svc_gpu_memory_used_bytes", "Memory that processes have.", |gpu| {
            gpu.memory.map(|memory| memory.used as f64)
        }),
        each("container_svc_gpu_utilization_ratio", "How busy the GPU was, 0 to 1.", |gpu| {
            gpu.utilization.map(|percent| f64::from(percent) / 100.0)
        }),
        each("container_svc_gpu_temperature_celsius", "Temperature of the GPU.", |gpu| {
            gpu.temperature.map(f64::from)
        }),
        each("container_svc_gpu_power_watts", "What the GPU draws.", |gpu| {
            gpu.power.map(|milliwatts| f64::from(milliwatts) / 1000.0)
        }),
    ]
}

fn service() -> Vec<Family> {
    let help = "1, with the version of the service.";
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    vec![Family::gauge("container_svc_build_info", help).labelled(&version, 1.0)]
}

/// Under the names that Prometheus gives them for every process. What /proc
/// does not tell is left out.
fn process() -> Vec<Family> {
    let process = Process::myself().ok();
    let stat = process.as_ref().and_then(|process| process.stat().ok());
    let ticks = procfs::ticks_per_second() as f64;
    let started = stat
        .as_ref()
        .zip(procfs::boot_time_secs().ok())
        .map(|(stat, boot)| boot as f64 + stat.starttime as f64 / ticks);
    let cpu = stat.as_ref().map(|stat| (stat.utime + stat.stime) as f64 / ticks);
    let memory = stat.as_ref().map(|stat| stat.rss_bytes().get() as f64);
    let open = process.as_ref().and_then(|process| process.fd_count().ok());
    let told = |family: Family, value: Option<f64>| match value {
        Some(value) => family.value(value),
        None => family,
    };
    vec![
        told(
            Family::gauge("process_start_time_seconds", "When the process began, since 1970."),
            started,
        ),
        told(Family::counter("process_cpu_seconds_total", "Time on processors."), cpu),
        told(Family::gauge("process_resident_memory_bytes", "Memory in RAM."), memory),
        told(
            Family::gauge("process_open_fds", "Open file descriptors."),
            open.map(|count| count as f64),
        ),
    ]
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Never negative: clocks jump.
fn seconds_since(at: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_start_its_memory_and_its_files() {
        let text = crate::domain::metrics::text(&process());
        let figure = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
        };
        let now = Timestamp::now().as_second() as f64;
        // The kernel rounds the boot time to a second.
        assert!((now - figure("process_start_time_seconds")).abs() < 3_600.0, "{text}");
        assert!(figure("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(figure("process_open_fds") >= 3.0, "{text}");
        assert!(figure("process_cpu_seconds_total") >= 0.0, "{text}");
    }

    #[test]
    fn a_clock_that_jumps_back_makes_no_negative_age() {
        let second = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(seconds_since(second(10), second(4)), 0.0);
        assert_eq!(seconds_since(second(10), second(14)), 4.0);
    }
}
