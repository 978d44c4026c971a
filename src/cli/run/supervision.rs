//! Flags of `run` about health and restarts.

use crate::rpc::pb::{self, health_check::Probe};

use super::parse;

/// How it is asked whether it is well, and whether it comes back.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Healthy when a GET of this port and path answers 200 to 399, as 8080/health
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parse::http_probe, group = "probe")]
    health_http: Option<pb::HttpProbe>,
    /// Healthy when this command, run by sh -c in the container, ends with 0
    #[arg(long, value_name = "COMMAND", group = "probe")]
    health_cmd: Option<String>,
    /// Healthy when this port takes a connection
    #[arg(long, value_name = "PORT", value_parser = parse::container_port, group = "probe")]
    health_tcp: Option<i32>,
    /// Healthy when grpc.health.v1 at this port says SERVING, as 50051 or 50051/my.Service
    #[arg(long, value_name = "PORT[/SERVICE]", value_parser = parse::grpc_probe, group = "probe")]
    health_grpc: Option<pb::GrpcProbe>,
    /// Check nothing, also where the image says how
    #[arg(long, group = "probe")]
    no_healthcheck: bool,
    /// From one probe to the next [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse::duration, requires = "probe")]
    health_interval: Option<prost_types::Duration>,
    /// How long a probe may take [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = parse::duration, requires = "probe")]
    health_timeout: Option<prost_types::Duration>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "COUNT", value_parser = parse::count, requires = "probe")]
    health_retries: Option<i32>,
    /// How long after its start failures do not count [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = parse::duration, requires = "probe")]
    health_start_period: Option<prost_types::Duration>,
    /// Which ends are followed by a start [default: the service's setting]
    #[arg(long, value_name = "POLICY")]
    restart: Option<Restart>,
    /// Restarts within the window after which the service gives up [default: 10]
    #[arg(long, value_name = "COUNT", value_parser = parse::count)]
    restart_max: Option<i32>,
    /// The window [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    restart_window: Option<prost_types::Duration>,
    /// First wait before a restart [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    restart_min_backoff: Option<prost_types::Duration>,
    /// Longest wait before a restart [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    restart_max_backoff: Option<prost_types::Duration>,
    /// A run of this length makes the next wait the first again [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    restart_stable_after: Option<prost_types::Duration>,
    /// Whether bad health is a failure [default: true with a probe given here]
    #[arg(long, value_name = "BOOL")]
    restart_on_unhealthy: Option<bool>,
}

/// Which ends are followed by a start.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Restart {
    /// None
    Never,
    /// Failures
    OnFailure,
    /// All
    Always,
}

/// The fields of the request.
pub(super) struct Request {
    pub(super) health_check: Option<pb::HealthCheck>,
    pub(super) restart_policy: pb::RestartPolicy,
    pub(super) restart: Option<pb::RestartOptions>,
}

impl Flags {
    pub(super) fn request(self) -> Request {
        let restart_policy = match self.restart {
            None => pb::RestartPolicy::Unspecified,
            Some(Restart::Never) => pb::RestartPolicy::Never,
            Some(Restart::OnFailure) => pb::RestartPolicy::OnFailure,
            Some(Restart::Always) => pb::RestartPolicy::Always,
        };
        let options = pb::RestartOptions {
            max_restarts: self.restart_max,
            window: self.restart_window,
            min_backoff: self.restart_min_backoff,
            max_backoff: self.restart_max_backoff,
            stable_after: self.restart_stable_after,
            on_unhealthy: self.restart_on_unhealthy,
        };
        let shell = |line: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), line];
        let probe = (self.health_http.map(Probe::Http))
            .or(self.health_tcp.map(|port| Probe::Tcp(pb::TcpProbe { port })))
            .or(self.health_grpc.map(Probe::Grpc))
            .or(self.health_cmd.map(|line| Probe::Exec(pb::ExecProbe { command: shell(line) })));
        let asked = probe.is_some() || self.no_healthcheck;
        let health_check = asked.then_some(pb::HealthCheck {
            probe,
            disabled: self.no_healthcheck,
            interval: self.health_interval,
            timeout: self.health_timeout,
            retries: self.health_retries,
            start_period: self.health_start_period,
        });
        let restart = (options != pb::RestartOptions::default()).then_some(options);
        Request { health_check, restart_policy, restart }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Flags,
    }

    fn request(line: &str) -> Request {
        let line = format!("run {line}");
        Line::try_parse_from(line.split_whitespace()).expect("it is right").args.request()
    }

    #[test]
    fn flags_of_health_and_restarts_become_the_request() {
        let got = request(
            "--health-http 8080/ready?x=1 --health-interval 2s --health-retries 5 \
             --restart always --restart-max 3 --restart-on-unhealthy false",
        );
        let check = got.health_check.expect("a check");
        let http = pb::HttpProbe { port: 8080, path: "/ready?x=1".into() };
        assert_eq!(check.probe, Some(Probe::Http(http)));
        assert_eq!((check.interval.map(|time| time.seconds), check.retries), (Some(2), Some(5)));
        assert_eq!(got.restart_policy, pb::RestartPolicy::Always);
        let restart = got.restart.expect("options");
        assert_eq!((restart.max_restarts, restart.on_unhealthy), (Some(3), Some(false)));

        let grpc = request("--health-grpc 50051/my.Service").health_check.expect("a check");
        let service = pb::GrpcProbe { port: 50_051, service: "my.Service".into() };
        assert_eq!(grpc.probe, Some(Probe::Grpc(service)));
        assert!(request("--no-healthcheck").health_check.expect("a check").disabled);
    }

    #[test]
    fn without_flags_nothing_is_said_and_two_probes_or_none_with_times_are_refused() {
        let got = request("");
        assert_eq!((got.health_check, got.restart), (None, None));
        assert_eq!(got.restart_policy, pb::RestartPolicy::Unspecified);
        for line in [
            "--health-tcp 1 --health-http 1",
            "--health-interval 1s",
            "--health-tcp 0",
            "--health-http x",
            "--no-healthcheck --health-tcp 1",
            "--restart sometimes",
        ] {
            let line = format!("run {line}");
            assert!(Line::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
