//! `run`: make sure that a container runs.

use crate::rpc::pb;

use super::{Failure, Output, Session, parse, progress::View, ps, target};

mod supervision;

/// What shall run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name; repeat for aliases, which resolve in the service's network
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Port, as [[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]; without HOST the service
    /// chooses one and keeps it
    #[arg(short, long, value_name = "PORT", value_parser = parse::publish)]
    publish: Vec<pb::PortMapping>,
    /// Environment variable; without =VALUE it is passed on from here
    #[arg(short, long = "env", value_name = "KEY[=VALUE]", value_parser = parse::env_var)]
    envs: Vec<pb::EnvVar>,
    /// File that is fetched first and mounted; KEY holds its path in the container.
    /// Options, each after a comma: sha256=…, path=…, mode=0555, refresh
    #[arg(long = "asset", value_name = "KEY=URL[,OPTION]", value_parser = parse::asset)]
    assets: Vec<pb::Asset>,
    /// Path whose data outlive the container; with :ro it cannot write there. Needs a name
    #[arg(long = "keep", value_name = "PATH[:ro]", value_parser = parse::keep)]
    keeps: Vec<pb::Keep>,
    /// Label
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<pb::Label>,
    /// Your own name for this description; look-ups find the container by it
    #[arg(long, default_value = "", hide_default_value = true)]
    hash: String,
    /// Program in place of the image's; repeat for its fixed arguments
    #[arg(long, value_name = "PROGRAM", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// Directory in which the program starts
    #[arg(short, long, value_name = "PATH", default_value = "", hide_default_value = true)]
    workdir: String,
    /// User and optional group, as app or 1000:1000
    #[arg(short, long, value_name = "USER[:GROUP]", default_value = "", hide_default_value = true)]
    user: String,
    /// Processors, as 0.5
    #[arg(long, value_parser = parse::cpus, allow_negative_numbers = true)]
    cpus: Option<f64>,
    /// Memory in MiB, or as 512m, 2g
    #[arg(short, long, value_name = "SIZE", value_parser = parse::memory)]
    memory: Option<i32>,
    /// Processes and threads
    #[arg(long, value_name = "COUNT", value_parser = parse::count)]
    pids: Option<i32>,
    /// GPUs: all (shared, as by docker), how many, or which, as 0,2 or GPU-UUID
    #[arg(long, value_name = "WHICH", value_parser = parse::gpus)]
    gpus: Option<parse::Gpus>,
    /// Memory on each GPU in MiB, or as 512m, 2g; the rest is for others
    #[arg(long, value_name = "SIZE", value_parser = parse::memory, requires = "gpus")]
    gpu_memory: Option<i32>,
    /// Share the GPUs with others, without booking memory
    #[arg(long, requires = "gpus")]
    gpu_shared: bool,
    /// MIG instances of this profile in place of whole GPUs, as 1g.5gb
    #[arg(
        long,
        value_name = "PROFILE",
        requires = "gpus",
        default_value = "",
        hide_default_value = true
    )]
    mig_profile: String,
    /// Wait for the GPUs until they are free, at most so long [default of TIME: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse::duration, requires = "gpus")]
    #[arg(num_args = 0..=1, require_equals = true)]
    gpu_queue: Option<Option<prost_types::Duration>>,
    /// What is done when it uses more GPU memory than it booked
    #[arg(long, value_name = "ACTION", requires = "gpus")]
    gpu_overrun: Option<Overrun>,
    /// How long a stop waits before it kills, as 10s; a bare number is seconds
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    stop_timeout: Option<prost_types::Duration>,
    #[command(flatten)]
    supervision: supervision::Flags,
    /// When to fetch the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pull,
    /// Image, as nginx:1.27
    image: String,
    /// Arguments in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// When to fetch the image.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Pull {
    /// On every run; newer content replaces the container
    Always,
    /// When the node has no such image
    Missing,
    /// Never; fails when the node has no such image
    Never,
}

/// What is done about more GPU memory in use than was booked.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Overrun {
    /// Tell it by an event
    Report,
    /// Start the container again, as its restart policy says
    Restart,
    /// Stop the container
    Stop,
}

