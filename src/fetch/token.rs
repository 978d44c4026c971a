//! Answers a registry's challenge: Basic, or a Bearer token from its token server.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Client, Method, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;

use super::{
    challenge::Challenge,
    docker_config::Credential,
    http::{self, Rules},
};
use crate::domain::Result;

const CLIENT_ID: &str = "container-svc";
const ANSWER_MAX: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The `Authorization` that answers the challenges; `None` where we have nothing to say or the
/// token server refuses what we said.
pub(super) async fn authorize(
    client: &Client,
    rules: &Rules,
    challenges: &[Challenge],
    repository: &str,
    credential: Option<&Credential>,
) -> Result<Option<HeaderValue>> {
    let offered = |scheme| challenges.iter().find(|offer| offer.scheme == scheme);
    if let Some(bearer) = offered("bearer") {
        return token(client, rules, bearer, repository, credential).await;
    }
    Ok(offered("basic").and(credential).and_then(basic))
}

async fn token(
    client: &Client,
    rules: &Rules,
    challenge: &Challenge,
    repository: &str,
    credential: Option<&Credential>,
) -> Result<Option<HeaderValue>> {
    let mut realm = challenge
        .param("realm")
        .and_then(|realm| Url::parse(realm).ok())
        .ok_or_else(|| rules.unavailable("asks for a token without a usable realm"))?;
    let service = challenge.param("service").unwrap_or_default();
    let scope = format!("repository:{repository}:pull");
    let identity = credential.and_then(|credential| credential.identity_token.as_deref());
    let answer = if let Some(identity) = identity {
        refresh(client, rules, &realm, service, &scope, identity).await?
    } else {
        realm.query_pairs_mut().append_pair("service", service).append_pair("scope", &scope);
        let authorization = credential.and_then(basic);
        http::follow(client, rules, Method::GET, &realm, HeaderMap::new(), authorization).await?
    };
    match answer.status().as_u16() {
        200..=299 => {}
        401 | 403 => return Ok(None),
        _ => return Err(rules.unusable(&answer)),
    }
    let body = bounded(rules, answer).await?;
    // serde_json's message can quote the token, so it is not kept as a cause.
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    answer
        .and_then(|answer| answer.token.or(answer.access_token))
        .and_then(|token| secret(format!("Bearer {token}")))
        .map(Some)
        .ok_or_else(|| rules.unavailable("has a token server that sent no token"))
}

/// The OAuth2 refresh grant. Its body is a secret, so that no redirect is followed.
async fn refresh(
    client: &Client,
    rules: &Rules,
    realm: &Url,
    service: &str,
    scope: &str,
    identity: &str,
) -> Result<Response> {
    rules.check(realm)?;
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("service", service),
        ("scope", scope),
        ("refresh_token", identity),
    ];
    let form: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    client
        .post(realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.join("&"))
        .send()
        .await
        .map_err(|cause| rules.failed(cause))
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    if credential.identity_token.is_some() {
        return None;
    }
    let pair = format!("{}:{}", credential.username, credential.password);
    secret(format!("Basic {}", STANDARD.encode(pair)))
}

/// A header that reqwest does not print and HTTP/2 does not index.
fn secret(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn bounded(rules: &Rules, mut answer: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|cause| rules.failed(cause))? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(rules.unavailable("has a token server that sent more than 1 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
