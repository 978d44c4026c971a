//! The generated types and the descriptors that they came from, as clients have them.

pub use container_svc_client::pb::*;