impl From<Overrun> for pb::GpuOverrunAction {
    fn from(action: Overrun) -> Self {
        match action {
            Overrun::Report => Self::Report,
            Overrun::Restart => Self::Restart,
            Overrun::Stop => Self::Stop,
        }
    }
}

pub(super) async fn run(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let request = pb::RunContainerStreamRequest { run: Some(request(args)) };
    let mut steps = session.containers().run_container_stream(request).await?.into_inner();
    let mut view = View::new(out);
    let answer = loop {
        match steps.message().await {
            Ok(Some(pb::RunContainerStreamResponse { result: Some(answer), .. })) => break answer,
            Ok(Some(step)) => show(&mut view, &step),
            Ok(None) => {
                view.clear();
                let why = "the service ended the run without saying what came of it";
                return Err(Failure::Other(why.to_owned()));
            }
            Err(status) => {
                view.clear();
                return Err(status.into());
            }
        }
    };
    view.clear();
    if out.json {
        return out.message("RunContainerResponse", &answer);
    }
    out.line(summary(&answer))
}

fn show(view: &mut View, step: &pb::RunContainerStreamResponse) {
    match (step.stage(), &step.pull, &step.download) {
        (_, Some(pull), _) => view.pull(pull),
        (_, _, Some(download)) => view.download(download),
        (pb::RunStage::Queued, ..) => {
            let standing = step.queue.clone().unwrap_or_default();
            view.wait("gpus", &waits(&standing));
        }
        (pb::RunStage::Creating, ..) => view.stage("creating"),
        (pb::RunStage::Starting, ..) => view.stage("starting"),
        _ => {}
    }
}

/// Where a run stands that waits for GPUs.
fn waits(standing: &pb::GpuStanding) -> String {
    let pb::GpuStanding { position, length, reason } = standing;
    format!("waiting, number {position} of {length}: {reason}")
}

fn request(args: Args) -> pb::RunContainerRequest {
    let limits = pb::Resources {
        cpu: args.cpus.unwrap_or_default(),
        memory_mb: args.memory.unwrap_or_default(),
        disk_mb: 0,
        pids: args.pids.unwrap_or_default(),
    };
    let supervision::Request { health_check, restart_policy, restart } = args.supervision.request();
    let limited = args.cpus.is_some() || args.memory.is_some() || args.pids.is_some();
    let pull_policy = match args.pull {
        Pull::Always => pb::PullPolicy::Always,
        Pull::Missing => pb::PullPolicy::IfNotPresent,
        Pull::Never => pb::PullPolicy::Never,
    };
    let more = args.gpu_memory.is_some()
        || args.gpu_shared
        || args.gpu_queue.is_some()
        || args.gpu_overrun.is_some()
        || !args.mig_profile.is_empty();
    let gpus = pb::Gpus {
        memory_mb: args.gpu_memory.unwrap_or_default(),
        shared: args.gpu_shared,
        mig_profile: args.mig_profile,
        queue: args.gpu_queue.is_some(),
        queue_timeout: args.gpu_queue.flatten(),
        on_overrun: args.gpu_overrun.map_or(pb::GpuOverrunAction::Unspecified, Into::into).into(),
        ..Default::default()
    };
    let (gpu_enabled, gpus) = match args.gpus {
        None => (false, None),
        Some(parse::Gpus::All) => (true, more.then_some(gpus)),
        Some(parse::Gpus::Count(count)) => (false, Some(pb::Gpus { count, ..gpus })),
        Some(parse::Gpus::Ids(ids)) => (false, Some(pb::Gpus { ids, ..gpus })),
    };
    pb::RunContainerRequest {
        gpus,
        capabilities: gpu_enabled.then_some(pb::Capabilities { gpu_enabled }),
        image: args.image,
        names: args.names,
        ports: args.publish,
        hash: args.hash,
        labels: args.labels,
        envs: args.envs,
        assets: args.assets,
        keeps: args.keeps,
        command: args.command,
        entrypoint: args.entrypoint,
        working_dir: args.workdir,
        user: args.user,
        resources: limited.then_some(limits),
        stop_timeout: args.stop_timeout,
        pull_policy: pull_policy.into(),
        health_check,
        restart_policy: restart_policy.into(),
        restart,
        ..Default::default()
    }
}

