//! What can go wrong in a subcommand, how it is told, and the exit code.

use std::{error::Error, fmt, io};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    config::ConfigError,
    domain::{self, Kind},
};

use super::output::warn;

/// Why a subcommand failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's configuration is wrong.
    Config(ConfigError),
    /// The server ended with an error.
    Server(domain::Error),
    /// The service refused.
    Refused(Box<Status>),
    /// The service could not be reached.
    Unreachable(String),
    /// What was asked for makes no sense.
    Usage(String),
    /// Reading or writing failed.
    Io(io::Error),
    /// Something that should not happen.
    Other(String),
    /// Some of several targets failed; each was told already.
    Told(u8),
}

impl Failure {
    /// Tells it on stderr; the result is the exit code.
    pub(super) fn report(&self) -> u8 {
        // Whoever closed the pipe, as `head` does, has seen enough.
        let closed = matches!(self, Self::Io(why) if why.kind() == io::ErrorKind::BrokenPipe);
        if closed {
            return 0;
        }
        if !matches!(self, Self::Told(_)) {
            warn(format_args!("error: {self}"));
        }
        self.code()
    }

    /// The exit code, as `--help` lists them.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 64,
            Self::Server(error) => kind_code(error.kind()),
            Self::Refused(status) if broken(status) => 5,
            Self::Refused(status) => status_code(status.code()),
            Self::Unreachable(_) => 5,
            Self::Usage(_) => 2,
            Self::Io(_) | Self::Other(_) => 1,
            Self::Told(code) => *code,
        }
    }

    /// True when there was no answer, so that there may be one later.
    pub(super) fn is_absence(&self) -> bool {
        self.code() == 5
    }

    /// True when nothing matched the target.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::Server(error) => {
                write!(f, "{error}")?;
                let told =
                    |cause: &&(dyn Error + 'static)| error.message().contains(&cause.to_string());
                causes(f, error.source().filter(|cause| !told(cause)))
            }
            Self::Refused(status) => refused(f, status),
            Self::Unreachable(text) | Self::Usage(text) | Self::Other(text) => f.write_str(text),
            Self::Io(error) => write!(f, "{error}"),
            Self::Told(_) => f.write_str("some of them failed"),
        }
    }
}

/// The message, and under it each wrong field that the message does not tell already.
fn refused(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    if broken(status) {
        write!(f, "the connection to the service broke: {}", status.message())?;
        return causes(f, status.source());
    }
    match status.message() {
        "" => write!(f, "{}", status.code().description())?,
        message => f.write_str(message)?,
    }
    if let Some(wrong) = status.get_details_bad_request() {
        for field in wrong.field_violations {
            let line = format!("{}: {}", field.field, field.description);
            if !status.message().contains(&line) {
                write!(f, "\n  {line}")?;
            }
        }
    }
    if status.code() == Code::Unauthenticated {
        f.write_str(
            "\n  give a token by --token-file, --token or CONTAINER_SVC_TOKEN; \
            the server's own is in admin.token in its data directory, and it writes a new one \
            when it starts without that file",
        )?;
    }
    Ok(())
}

fn causes(f: &mut fmt::Formatter<'_>, mut cause: Option<&(dyn Error + 'static)>) -> fmt::Result {
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}

/// True when the status was made here because the connection broke: what the
/// service says comes without a cause.
fn broken(status: &Status) -> bool {
    status.source().is_some()
}

fn status_code(code: Code) -> u8 {
    match code {
        Code::NotFound => 3,
        Code::PermissionDenied | Code::Unauthenticated => 4,
        Code::Unavailable | Code::DeadlineExceeded => 5,
        Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted => 6,
        _ => 1,
    }
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::NotFound => 3,
        Kind::PermissionDenied | Kind::Unauthenticated => 4,
        Kind::Unavailable | Kind::DeadlineExceeded => 5,
        Kind::FailedPrecondition
        | Kind::AlreadyExists
        | Kind::ResourceExhausted
        | Kind::Aborted => 6,
        Kind::InvalidArgument | Kind::Unimplemented | Kind::Cancelled | Kind::Internal => 1,
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_script_can_tell_failures_apart() {
        let codes = [
            (Code::NotFound, 3),
            (Code::Unauthenticated, 4),
            (Code::Unavailable, 5),
            (Code::AlreadyExists, 6),
            (Code::Internal, 1),
        ];
        for (code, exit) in codes {
            assert_eq!(Failure::from(Status::new(code, "")).code(), exit);
        }
        assert_eq!(Failure::Io(io::ErrorKind::BrokenPipe.into()).report(), 0);
    }

    #[test]
    fn wrong_fields_are_told_once() {
        let details = ErrorDetails::with_bad_request_violation("image", "is empty");
        let status = |message: &str| {
            let status =
                Status::with_error_details(Code::InvalidArgument, message, details.clone());
            Failure::from(status).to_string()
        };
        assert_eq!(status("wrong request"), "wrong request\n  image: is empty");
        assert_eq!(status("image: is empty"), "image: is empty");
    }
}
