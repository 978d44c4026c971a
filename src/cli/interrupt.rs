//! What Ctrl-C does to a command that prints until a person has seen enough.

use std::process;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::tasks::Tasks;

use super::Failure;

/// Ctrl-C is how a person ends this, so it is no failure. It has a task of its
/// own: while a pager takes no more, the one that prints stands still.
pub(super) fn ends_well() -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    Tasks::default().background("interrupt", async move {
        interrupt.recv().await;
        process::exit(0);
    });
    Ok(())
}
