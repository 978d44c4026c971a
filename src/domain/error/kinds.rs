//! What each kind of error means to a caller, and what to do about it. The table in
//! `docs/errors.md` is made of this.

use super::Kind;

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Aborted,
        Self::FailedPrecondition,
        Self::ResourceExhausted,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::Unimplemented,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Internal,
    ];

    /// What it says.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::InvalidArgument => "The request is wrong in itself, whatever the node is like.",
            Self::NotFound => "Nothing matches: no such container, image, log, asset or token.",
            Self::AlreadyExists => "The name belongs to something that is not this service's.",
            Self::Aborted => "Somebody was quicker: a newer request for the name came first.",
            Self::FailedPrecondition => "The request is fine, the state of the node forbids it.",
            Self::ResourceExhausted => "A limit is reached: ports, GPUs, disk, readers, builds.",
            Self::Unauthenticated => "There is no token, or none that is known and valid.",
            Self::PermissionDenied => "The token lacks the permission that the call needs.",
            Self::Unimplemented => "This version has no such call.",
            Self::Unavailable => "The engine or a registry does not answer at the moment.",
            Self::DeadlineExceeded => "The time that the caller gave is over.",
            Self::Cancelled => "The work was given up: its caller left, or the service stops.",
            Self::Internal => "A defect of the service. Its cause is in the log only.",
        }
    }

    /// What to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Mend the fields that the details name. Do not repeat it.",
            Self::NotFound => "Check the name; list what there is.",
            Self::AlreadyExists => "Take another name, or remove what has it.",
            Self::Aborted => "Look what is there now; ask again when that is not right.",
            Self::FailedPrecondition => "Do what the message says, then ask again.",
            Self::ResourceExhausted => "Free some, raise the limit, or wait and ask again.",
            Self::Unauthenticated => "Send `Authorization: Bearer <token>` with a valid one.",
            Self::PermissionDenied => "Get a token with the `permission` in the metadata.",
            Self::Unimplemented => "Upgrade the service, or ask as the reference says.",
            Self::Unavailable => "Repeat what is idempotent, ever more slowly; clients do.",
            Self::DeadlineExceeded => "Give more time. A run that has begun goes on: ask for it.",
            Self::Cancelled => "Ask again when the service is back.",
            Self::Internal => "Report it, with the time and the log around it.",
        }
    }
}
