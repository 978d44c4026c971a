//! Follows the log of one container, for as long as there is one.
//!
//! Whatever goes wrong, it begins again at the last checkpoint that was committed.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    App, about,
    collect::{Followed, declare_lost},
};
use crate::{
    domain::{
        Error, Kind, Result,
        container::Container,
        logs::{Batch, Checkpoint, Origin},
    },
    engine::{LogFiles, Progress, Wake, Wakes},
    store::logs::Source,
};

/// Most bytes of text that are committed at once.
const LIMIT: usize = 1 << 20;
/// Lines that come close to each other are read together.
const GATHER: Duration = Duration::from_millis(5);
/// How often a log is looked at that nobody says has grown.
const POLL: Duration = Duration::from_secs(1);
/// The same where inotify does not work.
const POLL_ONLY: Duration = Duration::from_millis(50);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

type News = watch::Receiver<Followed>;

/// How a run of a container's log ended.
enum End {
    /// The container is gone.
    Gone,
    /// It does not run; its log is read to the end of the run that began then.
    Ended(Option<Timestamp>),
}

/// Follows until the container is gone and its log is read.
pub(super) async fn follow(app: Arc<App>, mut news: News, wakes: Option<Wakes>) {
    let id = news.borrow().container.id.clone();
    let (mut wait, mut read) = (RETRY.0, None);
    loop {
        match run(&app, &mut news, wakes.as_ref(), read).await {
            Ok(End::Gone) => break,
            Ok(End::Ended(began)) => {
                (wait, read) = (RETRY.0, began);
                // It does not run; there is nothing to do until that changes.
                if news.changed().await.is_err() {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(?error, container = id, "a log is not collected; trying again");
                let origin = app.logs.standing().get(&id).and_then(|standing| standing.origin);
                app.logs.note(&id, origin, Some(error));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
    app.logs.standing().remove(&id);
}

/// From the last checkpoint to the end of a run of the container; `read` tells
/// which run was read to its end.
async fn run(
    app: &Arc<App>,
    news: &mut News,
    wakes: Option<&Wakes>,
    read: Option<Timestamp>,
) -> Result<End> {
    let Followed { container, gone } = news.borrow_and_update().clone();
    let engine_is_here = app.engine.remote_host().is_none();
    let known = app.logs.known(&container.id);
    let origin = app.logs.origin(&container, engine_is_here);
    if gone {
        // It may have begun once more, which no inspection saw.
        let complete = known.as_ref().filter(|source| source.complete);
        let last = read.is_none() || read == container.started_at;
        if let Some(source) = complete.filter(|_| last) {
            app.logs.store.settle(source.id, true, true).await?;
            return Ok(End::Gone);
        }
        if origin != Some(Origin::Files) {
            // Its log went with it, before anything or the last of it was read.
            if container.started_at.is_some() {
                declare_lost(app, &container).await?;
            }
            return Ok(End::Gone);
        }
    }
    let Some(origin) = origin else { return Ok(End::Ended(None)) };
    let source = app.logs.store.know(about(&container)).await?;
    if source.complete && container.is_running() {
        // More may come, and may be lost from now on.
        app.logs.store.settle(source.id, false, false).await?;
    }
    app.logs.note(&container.id, Some(origin), None);
    let follower = Follower { app, news, source, gone };
    match origin {
        Origin::Files => follower.files(&container, wakes).await,
        Origin::Engine => follower.engine().await,
    }
}

struct Follower<'a> {
    app: &'a Arc<App>,
    news: &'a mut News,
    source: Arc<Source>,
    gone: bool,
}

/// What a reading thread gives back.
type Reading = (LogFiles, Batch, std::io::Result<Progress>);

impl Follower<'_> {
    /// Reads the engine's files.
    async fn files(mut self, container: &Container, wakes: Option<&Wakes>) -> Result<End> {
        let path = Path::new(&container.log_path);
        let directory = path.parent().unwrap_or(Path::new("/"));
        let wake = wakes.and_then(|wakes| wakes.watch(directory).ok());
        let mut log = LogFiles::new(path, self.source.checkpoint.clone());
        log = log.keeping(container.log_files);
        loop {
            // Looked at before the read: a container that has ended then has written
            // all, since the engine says so only after its log is closed.
            let Followed { container, gone } = self.news.borrow_and_update().clone();
            self.gone = gone;
            let over = gone || !container.is_running();
            self.rename(about(&container)).await?;
            let turn = self.app.logs.turns.acquire().await.map_err(|_| ended())?;
            let (mut batch, progress);
            (log, batch, progress) = self.read(log).await?;
            let progress = progress.map_err(|error| unreadable(path, &error))?;
            if progress == Progress::CaughtUp && over {
                // Between its end and its removal there may be no log any more.
                log.finish(gone || !self.source.complete, &mut batch);
            }
            if !batch.is_empty() {
                self.app.logs.store.append(self.source.id, batch, log.checkpoint()).await?;
            }
            drop(turn);
            if progress != Progress::CaughtUp {
                continue;
            }
            if over {
                return self.ended(&container, gone).await;
            }
            self.wait(wake.as_ref()).await;
        }
    }

    /// Reads through the engine's API.
    async fn engine(mut self) -> Result<End> {
        let Followed { container, .. } = self.news.borrow_and_update().clone();
        let from = self.source.checkpoint.clone();
        let mut log =
            self.app.engine.follow_log(&container.id, container.tty, from.as_ref()).await?;
        let mut batch = Batch::default();
        loop {
            let read = tokio::select! {
                read = log.read(LIMIT, &mut batch) => Some(read),
                _ = self.news.changed() => None,
            };
            // What was read before a failure counts too.
            self.commit(&mut batch, log.checkpoint()).await?;
            match read.transpose()? {
                Some(Progress::CaughtUp) => tokio::time::sleep(GATHER).await,
                Some(Progress::More) => {}
                Some(Progress::Ended) => break,
                None => {
                    let about = about(&self.news.borrow_and_update().container);
                    self.rename(about).await?;
                }
            }
        }
        // The engine says so a little later than it ends the log.
        let stopped = self.news.wait_for(|it| it.gone || !it.container.is_running());
        let _ = tokio::time::timeout(POLL, stopped).await;
        let Followed { container, gone } = self.news.borrow_and_update().clone();
        if gone || !container.is_running() {
            log.finish(&mut batch);
            self.commit(&mut batch, log.checkpoint()).await?;
            return self.ended(&container, gone).await;
        }
        // It runs again already.
        Err(Error::new(Kind::Unavailable, "LOG_ENDED", "the engine ended the log; it is read on"))
    }

    async fn ended(&self, container: &Container, gone: bool) -> Result<End> {
        self.app.logs.store.settle(self.source.id, true, gone).await?;
        Ok(if gone { End::Gone } else { End::Ended(container.started_at) })
    }

    async fn commit(&self, batch: &mut Batch, at: Checkpoint) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(batch);
        self.app.logs.store.append(self.source.id, batch, Some(at)).await
    }

    async fn read(&self, mut log: LogFiles) -> Result<Reading> {
        let _turn = self.app.logs.readers.acquire().await.map_err(|_| ended())?;
        let reading = tokio::task::spawn_blocking(move || {
            let mut batch = Batch::default();
            let progress = log.read(LIMIT, &mut batch);
            (log, batch, progress)
        });
        reading.await.map_err(|_| ended())
    }

    /// Until there may be something to do.
    async fn wait(&mut self, wake: Option<&Wake>) {
        let grown = async {
            match wake {
                Some(wake) => {
                    let _ = tokio::time::timeout(POLL, wake.changed()).await;
                }
                None => tokio::time::sleep(POLL_ONLY).await,
            }
        };
        tokio::select! {
            () = grown => {}
            // Its end is seen by the next turn, also when nobody tells any more.
            _ = self.news.changed() => {}
        }
        tokio::time::sleep(GATHER).await;
    }

    /// Takes over new names, as a replacement gives them.
    async fn rename(&mut self, about: crate::store::logs::About) -> Result<()> {
        if self.source.about != about {
            self.source = self.app.logs.store.know(about).await?;
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        Kind::Unavailable,
        "LOG_UNREADABLE",
        format!("the engine's log {} cannot be read: {error}", path.display()),
    )
}

fn ended() -> Error {
    Error::new(Kind::Unavailable, "STOPPING", "the service stops")
}
