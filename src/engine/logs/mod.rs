//! Where the engine keeps what containers wrote: its files, or its API.

mod api;
mod files;
mod rotation;
#[cfg(test)]
mod tests;
mod wake;

pub use api::EngineLog;
pub use files::LogFiles;
pub use wake::{Wake, Wakes};

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    More,
    /// All that is there was read.
    CaughtUp,
    /// The engine has ended the log.
    Ended,
}
