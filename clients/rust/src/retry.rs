//! Repeats calls that the proto calls idempotent, when nobody answered them. Of the
//! others, nobody knows whether they were done. All end at the time that they are given.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt as _};

use crate::deadline::{timeout, until};

/// Paths of the calls that may be repeated.
const IDEMPOTENT: &[&str] = include!(concat!(env!("OUT_DIR"), "/idempotent.rs"));
const ATTEMPTS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// A connection that repeats calls. A stream is repeated only before its first
/// message.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    enabled: bool,
}

impl<S> Retry<S> {
    pub(crate) fn new(inner: S, enabled: bool) -> Self {
        Self { inner, enabled }
    }
}

impl<S> Service<Request<Body>> for Retry<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let end = timeout(request.headers()).map(|limit| Instant::now() + limit);
        let once = !self.enabled || !IDEMPOTENT.contains(&request.uri().path());
        // The one that is ready goes; what stays is asked again.
        let spare = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, spare);
        Box::pin(async move {
            let call = async {
                if once { ready.call(request).await } else { repeat(ready, request, end).await }
            };
            match end {
                Some(end) => until(end, call).await,
                None => call.await,
            }
        })
    }
}

async fn repeat<S>(
    mut service: S,
    request: Request<Body>,
    end: Option<Instant>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let (head, body) = request.into_parts();
    // One message, as no idempotent call has a stream of them.
    let message = match body.collect().await {
        Ok(message) => message.to_bytes(),
        Err(status) => return Ok(status.into_http()),
    };
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        let answer = service.call(with_body(&head, &message)).await;
        let late = end.is_some_and(|end| Instant::now() + wait >= end);
        if late || !is_absence(&answer) {
            return answer;
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
        service.ready().await?;
    }
    service.call(with_body(&head, &message)).await
}

fn with_body(head: &http::request::Parts, message: &Bytes) -> Request<Body> {
    Request::from_parts(head.clone(), Body::new(Full::new(message.clone())))
}

/// True when nobody answered, or the service says that it cannot at the moment.
fn is_absence<E>(answer: &Result<Response<Body>, E>) -> bool {
    answer.as_ref().map_or(true, |answer| {
        Status::from_header_map(answer.headers())
            .is_some_and(|status| status.code() == Code::Unavailable)
    })
}

#[cfg(test)]
mod tests;
