//! container-svc: a small, typed, safe API in front of one node's Docker engine.
//!
//! The map, from the outside in; imports run one way, downwards:
//!
//! - [`config`]: flags, environment and file become one validated configuration.
//! - [`server`]: opens the adapters, builds the application, binds and drains.
//! - [`cli`]: the client subcommands.
//! - [`gateway`]: the JSON bridge; [`rpc`]: the gRPC services.
//! - [`app`]: the use cases, free of transport.
//! - [`engine`], [`store`], [`gpu`], [`fetch`]: the adapters to Docker, SQLite, NVML and HTTP.
//! - [`domain`]: the rules, free of everything.

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod fetch;
pub mod gateway;
pub mod gpu;
pub mod rpc;
pub mod server;
pub mod store;
