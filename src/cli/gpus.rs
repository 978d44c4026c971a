//! `gpus`: list the GPUs of the node, once or again and again.

use std::time::Duration;

use crate::rpc::pb;

use super::{Failure, Output, Session, interrupt};

/// How to list them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Time between two samples, 250ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::config::duration)]
    interval: Duration,
}

pub(super) async fn gpus(args: &Args, session: Session, out: Output) -> Result<(), Failure> {
    let mut client = session.gpus();
    if !args.watch {
        let answer = client.list_gpus(pb::ListGpusRequest {}).await?.into_inner();
        if out.json {
            return out.message("ListGpusResponse", &answer);
        }
        return show(&answer.node.unwrap_or_default(), &answer.gpus, out);
    }
    let interval = prost_types::Duration::try_from(args.interval).ok();
    interrupt::ends_well()?;
    let mut samples = client.watch_gpus(pb::WatchGpusRequest { interval }).await?.into_inner();
    while let Some(sample) = samples.message().await? {
        if out.json {
            out.message("WatchGpusResponse", &sample)?;
            continue;
        }
        let at = sample.at.as_ref().and_then(super::info::time);
        out.line(at.unwrap_or_default())?;
        show(&sample.node.unwrap_or_default(), &sample.gpus, out)?;
    }
    Ok(())
}

fn show(node: &pb::NodeGpus, gpus: &[pb::Gpu], out: Output) -> Result<(), Failure> {
    if gpus.is_empty() {
        return out.line(none(node));
    }
    let (driver, cuda) = (&node.driver_version, &node.cuda_version);
    out.line(
        format_args!("Driver {driver}, CUDA {cuda}").to_string().replace(char::is_control, "?"),
    )?;
    if node.waiting > 0 {
        out.line(format_args!("{} runs wait for GPUs", node.waiting))?;
    }
    let rows: Vec<_> = gpus.iter().map(row).collect();
    out.table(["GPU", "NAME", "UUID", "MEMORY", "BUSY", "TEMP", "POWER", "USED BY"], &rows)
}

/// What stands in place of a table.
pub(super) fn none(node: &pb::NodeGpus) -> String {
    let why = node.reason.as_deref().unwrap_or("the service does not say why");
    format!("no GPU on this node: {why}").replace(char::is_control, "?")
}

fn row(gpu: &pb::Gpu) -> [String; 8] {
    let mib = |bytes: i64| bytes >> 20;
    let told = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let memory =
        gpu.memory.as_ref().map(|it| format!("{}/{} MiB", mib(it.used_bytes), mib(it.total_bytes)));
    let mut users: Vec<String> = gpu.processes.iter().map(user).collect();
    users.sort();
    users.dedup();
    [
        gpu.index.to_string(),
        gpu.name.clone(),
        gpu.uuid.clone(),
        match &gpu.error {
            Some(why) => format!("lost: {why}"),
            None => match &gpu.drained {
                Some(why) => format!("drained: {why}"),
                None => told(memory),
            },
        },
        told(gpu.utilization_percent.map(|percent| format!("{percent}%"))),
        told(gpu.temperature_celsius.map(|degrees| format!("{degrees}C"))),
        told(gpu.power_milliwatts.map(|milliwatts| format!("{}W", milliwatts / 1000))),
        users.join(","),
    ]
}

/// A container by its name, else a process.
fn user(process: &pb::GpuProcess) -> String {
    match process.container_name.as_str() {
        "" => format!("pid {}", process.pid),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_memory_load_and_users_and_why_a_gpu_is_lost() {
        let process = |pid, name: &str| pb::GpuProcess {
            pid,
            container_name: name.into(),
            ..Default::default()
        };
        let gpu = pb::Gpu {
            index: 1,
            name: "A100".into(),
            uuid: "GPU-1".into(),
            memory: Some(pb::GpuMemory {
                total_bytes: 40 << 30,
                used_bytes: 3 << 20,
                ..Default::default()
            }),
            utilization_percent: Some(7),
            power_milliwatts: Some(61_500),
            processes: vec![process(9, ""), process(3, "llm"), process(4, "llm")],
            ..Default::default()
        };
        let expected = ["1", "A100", "GPU-1", "3/40960 MiB", "7%", "-", "61W", "llm,pid 9"];
        assert_eq!(row(&gpu), expected);
        let lost = pb::Gpu { error: Some("it fell off".into()), ..Default::default() };
        assert_eq!(row(&lost)[3], "lost: it fell off");
    }
}
