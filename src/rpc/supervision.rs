//! Health and restarts: from the contract's messages to the domain's values, and back.

use jiff::Timestamp;

use super::{
    convert::{duration, timestamp},
    pb,
};
use crate::{
    app::{App, health::Condition},
    domain::{
        container::Container,
        health::{ProbeResult, Status},
        restart::{Phase, Policy},
        spec::{RawHealthCheck, RawProbe, RawRestart},
    },
};

impl From<pb::HealthCheck> for RawHealthCheck {
    fn from(check: pb::HealthCheck) -> Self {
        let probe = check.probe.map(|probe| match probe {
            pb::health_check::Probe::Exec(exec) => RawProbe::Exec(exec.command),
            pb::health_check::Probe::Http(http) => RawProbe::Http(http.port.into(), http.path),
            pb::health_check::Probe::Tcp(tcp) => RawProbe::Tcp(tcp.port.into()),
            pb::health_check::Probe::Grpc(grpc) => RawProbe::Grpc(grpc.port.into(), grpc.service),
        });
        Self {
            probe,
            disabled: check.disabled,
            interval: duration(check.interval),
            timeout: duration(check.timeout),
            retries: check.retries.map(Into::into),
            start_period: duration(check.start_period),
        }
    }
}

impl From<pb::RestartOptions> for RawRestart {
    fn from(options: pb::RestartOptions) -> Self {
        Self {
            max_restarts: options.max_restarts.map(Into::into),
            window: duration(options.window),
            min_backoff: duration(options.min_backoff),
            max_backoff: duration(options.max_backoff),
            stable_after: duration(options.stable_after),
            on_unhealthy: options.on_unhealthy,
        }
    }
}

pub(super) fn policy(policy: pb::RestartPolicy) -> Option<Policy> {
    match policy {
        pb::RestartPolicy::Unspecified => None,
        pb::RestartPolicy::Never => Some(Policy::Never),
        pb::RestartPolicy::OnFailure => Some(Policy::OnFailure),
        pb::RestartPolicy::Always => Some(Policy::Always),
    }
}

impl From<Condition> for pb::HealthStatus {
    fn from(condition: Condition) -> Self {
        let state = match condition.status {
            Status::Starting => pb::HealthState::Starting,
            Status::Healthy => pb::HealthState::Healthy,
            Status::Unhealthy => pb::HealthState::Unhealthy,
        };
        Self {
            state: state.into(),
            failing_streak: condition.streak.try_into().unwrap_or(i32::MAX),
            since: condition.since.map(timestamp),
        }
    }
}

impl From<ProbeResult> for pb::ProbeResult {
    fn from(result: ProbeResult) -> Self {
        Self {
            at: Some(timestamp(result.at)),
            took: result.took.try_into().ok(),
            success: result.success,
            output: result.output,
        }
    }
}

/// What the service does about a container of ours that may end.
pub(super) fn restart(container: &Container, app: &App) -> pb::RestartStatus {
    let rules = app.restart_rules(container);
    let policy = match rules.policy {
        Policy::Never => pb::RestartPolicy::Never,
        Policy::OnFailure => pb::RestartPolicy::OnFailure,
        Policy::Always => pb::RestartPolicy::Always,
    };
    let mut status = pb::RestartStatus {
        state: pb::RestartState::Watching.into(),
        policy: policy.into(),
        ..Default::default()
    };
    // Most containers never ended.
    let Some(state) = app.restarts.get(container.key()) else { return status };
    let ran = container.started_at.filter(|_| container.is_running());
    let ran = ran.and_then(|at| Timestamp::now().duration_since(at).try_into().ok());
    status.attempts = state.attempts_after(&rules, ran).try_into().unwrap_or(i32::MAX);
    match state.phase {
        Phase::Watching => {}
        Phase::BackingOff { next_try_at, reason, .. } => {
            status.state = pb::RestartState::BackingOff.into();
            status.next_try_at = Some(timestamp(next_try_at));
            status.reason = reason;
        }
        Phase::GaveUp { reason, log } => {
            status.state = pb::RestartState::GaveUp.into();
            status.reason = reason;
            status.last_log_lines = log;
        }
    }
    status
}
