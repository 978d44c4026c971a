//! Starts a follower for each container, and tells it what becomes of it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::watch;

use super::{App, about, follow};
use crate::{
    app::view::ChangeKind,
    domain::{
        Result,
        container::Container,
        logs::{Batch, Decoder, GapReason},
    },
    engine::Wakes,
    store::logs::Source,
};

/// Changes that are looked at together.
const BATCH: usize = 1024;

/// What a follower must know of its container.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) container: Arc<Container>,
    pub(super) gone: bool,
}

type Followers = HashMap<String, watch::Sender<Followed>>;

/// Collects the logs of all containers until the service stops.
pub async fn collect(app: Arc<App>) {
    let wakes = match Wakes::new() {
        Ok((wakes, work)) => {
            app.tasks.background("log wakes", work);
            Some(wakes)
        }
        Err(error) => {
            tracing::warn!(%error, "inotify does not work; logs are polled");
            None
        }
    };
    let mut changes = app.view.subscribe();
    let mut followers = Followers::new();
    let mut seq = None;
    let mut settled = false;
    loop {
        changes.borrow_and_update();
        // A container that comes and goes in between is in the changes, and not in
        // what is there now.
        let news = seq.and_then(|seq| app.view.changes_after(seq, BATCH));
        match news {
            Some(news) if news.is_empty() => {
                if !settled && app.view.freshness().synced {
                    settle_lost(&app).await;
                    settled = true;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
            Some(news) => {
                for change in news {
                    seq = Some(change.seq);
                    let gone = change.kind == ChangeKind::Removed;
                    take(&app, &wakes, &mut followers, &change.container, gone);
                }
            }
            None => {
                let (now, containers) = app.view.snapshot();
                seq = Some(now);
                let there: HashSet<_> = containers.iter().map(|c| c.id.clone()).collect();
                for container in containers {
                    take(&app, &wakes, &mut followers, &container, false);
                }
                let lost = followers.iter().filter(|(id, _)| !there.contains(*id));
                for (_, follower) in lost {
                    follower.send_modify(|followed| followed.gone = true);
                }
            }
        }
        followers.retain(|_, follower| !(follower.is_closed() && follower.borrow().gone));
    }
}

fn take(
    app: &Arc<App>,
    wakes: &Option<Wakes>,
    followers: &mut Followers,
    container: &Arc<Container>,
    gone: bool,
) {
    let followed = Followed { container: container.clone(), gone };
    match followers.get(&container.id).filter(|follower| !follower.is_closed()) {
        Some(follower) => {
            follower.send_replace(followed);
        }
        None => {
            let (follower, followed) = watch::channel(followed);
            followers.insert(container.id.clone(), follower);
            let work = follow::follow(app.clone(), followed, wakes.clone());
            app.tasks.background("log follower", work);
        }
    }
}

/// Containers that were removed while nobody looked: what they wrote last is lost.
async fn settle_lost(app: &Arc<App>) {
    let there: HashSet<String> = app.view.all().iter().map(|row| row.id.clone()).collect();
    for source in app.logs.store.sources() {
        if source.removed || there.contains(&source.about.container_id) {
            continue;
        }
        if let Err(error) = settle(app, &source).await {
            tracing::warn!(?error, "a removed container's log cannot be closed yet");
        }
    }
}

/// Notes that a container is gone, with a gap where lines may be missing.
async fn settle(app: &App, source: &Source) -> Result<()> {
    if !source.complete {
        let mut batch = Batch::default();
        let mut at = source.checkpoint.clone();
        let mut anew = Decoder::default();
        let decoder = at.as_mut().map_or(&mut anew, |at| &mut at.decoder);
        decoder.missing(GapReason::Removed, &mut batch);
        decoder.finish(&mut batch);
        app.logs.store.append(source.id, batch, at).await?;
    }
    app.logs.store.settle(source.id, true, true).await
}

/// A container that was there too shortly for anything, or the last, to be read.
pub(super) async fn declare_lost(app: &App, container: &Container) -> Result<()> {
    let source = app.logs.store.know(about(container)).await?;
    settle(app, &Source { complete: false, ..(*source).clone() }).await
}
