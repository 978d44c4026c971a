//! grpc.health.v1: SERVING only while the engine answers and the store writes.

use std::{sync::Arc, time::Duration};

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::app::App;

/// How often the two are asked.
const EVERY: Duration = Duration::from_secs(1);

/// Until more is known nothing serves; called before anybody can ask.
pub async fn begin(reporter: &HealthReporter) {
    tell(reporter, false, false).await;
}

/// Keeps the health of all services up to date until the service stops.
pub async fn watch(app: Arc<App>, reporter: HealthReporter) {
    // A service that has just started is waited for, and not for a tick longer.
    let mut changes = app.view.subscribe();
    let follows =
        async { while !app.view.freshness().synced && changes.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(EVERY, follows).await;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let writes = app.store.probe().await;
        if let Err(error) = &writes {
            tracing::warn!(?error, "the store does not write");
        }
        let answers = app.probe_engine().await;
        let serving = app.view.freshness().synced && writes.is_ok() && answers;
        let stores = app.logs.trouble().is_none();
        tell(&reporter, serving, stores).await;
    }
}

async fn tell(reporter: &HealthReporter, serving: bool, stores: bool) {
    for service in super::SERVICES.iter().copied().chain([""]) {
        // Containers can be run also while no log line can be stored.
        let well = serving && (stores || !["", super::LOGS].contains(&service));
        let status = if well { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(service, status).await;
    }
}
