//! Questions to other servers: the only place with reqwest, and what calls git.
//!
//! Questions to registries go through `http`, which resolves names behind `guard`, follows
//! redirects itself and never takes an `Authorization` to another origin. Assets have a
//! client and a stricter guard of their own.

pub mod assets;
mod challenge;
mod credential_helper;
pub mod docker_config;
mod git;
mod guard;
mod http;
pub mod registry;
mod tags;
#[cfg(test)]
mod tests;
mod token;

pub use assets::{ASSET_REFUSED, AssetFetcher, AssetLimits, AssetSettings};
pub use docker_config::{Credential, DockerConfig};
pub use git::{GitFetcher, GitSettings};
pub use registry::{Registry, RegistrySettings};
