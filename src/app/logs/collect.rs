//! Starts a follower for each container, and tells it what becomes of it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{App, about, follow};
use crate::{
    app::view::ChangeKind,
    domain::{
        Result,
        container::Container,
        logs::{Batch, Decoder, GapReason, parse_time},
    },
    engine::Wakes,
    store::logs::Source,
};

/// Changes that are looked at together.
const BATCH: usize = 1024;
/// After so long without a change, what did not work is tried again.
const LOOK: Duration = Duration::from_secs(5);

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
                    settled = settle_lost(&app, &followers).await;
                }
                match tokio::time::timeout(LOOK, changes.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => revive(&app, &wakes, &mut followers),
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

/// Starts followers again that ended in a panic.
fn revive(app: &Arc<App>, wakes: &Option<Wakes>, followers: &mut Followers) {
    let dead = followers.values().filter(|follower| follower.is_closed());
    let dead: Vec<_> = dead.map(|follower| follower.borrow().clone()).collect();
    for Followed { container, gone } in dead.into_iter().filter(|followed| !followed.gone) {
        take(app, wakes, followers, &container, gone);
    }
}

/// Containers that were removed while nobody looked: what they wrote last is lost.
/// True when all of them are settled.
async fn settle_lost(app: &Arc<App>, followers: &Followers) -> bool {
    let there: HashSet<String> = app.view.all().iter().map(|row| row.id.clone()).collect();
    let mut all = true;
    for source in app.logs.store.sources() {
        let id = &source.about.container_id;
        // Whoever follows one settles it.
        if source.removed || there.contains(id) || followers.contains_key(id) {
            continue;
        }
        if let Err(error) = settle(app, &source).await {
            tracing::warn!(?error, "a removed container's log cannot be closed yet");
            all = false;
        }
    }
    all
}

/// Notes that a container is gone, with a gap where lines may be missing.
async fn settle(app: &App, source: &Source) -> Result<()> {
    if !source.complete {
        let mut batch = Batch::default();
        let mut at = source.checkpoint.clone();
        // Without a line before it, the gap begins with the container.
        let mut anew = Decoder::beginning(parse_time(source.about.created_at.as_bytes()));
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
