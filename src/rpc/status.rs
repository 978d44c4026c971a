//! The one table from kinds of errors to gRPC codes. HTTP statuses follow from
//! the codes in the gateway.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::domain::{Error, Kind};

mod fit;

/// Who defines the reasons of errors.
const DOMAIN: &str = "container-svc";

fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Aborted => Code::Aborted,
        Kind::Internal => Code::Internal,
    }
}

impl From<Error> for Status {
    /// The message and the details go out, cut to what headers hold; the cause goes to
    /// the log.
    fn from(error: Error) -> Self {
        match error.kind() {
            Kind::Internal => tracing::error!(?error, "a call failed"),
            _ => tracing::debug!(?error, "a call failed"),
        }
        let fit::Fitted { message, metadata, violations } = fit::fit(&error);
        let mut details = ErrorDetails::new();
        details.set_error_info(error.reason(), DOMAIN, metadata);
        if !violations.is_empty() {
            details.set_bad_request(violations);
        }
        Status::with_error_details(code(error.kind()), message, details)
    }
}
