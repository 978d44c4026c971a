//! Sends an image to its registry.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::{Credential, PullStep};
use crate::{
    domain::{Kind, Result, image::ImageRef},
    engine::{Engine, body::Body, errors, lines::Lines},
};

/// What of a path is escaped: the slashes of a repository stay.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// An image on its way. Dropping it gives up.
pub struct Pushing(Lines);

/// What a push tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// A layer goes on.
    Step(PullStep),
    /// The registry has it under this digest.
    Done(String),
}

impl Engine {
    /// Sends an image to its registry.
    pub async fn push(&self, image: &ImageRef, credential: Option<&Credential>) -> Result<Pushing> {
        let version = self.docker().await?.client_version();
        let (major, minor) = (version.major_version, version.minor_version);
        let familiar = ImageRef::familiar(image);
        let tag = image.tag().unwrap_or("latest");
        let name = familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar);
        let escaped = utf8_percent_encode(name, PATH);
        let login = match credential {
            Some(credential) => json!({
                "username": credential.username,
                "password": credential.password,
                "identitytoken": credential.identity_token.clone().unwrap_or_default(),
                "serveraddress": image.registry(),
            }),
            None => json!({}),
        };
        let question = Request::builder()
            .uri(format!("/v{major}.{minor}/images/{escaped}/push?tag={tag}"))
            .header("X-Registry-Auth", URL_SAFE.encode(login.to_string()));
        let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let body = Body::post(self.address.clone(), question, nothing).await;
        let body = body.map_err(|error| match error.kind() {
            Kind::NotFound => errors::pushed(&format!("no such image {familiar:?} on the node")),
            _ => error,
        })?;
        Ok(Pushing(Lines::new(self.address.clone(), body)))
    }
}

impl Pushing {
    /// What happens next; `None` when the engine has nothing more to say.
    pub async fn next(&mut self) -> Result<Option<Pushed>> {
        while let Some(message) = self.0.next().await? {
            if let Some(detail) = message.error_detail {
                return Err(errors::pushed(&detail.message));
            }
            if let Some(digest) = message.aux.get("Digest").and_then(|digest| digest.as_str()) {
                return Ok(Some(Pushed::Done(digest.to_owned())));
            }
            if !message.id.is_empty() {
                let (current, total) = message.progress();
                let (id, status) = (message.id, message.status);
                return Ok(Some(Pushed::Step(PullStep { id, status, current, total })));
            }
        }
        Ok(None)
    }
}
