//! What an error says to programs.

use std::collections::HashMap;

use tonic::Status;
use tonic_types::StatusExt as _;

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path in JSON names, as in `ports[0].internal`.
    pub field: String,
    /// Why it is wrong and what to do.
    pub description: String,
}

/// Reads the details of an error.
pub trait Explain {
    /// Names the cause for programs, as `NAME_TAKEN`; `None` when the error does not
    /// come from container-svc.
    fn reason(&self) -> Option<String>;
    /// Facts for programs, as the permission that is missing.
    fn facts(&self) -> HashMap<String, String>;
    /// The wrong fields of the request.
    fn violations(&self) -> Vec<Violation>;
}

impl Explain for Status {
    fn reason(&self) -> Option<String> {
        self.get_details_error_info().map(|info| info.reason)
    }

    fn facts(&self) -> HashMap<String, String> {
        self.get_details_error_info().map(|info| info.metadata).unwrap_or_default()
    }

    fn violations(&self) -> Vec<Violation> {
        let wrong = self.get_details_bad_request().map(|wrong| wrong.field_violations);
        let one = |v: tonic_types::FieldViolation| Violation {
            field: v.field,
            description: v.description,
        };
        wrong.unwrap_or_default().into_iter().map(one).collect()
    }
}