/// One line: the name, the id, what was done, and the ports.
fn summary(answer: &pb::RunContainerResponse) -> String {
    let done = match answer.action() {
        pb::RunAction::Unspecified if answer.started => "started".to_owned(),
        pb::RunAction::Unspecified | pb::RunAction::Unchanged => "unchanged".to_owned(),
        pb::RunAction::Created => "created".to_owned(),
        pb::RunAction::Started => "started".to_owned(),
        pb::RunAction::Replaced => format!("replaced ({})", answer.differing_fields.join(", ")),
    };
    let mut line = format!("{} {} {done}", answer.name, target::short(&answer.id));
    if !answer.ports.is_empty() {
        line.push(' ');
        line.push_str(&ps::ports(&answer.ports));
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_flags_of_docker_become_the_request() {
        let line = "run --name web --name www -p 80 -e A=b -l k=v --keep /data --keep /etc/app:ro --memory 2g --cpus 0.5 \
                    --stop-timeout 5 --pull never -w /srv -u 1:1 nginx:1 serve --name x";
        let request = request(Line::parse_from(line.split_whitespace()).args);
        assert_eq!(request.names, ["web", "www"]);
        assert_eq!(request.command, ["serve", "--name", "x"]);
        assert_eq!((request.ports[0].internal, request.ports[0].host), (80, 0));
        let keeps: Vec<_> = request.keeps.iter().map(|it| (&*it.path, it.read_only)).collect();
        assert_eq!(keeps, [("/data", None), ("/etc/app", Some(true))]);
        assert_eq!(
            request.resources.map(|limits| (limits.memory_mb, limits.cpu)),
            Some((2048, 0.5))
        );
        assert_eq!(request.stop_timeout.map(|timeout| timeout.seconds), Some(5));
        assert_eq!(request.pull_policy(), pb::PullPolicy::Never);
    }

    #[test]
    fn gpus_are_all_or_so_many_or_just_these() {
        let of = |line: &str| request(Line::parse_from(line.split_whitespace()).args);
        let all = of("run --gpus all nginx");
        assert_eq!((all.capabilities.map(|it| it.gpu_enabled), all.gpus), (Some(true), None));
        let some = of("run --gpus 2 --gpu-memory 4g nginx").gpus.unwrap_or_default();
        assert_eq!((some.count, some.memory_mb, some.shared), (2, 4096, false));
        let these = of("run --gpus 0,GPU-ab --gpu-shared nginx").gpus.unwrap_or_default();
        assert_eq!((these.ids, these.shared), (vec!["0".to_owned(), "GPU-ab".to_owned()], true));
        assert_eq!(of("run --gpus 0, nginx").gpus.unwrap_or_default().ids, ["0"]);
        assert!(Line::try_parse_from(["run", "--gpu-memory", "4g", "nginx"]).is_err());
        let waits =
            of("run --gpus 1 --gpu-queue --gpu-overrun stop nginx").gpus.unwrap_or_default();
        assert_eq!((waits.queue, waits.queue_timeout), (true, None));
        assert_eq!(waits.on_overrun(), pb::GpuOverrunAction::Stop);
        let waits = of("run --gpus 1 --gpu-queue=30s nginx").gpus.unwrap_or_default();
        assert_eq!(waits.queue_timeout.map(|it| it.seconds), Some(30));
        let standing = pb::GpuStanding { position: 2, length: 3, reason: "GPU 0: a".into() };
        assert_eq!(super::waits(&standing), "waiting, number 2 of 3: GPU 0: a");
    }

    #[test]
    fn an_unlimited_container_sends_no_limits() {
        let request = request(Line::parse_from(["run", "nginx"]).args);
        assert_eq!(request.resources, None);
        assert_eq!(request.pull_policy(), pb::PullPolicy::IfNotPresent);
    }
}
