//! The promises of container-svc, told against a real engine: one module a
//! capability. `cargo test --test it run::` runs one.

#![expect(unreachable_pub, reason = "a test binary has no public interface")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod access;
mod assets;
mod bad_input;
mod bridge;
mod builds;
mod cli;
mod clients;
mod errors;
mod events;
mod faults;
mod gpus;
mod health;
mod images;
mod in_container;
mod keeps;
mod logs;
mod logs_api;
mod logs_cli;
mod malformed;
mod metrics;
mod proxy;
mod registry;
mod run;
mod scripts;
mod small_disk;
mod support;
