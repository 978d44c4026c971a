//! container-svc: a small, typed, safe API in front of one node's Docker engine.
//!
//! The map, from the outside in; imports run one way, downwards:
//!
//! - [`config`]: flags, environment and file become one validated configuration.
//! - [`server`]: opens the adapters, builds the application, binds and drains.
//! - [`cli`]: the client subcommands.
//! - [`gateway`]: the JSON bridge; [`rpc`]: the gRPC services.
//! - [`app`]: the use cases, free of transport.
//! - [`engine`], [`store`], [`gpu`], [`fetch`], [`probe`]: the adapters to Docker, SQLite,
//!   NVML, HTTP, and to what containers say of themselves.
//! - [`domain`]: the rules, free of everything.

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod fetch;
pub mod gateway;
pub mod gpu;
pub mod probe;
pub mod rpc;
pub mod server;
pub mod store;
