//! TokenService.

use tonic::{Request, Response, Status};

use super::{
    Service,
    convert::{duration, timestamp},
    pb::{self, token_service_server::TokenService},
};
use crate::app::access::{NewToken, StoredToken};

#[tonic::async_trait]
impl TokenService for Service {
    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let pb::CreateTokenRequest { name, grant_set, permissions, ttl } = request.into_inner();
        let new = NewToken { name, grant_set, permissions, ttl: duration(ttl) };
        let (secret, token) = self.0.create_token(new).await?;
        Ok(Response::new(pb::CreateTokenResponse { secret, token: Some(token.into()) }))
    }

    async fn list_tokens(
        &self,
        _: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let tokens = self.0.store.tokens().await?;
        Ok(Response::new(pb::ListTokensResponse {
            tokens: tokens.into_iter().map(Into::into).collect(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let pb::RevokeTokenRequest { name, force } = request.into_inner();
        self.0.revoke_token(&name, force).await?;
        Ok(Response::new(pb::RevokeTokenResponse {}))
    }
}

impl From<StoredToken> for pb::Token {
    fn from(token: StoredToken) -> Self {
        Self {
            name: token.name,
            permissions: token.permissions,
            created_at: Some(timestamp(token.created_at)),
            expires_at: token.expires_at.map(timestamp),
        }
    }
}
