//! What is repeated, how often, and what is not.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::*;

const IDEMPOTENT_CALL: &str = "/containersvc.v1.ContainerService/RunContainer";
const OTHER_CALL: &str = "/containersvc.v1.BuildService/BuildImage";

/// How often a call arrived, when each gets this answer, and how it ended.
async fn calls(path: &str, code: Code, limit: Option<&str>, enabled: bool) -> (u32, Code) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let message = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(message, "message", "each attempt has the whole request");
            Ok::<_, Infallible>(Status::new(code, "").into_http::<Body>())
        }
    });
    let mut request = Request::post(path);
    if let Some(limit) = limit {
        request = request.header("grpc-timeout", limit);
    }
    let request = request.body(Body::new(Full::new(Bytes::from("message")))).unwrap();
    let answer = Retry::new(service, enabled).oneshot(request).await.unwrap();
    let code = Status::from_header_map(answer.headers()).unwrap().code();
    (count.load(Ordering::Relaxed), code)
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_that_nobody_answers_is_sent_four_times() {
    let told = calls(IDEMPOTENT_CALL, Code::Unavailable, None, true).await;
    assert_eq!(told, (4, Code::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn another_call_and_another_answer_are_final() {
    assert_eq!(calls(OTHER_CALL, Code::Unavailable, None, true).await.0, 1);
    assert_eq!(calls(IDEMPOTENT_CALL, Code::NotFound, None, true).await.0, 1);
    assert_eq!(calls(IDEMPOTENT_CALL, Code::Unavailable, None, false).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_deadline() {
    assert_eq!(calls(IDEMPOTENT_CALL, Code::Unavailable, Some("500m"), true).await.0, 2);
    assert_eq!(timeout(&http::HeaderMap::new()), None);
}
