//! The time that a caller gives for a call, by the header `grpc-timeout`.

use std::time::Duration;

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use tonic::Status;

use crate::domain::{Error, Kind};

/// Answers DEADLINE_EXCEEDED when a call has not begun to answer in time. gRPC clients
/// also look at the clock themselves; callers of REST count on this.
pub async fn keep(request: Request, next: Next) -> Response {
    let given = container_svc_client::timeout(request.headers());
    let Some(limit) = given else { return next.run(request).await };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => passed(limit).into_http::<Body>(),
    }
}

fn passed(limit: Duration) -> Status {
    let why = format!(
        "the {} ms that the call gave are over; give more by the header grpc-timeout",
        limit.as_millis()
    );
    Error::new(Kind::DeadlineExceeded, "DEADLINE_PASSED", why).into()
}
