//! The supervisor: containers that ended come back as their policy says.
//!
//! ```text
//! view ──► supervise: what ended, what is ill, what is due
//!             │
//!          attend: under the locks of its names, with what the engine says now
//!             │
//!   domain/restart decides ──► the store ──► the engine stops or starts
//! ```
//!
//! What was decided is written before it is done, so a service that is killed in
//! between goes on where it was. Where the store cannot write, as on a full disk, starts
//! go on by what is remembered, which is written later; nothing is stopped.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::App;
use crate::domain::{
    container::{Container, State},
    restart::{Policy, Rules},
};

mod attend;
mod memory;
mod places;
mod rounds;
mod signals;
mod start;

pub use memory::Restarts;

use rounds::Rounds;

impl App {
    /// What holds for a container of ours when it ends.
    pub fn restart_rules(&self, container: &Container) -> Rules {
        let choice = container.restart_choice();
        let usual = if container.is_named() { self.settings.restart_policy } else { Policy::Never };
        let on_unhealthy = choice.options.on_unhealthy;
        Rules {
            policy: choice.policy.unwrap_or(usual),
            options: choice.options,
            on_unhealthy: on_unhealthy.unwrap_or_else(|| container.health_check().is_some()),
        }
    }
}

/// Restarts containers until the service stops.
pub async fn supervise(app: Arc<App>) {
    let mut latest = app.view.subscribe();
    let mut rounds = Rounds::default();
    // Each container is in it once at most. What it loads the engine with is bounded by
    // places; what waits holds up nobody.
    let mut work = FuturesUnordered::new();
    loop {
        latest.borrow_and_update();
        let synced = app.view.freshness().synced;
        if synced {
            rounds.look(&app).await;
            while let Some(id) = rounds.next() {
                let app = app.clone();
                work.push(async move {
                    let (tasks, own) = (app.tasks.clone(), id.clone());
                    // A stop of the service must not leave the work half done.
                    let done = tasks.to_the_end(async move { app.attend(&own).await }).await;
                    (id, done)
                });
            }
        }
        // What is due waits for the engine.
        let due = rounds.next_due().filter(|_| synced);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = app.restarts.news.notified() => {}
            Some((id, done)) = work.next() => rounds.done(id, done),
            () = wait => {}
        }
    }
}

/// True for one that ended, and is not on its way elsewhere.
fn has_ended(container: &Container) -> bool {
    matches!(container.state, State::Exited | State::Dead)
}
