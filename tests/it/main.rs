//! The promises of container-svc, told against a real engine: one module a
//! capability. `cargo test --test it run::` runs one.

#![expect(unreachable_pub, reason = "a test binary has no public interface")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod access;
mod bridge;
mod clients;
mod faults;
mod images;
mod logs_api;
mod proxy;
mod run;
mod support;
