//! Keeps the view true: subscribe, list, apply; again after every gap.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use jiff::Timestamp;

use super::{App, view::Freshness};
use crate::{
    domain::{Error, Kind, Result},
    engine::Event,
};

/// First and longest wait between two tries to reach the engine.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Events that are taken together before the engine is asked.
const BATCH: usize = 1024;
/// Inspections under way at once.
const AT_ONCE: usize = 8;

/// Follows the engine until the service stops.
pub async fn follow(app: Arc<App>) {
    let mut wait = RETRY.0;
    loop {
        let was_synced = app.view.freshness().synced;
        let error = match session(&app, &mut wait).await {
            Ok(()) => Error::new(
                Kind::Unavailable,
                "ENGINE_GONE",
                format!("the Docker engine at {} closed its event stream", app.engine.address()),
            ),
            Err(error) => error,
        };
        if was_synced || app.view.freshness().synced {
            tracing::warn!(?error, "the engine is gone; trying again");
        }
        let synced_at = app.view.freshness().synced_at;
        app.images.forget_names();
        app.view.set_freshness(Freshness { synced: false, synced_at, error: Some(error) });
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// One connection: from the subscription to the end of the stream.
async fn session(app: &Arc<App>, wait: &mut Duration) -> Result<()> {
    let version = app.engine.connect().await?;
    tracing::info!(version = version.version, api = version.api, "the engine answers");
    app.node.set_version(version);
    // Subscribe first: what changes during the listing is in the stream.
    let mut events = app.engine.events().await?.ready_chunks(BATCH);
    let ticket = app.view.ticket();
    let listed = app.engine.list().await?;
    let ids: BTreeSet<String> = listed.iter().map(|container| container.id.clone()).collect();
    app.view.replace(listed, ticket);
    inspect_all(app, ids).await?;
    app.forget_lost_records().await?;
    *wait = RETRY.0;
    app.view.set_freshness(Freshness {
        synced: true,
        synced_at: Some(Timestamp::now()),
        error: None,
    });
    super::recover::recover_all(app).await;

    while let Some(batch) = events.next().await {
        let mut dirty = BTreeSet::new();
        let mut gone = false;
        for event in batch {
            match event? {
                Event::Container(id) => {
                    dirty.insert(id);
                }
                Event::Gone(id) => {
                    dirty.remove(&id);
                    app.view.remove(&id, app.view.ticket());
                    gone = true;
                }
                Event::Images => app.images.forget_names(),
            }
        }
        inspect_all(app, dirty).await?;
        if gone {
            app.forget_lost_records().await?;
        }
    }
    Ok(())
}

async fn inspect_all(app: &Arc<App>, ids: BTreeSet<String>) -> Result<()> {
    let mut answers = futures_util::stream::iter(ids)
        .map(|id| async move { app.refresh(&id).await.map(drop) })
        .buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            // One container that cannot be described must not blind us.
            Err(error) if error.kind() != Kind::Unavailable => {
                tracing::warn!(?error, "a container cannot be inspected");
            }
            other => other?,
        }
    }
    Ok(())
}
