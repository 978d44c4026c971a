//! The JSON bridge: google.api.http rules, read from the descriptors, served by
//! the same RPCs in this process.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::{Code, Status};

mod answer;
mod call;
mod input;
mod json;
mod once;
mod openapi;
mod plan;
mod query;
mod raw;
mod rules;
mod wire;
mod writer;

pub use writer::Printer;

use crate::rpc::Auth;
use input::Refused;
use plan::Plans;
use raw::Raws;
use rules::{Found, Rules};

/// How long a stream may wait for its first message before its head is sent.
const FIRST: Duration = Duration::from_secs(1);

/// The bridge over a stack of gRPC services.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plans: Arc<Plans>,
    rules: Rules,
    raws: Raws,
    /// The gRPC services behind their guard.
    grpc: Router,
    max_body: usize,
    /// Asked before a body is read, so that strangers send nothing; the RPC
    /// asks it again.
    auth: Option<Auth>,
    openapi: Bytes,
}

impl Gateway {
    /// A bridge for the RPCs of a pool, called on `grpc`.
    pub fn new(pool: &DescriptorPool, grpc: Router, max_body: usize, auth: Option<Auth>) -> Self {
        let rules = Rules::read(pool);
        let openapi = openapi::document(pool, &rules).to_string().into();
        let plans = Arc::new(Plans::read(pool));
        let raws = Raws::read(pool);
        Self(Arc::new(Inner { plans, rules, raws, grpc, max_body, auth, openapi }))
    }

    /// The OpenAPI document.
    pub fn openapi(&self) -> Bytes {
        self.0.openapi.clone()
    }

    /// Answers any request that is not gRPC.
    pub async fn handle(self, request: Request<Body>) -> Response<Body> {
        let plans = &self.0.plans;
        let (head, body) = request.into_parts();
        if is_grpc(&head.headers) {
            return Status::unimplemented(format!("there is no RPC {}", head.uri.path()))
                .into_http();
        }
        let path = match query::unescaped(head.uri.path()) {
            Ok(path) => path,
            Err(status) => return answer::error(&status, plans),
        };
        if let Some(raw) = self.0.raws.find(&head.method, &path) {
            if let Some(auth) = &self.0.auth
                && let Err(error) = auth.authorise(&call::path(&raw.rpc), &head.headers)
            {
                return answer::error(&error.into(), plans);
            }
            let query = head.uri.query().unwrap_or_default();
            return self.0.raw(raw, &head.headers, head.extensions, query, body).await;
        }
        let (rule, path) = match self.0.rules.find(&head.method, &path) {
            Found::Rule(rule, fields) => (rule, fields),
            Found::OtherMethod(_) if head.method == Method::OPTIONS => {
                return answer::body(StatusCode::OK, "{}");
            }
            Found::OtherMethod(allowed) => return answer::other_method(&allowed, plans),
            Found::Nothing => {
                return answer::error(&Status::new(Code::NotFound, "Not Found"), plans);
            }
        };
        if let Some(auth) = &self.0.auth
            && let Err(error) = auth.authorise(&call::path(&rule.rpc), &head.headers)
        {
            return answer::error(&error.into(), plans);
        }
        let body = match self.read(&head.headers, body).await {
            Ok(body) => body,
            Err(response) => return *response,
        };
        let query = head.uri.query().unwrap_or_default();
        let message = match input::message(rule, &path, query, &body) {
            Ok(message) => message,
            Err(status) => return answer::error(&status, plans),
        };
        let called =
            call::call(&self.0.grpc, &rule.rpc, &head.headers, head.extensions, &message).await;
        match called {
            Ok(answered) => self.answer(answered, &rule.rpc, wants_events(&head.headers)).await,
            Err(status) => answer::error(&status, plans),
        }
    }

    async fn answer(
        &self,
        mut answered: call::Answer,
        rpc: &MethodDescriptor,
        events: bool,
    ) -> Response<Body> {
        let plans = &self.0.plans;
        if rpc.is_server_streaming() {
            // As long as nothing was sent, an error can still have its own status.
            return match answered.next_within(FIRST).await {
                Some(Some(Err(status))) => answer::error(&status, plans),
                first => answer::many(first, answered, events, rpc, plans),
            };
        }
        match answered.next().await {
            Some(Ok(message)) => match answered.next().await {
                Some(Err(status)) => answer::error(&status, plans),
                _ => answer::one(&message, rpc, plans),
            },
            Some(Err(status)) => answer::error(&status, plans),
            None => answer::error(&Status::internal("the RPC answered nothing"), plans),
        }
    }

    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Box<Response<Body>>> {
        let limit = self.0.max_body;
        let inflated = match Limited::new(body, limit).collect().await {
            Ok(body) => input::inflate(headers, body.to_bytes(), limit),
            Err(error) if error.is::<LengthLimitError>() => Err(Refused::TooLarge),
            Err(error) => Err(Refused::Broken(format!("the body cannot be read: {error}"))),
        };
        inflated.map_err(|refused| {
            let (http, code, message) = match refused {
                Refused::TooLarge => (
                    StatusCode::PAYLOAD_TOO_LARGE,
                    Code::ResourceExhausted,
                    format!("the body is larger than {limit} bytes; send less"),
                ),
                Refused::Broken(why) => (StatusCode::BAD_REQUEST, Code::InvalidArgument, why),
                Refused::Encoding(why) => {
                    (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, why)
                }
            };
            Box::new(answer::error_under(http, &Status::new(code, message), &self.0.plans))
        })
    }

    /// An error as this bridge writes it.
    pub fn error(&self, status: &Status) -> Response<Body> {
        answer::error(status, &self.0.plans)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}
