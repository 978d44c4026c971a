//! `ps`: list containers in a table.

use jiff::Timestamp;

use crate::rpc::pb;

use super::{Failure, Output, Session, target::short};

const PAGE_SIZE: i32 = 1_000;

/// Which containers to list; all by default.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// All, as by default; here for hands that know docker
    #[arg(short, long, conflicts_with = "running")]
    all: bool,
    /// Only those that run
    #[arg(long)]
    running: bool,
    /// Only the one with this name or alias
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Only those with this label, KEY or KEY=VALUE
    #[arg(short, long, default_value = "", hide_default_value = true)]
    label: String,
    /// Only those that the service made
    #[arg(long)]
    managed: bool,
    /// Print whole ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(super) async fn ps(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let state =
        if args.running { pb::ContainerState::Running } else { pb::ContainerState::Unspecified };
    let quiet = args.quiet;
    let request = pb::ListContainersRequest {
        name: args.name,
        label: args.label,
        state: state.into(),
        managed_only: args.managed,
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let containers = list(&session, request).await?;
    if out.json {
        let answer = pb::ListContainersResponse { containers, ..Default::default() };
        return out.message("ListContainersResponse", &answer);
    }
    if quiet {
        return containers.iter().try_for_each(|container| out.line(&container.id));
    }
    let now = Timestamp::now().as_second();
    let rows: Vec<_> = containers.iter().map(|container| row(container, now)).collect();
    out.table(["ID", "NAMES", "IMAGE", "STATUS", "AGE", "PORTS"], &rows)
}

/// All pages of the listing.
pub(super) async fn list(
    session: &Session,
    mut request: pb::ListContainersRequest,
) -> Result<Vec<pb::Container>, Failure> {
    let mut client = session.containers();
    let mut containers = Vec::new();
    loop {
        let page = client.list_containers(request.clone()).await?.into_inner();
        containers.extend(page.containers);
        if page.next_page_token.is_empty() {
            return Ok(containers);
        }
        request.page_token = page.next_page_token;
    }
}

fn row(container: &pb::Container, now: i64) -> [String; 6] {
    let mut status = match container.exit_code {
        Some(code) if container.oom_killed => format!("{} ({code}, oom)", container.status),
        Some(code) => format!("{} ({code})", container.status),
        None => container.status.clone(),
    };
    if let Some(standing) = standing(container, now) {
        status = format!("{status}, {standing}");
    }
    let created = container.created_at.as_ref().map(|at| age(now - at.seconds));
    [
        short(&container.id).to_owned(),
        container.names.join(","),
        container.image.clone(),
        status,
        created.unwrap_or_default(),
        ports(&container.ports),
    ]
}

/// How it does, or what becomes of it.
fn standing(container: &pb::Container, now: i64) -> Option<String> {
    let restart = container.restart.as_ref();
    let health = container.health.as_ref();
    match restart.map(pb::RestartStatus::state) {
        Some(pb::RestartState::BackingOff) => {
            let next = restart.and_then(|restart| restart.next_try_at.as_ref());
            Some(format!("restart in {}", age(next.map_or(0, |next| next.seconds - now))))
        }
        Some(pb::RestartState::GaveUp) => Some("gave up".to_owned()),
        _ => match health.map(pb::HealthStatus::state)? {
            pb::HealthState::Unspecified => None,
            pb::HealthState::Starting => Some("starting".to_owned()),
            pb::HealthState::Healthy => Some("healthy".to_owned()),
            pb::HealthState::Unhealthy => Some("unhealthy".to_owned()),
        },
    }
}

/// Ports as docker writes them, as in `0.0.0.0:20000->80/tcp`.
pub(super) fn ports(ports: &[pb::PortMapping]) -> String {
    let one = |port: &pb::PortMapping| {
        let inside = format!("{}/{}", port.internal, port.protocol.as_deref().unwrap_or("tcp"));
        match (port.host, port.host_address.as_deref()) {
            (0, _) => inside,
            (host, None) => format!("{host}->{inside}"),
            (host, Some(address)) if address.contains(':') => {
                format!("[{address}]:{host}->{inside}")
            }
            (host, Some(address)) => format!("{address}:{host}->{inside}"),
        }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A span in its largest whole unit; the clocks of two machines may disagree.
pub(super) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..86_400 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_state_age_and_ports() {
        let container = pb::Container {
            id: "0123456789abcdef".into(),
            names: vec!["web".into(), "www".into()],
            image: "nginx".into(),
            status: "exited".into(),
            exit_code: Some(137),
            oom_killed: true,
            created_at: Some(prost_types::Timestamp { seconds: 100, nanos: 0 }),
            ports: vec![pb::PortMapping {
                internal: 80,
                host: 20_000,
                protocol: None,
                host_address: Some("::1".into()),
            }],
            ..Default::default()
        };
        let expected =
            ["0123456789ab", "web,www", "nginx", "exited (137, oom)", "2m", "[::1]:20000->80/tcp"];
        assert_eq!(row(&container, 220), expected);
        let restart = pb::RestartStatus {
            state: pb::RestartState::BackingOff.into(),
            next_try_at: Some(prost_types::Timestamp { seconds: 224, nanos: 0 }),
            ..Default::default()
        };
        let waits = pb::Container { restart: Some(restart), ..container };
        assert_eq!(row(&waits, 220)[3], "exited (137, oom), restart in 4s");
        let health =
            pb::HealthStatus { state: pb::HealthState::Unhealthy.into(), ..Default::default() };
        let ill =
            pb::Container { status: "running".into(), health: Some(health), ..Default::default() };
        assert_eq!(row(&ill, 220)[3], "running, unhealthy");
        assert_eq!([age(-5), age(7_200), age(200_000)], ["0s", "2h", "2d"]);
    }
}
