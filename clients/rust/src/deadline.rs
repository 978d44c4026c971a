//! The time that a caller gives for a call, its stream included.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

/// What a caller allows for a call, from the header `grpc-timeout`.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Ends a call at this time: tonic's own timeout ends with the head of the answer.
pub(crate) async fn until<E>(
    end: Instant,
    call: impl Future<Output = Result<Response<Body>, E>>,
) -> Result<Response<Body>, E> {
    match tokio::time::timeout_at(end, call).await {
        Ok(answer) => Ok(answer?.map(|body| {
            let sleep = Box::pin(tokio::time::sleep_until(end));
            Body::new(Until { body, sleep })
        })),
        Err(_) => Ok(passed().into_http()),
    }
}

fn passed() -> Status {
    Status::deadline_exceeded("the time that the call was given is over")
}

/// A body that fails at a time.
struct Until {
    body: Body,
    sleep: Pin<Box<Sleep>>,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // What has come is told, even when it is late.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.sleep.as_mut().poll(context));
        Poll::Ready(Some(Err(passed())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
