//! Questions to other servers over HTTP: the only place with reqwest.
//!
//! Every request goes through `http`, which resolves names behind `guard`, follows
//! redirects itself and never takes an `Authorization` to another origin.

mod challenge;
pub mod docker_config;
mod guard;
mod helper;
mod http;
pub mod registry;
#[cfg(test)]
mod tests;
mod token;

pub use docker_config::{Credential, DockerConfig};
pub use registry::{Registry, RegistrySettings};
