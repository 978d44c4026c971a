//! Where the lines of containers are read from.

mod api;
mod body;

pub use api::EngineLog;

/// What a read of a log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More may be ready.
    More,
    /// Nothing more is ready at the moment.
    CaughtUp,
    /// Nothing follows: the container does not run, and all was read.
    Ended,
}
