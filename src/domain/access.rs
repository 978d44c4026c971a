//! Permissions, the grant sets that bundle them, and who a caller is.

/// Every permission that an RPC may ask for.
pub const PERMISSIONS: &[&str] = &[
    "container-svc:container:run",
    "container-svc:container:stop",
    "container-svc:container:remove",
    "container-svc:container:view",
    "container-svc:image:pull",
    "container-svc:image:build",
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
