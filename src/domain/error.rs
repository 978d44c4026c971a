//! The closed set of errors: a kind, a reason for programs, a message for people.

use std::{collections::BTreeMap, error::Error as StdError, fmt, sync::Arc};

mod kinds;

/// What sort of error it is. One table in `rpc::status` maps it to codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong in itself.
    InvalidArgument,
    /// Nothing matches.
    NotFound,
    /// Something else already has the name.
    AlreadyExists,
    /// The request is fine, the state of the node forbids it.
    FailedPrecondition,
    /// A limit is reached.
    ResourceExhausted,
    /// The caller did not say who it is.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// This version cannot do this.
    Unimplemented,
    /// Something we depend on does not answer.
    Unavailable,
    /// The time that the caller gave is over.
    DeadlineExceeded,
    /// The work was given up because its caller left.
    Cancelled,
    /// Somebody else was quicker; what is there now decides whether to ask again.
    Aborted,
    /// A defect of ours or of what we depend on.
    Internal,
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path in JSON names, as in `ports[0].internal`.
    pub field: String,
    /// Why it is wrong and what to do.
    pub description: String,
}

/// An error of the domain.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    reason: &'static str,
    message: String,
    fields: Vec<FieldViolation>,
    metadata: BTreeMap<String, String>,
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind; `reason` is UPPER_SNAKE_CASE and stable.
    pub fn new(kind: Kind, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            reason,
            message: message.into(),
            fields: Vec::new(),
            metadata: BTreeMap::new(),
            cause: None,
        }))
    }

    /// One field of the request is wrong.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = FieldViolation { field: field.into(), description: description.into() };
        Self::fields(vec![violation])
    }

    /// Several fields of the request are wrong.
    pub fn fields(fields: Vec<FieldViolation>) -> Self {
        let message =
            fields.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>();
        let mut error = Self::new(Kind::InvalidArgument, "INVALID_FIELD", message.join("; "));
        error.0.fields = fields;
        error
    }

    /// Nothing matches.
    pub fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, reason, message)
    }

    /// The state of the node forbids it.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, reason, message)
    }

    /// A defect: the message goes out, the cause only to the log.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, "INTERNAL", message)
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Adds to the message what else the caller should know.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        self.0.message.push_str("; ");
        self.0.message.push_str(more);
        self
    }

    /// Says before the message what it is about.
    #[must_use]
    pub fn about(mut self, what: &str) -> Self {
        self.0.message.insert_str(0, &format!("{what}: "));
        self
    }

    /// Names the one wrong field as the request at hand does.
    #[must_use]
    pub fn in_field(self, field: &str) -> Self {
        match self.violations() {
            [only] => Self::field(field, only.description.clone()),
            _ => self,
        }
    }

    /// Adds the cause, which is logged and never sent.
    #[must_use]
    pub fn because(mut self, cause: impl StdError + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Arc::new(cause));
        self
    }

    /// What sort of error it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The stable name of the cause.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// What was wrong, with which value, and what to do.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The wrong fields, if the request was wrong.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.fields
    }

    /// Facts for programs.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.0.kind, self.0.reason, self.0.message)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_ref().map(|cause| &**cause as &(dyn StdError + 'static))
    }
}
