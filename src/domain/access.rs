//! Permissions, the grant sets that bundle them, and who a caller is.

use super::{Error, Kind};

/// Every permission that an RPC may ask for.
pub const PERMISSIONS: &[&str] = &[
    "container-svc:container:run",
    "container-svc:container:stop",
    "container-svc:container:remove",
    "container-svc:container:view",
    "container-svc:image:pull",
    "container-svc:image:build",
    BUILD_PRIVILEGED,
    "container-svc:image:view",
    "container-svc:image:remove",
    "container-svc:image:push",
    "container-svc:log:view",
    "container-svc:event:view",
    "container-svc:keep:view",
    "container-svc:keep:remove",
    "container-svc:asset:view",
    "container-svc:asset:remove",
    "container-svc:keep:export",
    "container-svc:keep:import",
    "container-svc:token:manage",
];

/// What a build needs beside `container-svc:image:build` where it asks for more than a
/// plain step may do: a frontend of its own, or an entitlement.
pub const BUILD_PRIVILEGED: &str = "container-svc:image:build-privileged";

/// The older name of `container-svc:container:run`; either opens it.
pub const RUN_ALIAS: &str = "container-svc:container:create";

/// A named bundle of permissions, as 1Backend grants them by default.
pub fn grant_set(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "admin" => Some(PERMISSIONS),
        "model-svc" => Some(&[
            "container-svc:container:run",
            "container-svc:container:stop",
            "container-svc:container:view",
            "container-svc:log:view",
        ]),
        "deploy-svc" => Some(&[
            "container-svc:container:run",
            "container-svc:container:stop",
            "container-svc:container:view",
            "container-svc:log:view",
            "container-svc:image:build",
        ]),
        "viewer" => Some(&[
            "container-svc:image:view",
            "container-svc:container:view",
            "container-svc:log:view",
            "container-svc:event:view",
        ]),
        _ => None,
    }
}

/// Names of the grant sets, for messages.
pub const GRANT_SETS: &[&str] = &["admin", "model-svc", "deploy-svc", "viewer"];

/// True for a permission that a token may carry.
pub fn is_permission(name: &str) -> bool {
    PERMISSIONS.contains(&name) || name == RUN_ALIAS
}

/// What an RPC asks for: a permission, or one of its older names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Required {
    /// The permission.
    pub permission: String,
    /// Older names of it.
    pub aliases: Vec<String>,
}

impl Required {
    /// True when one of the granted permissions opens the RPC.
    pub fn granted_by(&self, granted: &[String]) -> bool {
        granted.iter().any(|have| *have == self.permission || self.aliases.contains(have))
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the token, for logs.
    pub name: String,
    /// What it may do.
    pub permissions: Vec<String>,
}

impl Caller {
    /// True when it has this very permission.
    pub fn may(&self, permission: &str) -> bool {
        self.permissions.iter().any(|have| have == permission)
    }

    /// The refusal of what it may not do: what asks for the permission, where that is
    /// not the call itself, and what to do beside asking for another token.
    pub fn lacks(&self, permission: &str, asks: Option<(&str, &str)>) -> Error {
        let (why, instead) = asks.map_or_else(Default::default, |(what, instead)| {
            (format!(", which {what} needs"), format!(", or {instead}"))
        });
        let told = format!(
            "{:?} lacks the permission {permission}{why}; ask for a token that has it{instead}",
            self.name
        );
        Error::new(Kind::PermissionDenied, "PERMISSION_MISSING", told)
            .with("permission", permission)
    }
}
