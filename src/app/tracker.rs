//! Keeps the view true: subscribe, list, apply; again after every gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;

use super::{App, events::deaths::Deaths};
use crate::{
    domain::{Error, Kind, Result},
    engine::{ENGINE_UNREACHABLE, Event},
};

/// First and longest wait between two tries to reach the engine.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Events that are taken together before the engine is asked.
const BATCH: usize = 1024;
/// Inspections under way at once.
const AT_ONCE: usize = 8;
/// How long one inspection may take before the others go on without it.
const PATIENCE: Duration = Duration::from_secs(2);
/// After how long a slow one is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the engine until the service stops.
pub async fn follow(app: Arc<App>) {
    let mut wait = RETRY.0;
    // Told once, and once more whenever it had been there in between.
    let mut told = false;
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
        if !told || was_synced || app.view.freshness().synced {
            told = true;
            tracing::warn!(%error, "the engine does not answer; trying again");
        }
        app.images.forget_names();
        app.view.set_lost(error);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// One connection: from the subscription to the end of the stream.
async fn session(app: &Arc<App>, wait: &mut Duration) -> Result<()> {
    let version = app.engine.connect().await?;
    tracing::info!(version = version.version, api = version.api, "the engine answers");
    app.node.set_version(version);
    app.locate().await;
    // Subscribe first: what changes during the listing is in the stream.
    let mut events = app.engine.events().await?.ready_chunks(BATCH);
    let ticket = app.view.ticket();
    let listed = app.engine.list().await?;
    let ids: BTreeSet<String> = listed.iter().map(|container| container.id.clone()).collect();
    app.view.replace(listed, ticket);
    let mut deaths = Deaths::begin(app, &ids).await?;
    let inspected = inspect_all(app, ids, &mut deaths).await;
    deaths.write(app).await;
    let mut slow = inspected?;
    let mut lost = !forget_lost_records(app).await;
    *wait = RETRY.0;
    app.view.set_synced();
    super::recover::recover_all(app).await;
    let mended = app.clone();
    app.tasks.background("keeps", async move { mended.mend_keeps().await });

    // Starts that no inspection has seen yet: some containers are gone before it.
    let mut started = BTreeMap::new();
    loop {
        let batch = match tokio::time::timeout(AGAIN, events.next()).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(()),
            Err(_) => Vec::new(),
        };
        slow.retain(|id| !app.knows_helper(id));
        let mut dirty = std::mem::take(&mut slow);
        let (mut gone, mut broken) = (false, None);
        for event in batch {
            let event = match event {
                Ok(event) => event,
                // What came before it is taken in all the same.
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            };
            match event {
                Event::Container(id) if app.knows_helper(&id) => {}
                Event::Container(id) => {
                    dirty.insert(id);
                }
                Event::Died(death) => {
                    dirty.insert(death.container.id.clone());
                    deaths.died(*death);
                }
                Event::OutOfMemory(id) => {
                    deaths.out_of_memory(&id);
                    dirty.insert(id);
                }
                Event::Started(container) => {
                    deaths.started(&container.id, container.started_at);
                    dirty.insert(container.id.clone());
                    started.insert(container.id.clone(), *container);
                }
                Event::AskedToEnd(id, at) => {
                    app.restarts.signals.sent(&id, at);
                    dirty.insert(id);
                }
                Event::Stopped(id, at) => {
                    app.restarts.was_stopped(&id, at);
                    dirty.insert(id);
                }
                Event::Gone(id) => {
                    dirty.remove(&id);
                    deaths.gone(&id);
                    app.view.remove_started(&id, started.remove(&id));
                    gone = true;
                }
                Event::Images => app.images.forget_names(),
            }
        }
        let inspected = match broken {
            None => inspect_all(app, dirty, &mut deaths).await,
            Some(error) => Err(error),
        };
        // Whatever became of the engine: no listing tells the codes of these ends.
        deaths.write(app).await;
        slow = inspected?;
        started.retain(|id, _| slow.contains(id) || !app.view.has(id));
        if gone || lost {
            lost = !forget_lost_records(app).await;
        }
    }
}

/// False when it must be tried again: a store without room leaves the view as true as it is.
async fn forget_lost_records(app: &Arc<App>) -> bool {
    let forgotten = app.forget_lost_records().await;
    forgotten.inspect_err(|error| tracing::warn!(?error, "records of what is gone stay")).is_ok()
}

/// Asks about containers and answers with those that the engine was too slow
/// for: one that hangs must not blind us to the others.
async fn inspect_all(
    app: &Arc<App>,
    ids: BTreeSet<String>,
    deaths: &mut Deaths,
) -> Result<BTreeSet<String>> {
    let mut slow = BTreeSet::new();
    let mut answers = futures_util::stream::iter(ids)
        .map(|id| async move {
            let answer = tokio::time::timeout(PATIENCE, app.refresh(&id)).await;
            (id, answer)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(Err(error)) if error.reason() == ENGINE_UNREACHABLE => return Err(error),
            Ok(Err(error)) => {
                tracing::warn!(?error, id, "a container cannot be inspected; trying again");
                slow.insert(id);
            }
            Ok(Ok(found)) => {
                if let Some(container) = found {
                    deaths.inspected(&container);
                }
            }
            Err(_) => {
                tracing::warn!(id, "the engine is slow to tell of a container; trying again");
                slow.insert(id);
            }
        }
    }
    Ok(slow)
}
