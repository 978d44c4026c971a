//! What tonic cannot read of a request is its caller's mistake, and is told so.

use axum::body::Body;
use http::Response;
use tonic::{Code, Status};

use crate::domain::{Error, Kind};

/// Gives the status of a request that could not be read its right code.
///
/// tonic answers a broken message, frame, compression or base64 with INTERNAL,
/// and a broken body with UNKNOWN. A status in the head of an answer comes from
/// an error of ours, which always has details, or from tonic's reading of the
/// request. So one without details is about the request.
pub async fn tell(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if is_unread(&status) => Status::from(unreadable(&status)).into_http(),
        _ => response,
    }
}

/// The error of an upload that ended in the middle, by what tonic says of it.
///
/// An unreadable message in it, or one that is too long, is the caller's mistake;
/// what remains is a caller who went away.
pub(super) fn of_upload(status: Status) -> Error {
    match status.code() {
        Code::Internal | Code::Unknown | Code::OutOfRange => unreadable(&status),
        _ => {
            let broke = "the archive did not come to its end";
            Error::new(Kind::Cancelled, "UPLOAD_BROKE", broke).because(status)
        }
    }
}

fn is_unread(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::Unknown) && status.details().is_empty()
}

fn unreadable(status: &Status) -> Error {
    let why = format!("the request cannot be read: {}; send a valid one", status.message());
    Error::new(Kind::InvalidArgument, "UNREADABLE_REQUEST", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(status: Status) -> Status {
        let told = tell(status.into_http()).await;
        Status::from_header_map(told.headers()).expect("a status")
    }

    #[tokio::test]
    async fn what_tonic_cannot_read_is_the_callers_mistake() {
        for status in [Status::internal("no message"), Status::unknown("no body")] {
            let told = told(status.clone()).await;
            assert_eq!(told.code(), Code::InvalidArgument);
            assert!(told.message().contains(status.message()), "{told:?}");
        }
    }

    #[tokio::test]
    async fn our_own_failures_stay_what_they_are() {
        let told = told(Error::internal("a bug").into()).await;
        assert_eq!(told.code(), Code::Internal);
    }

    #[tokio::test]
    async fn codes_that_say_it_well_stay() {
        for status in [Status::unimplemented("zstd"), Status::out_of_range("too long")] {
            assert_eq!(told(status.clone()).await.code(), status.code());
        }
    }
}
