//! Whether the engine has BuildKit.

use std::sync::PoisonError;

use http::{Request, StatusCode};

use crate::{
    domain::Result,
    engine::{Engine, body, errors},
};

impl Engine {
    /// True where BuildKit can build; asked once a connection.
    ///
    /// Such an engine asks a session of ours for what it builds, so it knows the path of
    /// sessions, and refuses who asks for none in particular. Other implementations of its
    /// API do not know it. One on Windows knows it, and has no BuildKit.
    pub async fn has_buildkit(&self) -> Result<bool> {
        let known = *self.has_buildkit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known {
            return Ok(known);
        }
        let path = format!("/{}/session", self.build_version().await?);
        let question = Request::post(path);
        let (status, headers) = body::head(&self.address, question, self.timeout).await?;
        let has = match status {
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => false,
            status if status.is_server_error() => {
                return Err(errors::answered(status.as_u16(), "it does not say what builds"));
            }
            _ => headers.get("ostype").is_none_or(|os| os != "windows"),
        };
        *self.has_buildkit.lock().unwrap_or_else(PoisonError::into_inner) = Some(has);
        Ok(has)
    }
}
