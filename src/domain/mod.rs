//! Pure rules: no I/O, no clock, nothing else of the crate.

pub mod access;
pub mod address;
pub mod archive;
pub mod asset;
pub mod build;
pub mod container;
pub mod cursor;
pub mod dockerfile;
pub mod error;
pub mod event;
pub mod gpu;
pub mod health;
pub mod ignore;
pub mod image;
pub mod keep;
pub mod logs;
pub mod metrics;
pub mod page;
pub mod place;
pub mod ports;
pub mod restart;
pub mod source;
pub mod spec;

pub use error::{Error, Kind, Result};
