//! Who may call what: the token of a call against the permission in the proto.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use http::{Request, Response, header};
use prost_reflect::DescriptorPool;
use tonic::Status;
use tower::{Layer, Service};

use crate::{
    app::App,
    domain::{
        Error, Kind, Result,
        access::{Caller, Required},
    },
};

/// What is open where the configuration allows it: it tells nothing of the node.
const OPEN: &[&str] = &[
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// The permission that each RPC asks for, read from the descriptors.
#[derive(Debug, Default)]
pub struct Permissions(HashMap<String, Required>);

impl Permissions {
    /// Reads the option `containersvc.v1.access` of every RPC.
    pub fn read(pool: &DescriptorPool) -> Result<Self> {
        let option = pool
            .get_extension_by_name("containersvc.v1.access")
            .ok_or_else(|| Error::internal("the descriptors lack the option for permissions"))?;
        let mut permissions = HashMap::new();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let options = method.options();
            let access = options.get_extension(&option);
            let Some(access) = access.as_message() else { continue };
            let text = |name: &str| access.get_field_by_name(name);
            let permission = text("permission").and_then(|value| value.as_str().map(str::to_owned));
            let aliases = text("aliases").map_or_else(Vec::new, |value| {
                let list = value.as_list().unwrap_or_default();
                list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
            });
            if let Some(permission) = permission.filter(|name| !name.is_empty()) {
                permissions.insert(path, Required { permission, aliases });
            }
        }
        Ok(Self(permissions))
    }

    /// What an RPC asks for; nothing is asked of nobody, so `None` is refused.
    pub fn of(&self, path: &str) -> Option<&Required> {
        self.0.get(path)
    }
}

/// Guards every call.
#[derive(Debug, Clone)]
pub struct Auth(Arc<Guard>);

#[derive(Debug)]
struct Guard {
    app: Arc<App>,
    permissions: Permissions,
    /// Health and reflection need no token.
    open_meta: bool,
    /// No call needs a token; loopback only, by explicit flag.
    anonymous: bool,
    known: HashSet<&'static str>,
}

impl Auth {
    /// A guard over the tokens of the application.
    pub fn new(app: Arc<App>, permissions: Permissions, open_meta: bool, anonymous: bool) -> Self {
        let known = super::SERVICES.iter().copied().collect();
        Self(Arc::new(Guard { app, permissions, open_meta, anonymous, known }))
    }

    /// Who calls, when it bears a live token or needs none.
    pub fn authenticate(&self, headers: &http::HeaderMap) -> Result<Arc<Caller>> {
        if self.0.anonymous {
            let permissions = crate::domain::access::PERMISSIONS;
            let permissions = permissions.iter().map(|&name| name.to_owned()).collect();
            return Ok(Arc::new(Caller { name: "anonymous".to_owned(), permissions }));
        }
        let refuse = |reason, message: &str| {
            Err(Error::new(Kind::Unauthenticated, reason, message.to_owned()))
        };
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return refuse("NO_TOKEN", "no token; send \"Authorization: Bearer <token>\"");
        };
        let text = value.to_str().ok().and_then(|value| {
            let (scheme, text) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| text.trim())
        });
        match text.and_then(|text| self.0.app.access.caller(text)) {
            Some(caller) => Ok(caller),
            None => refuse("BAD_TOKEN", "the token is unknown, revoked or expired; get another"),
        }
    }

    /// The caller of an RPC, when it may call it.
    pub fn authorise(&self, path: &str, headers: &http::HeaderMap) -> Result<Option<Arc<Caller>>> {
        if self.0.open_meta && OPEN.iter().any(|open| path.starts_with(open)) {
            return Ok(None);
        }
        let caller = self.authenticate(headers)?;
        let Some(required) = self.0.permissions.of(path) else {
            let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
            // Health and reflection ask for a token only; what is not there at
            // all is answered by the router.
            let declared = self.0.known.contains(service);
            return match declared && path.matches('/').count() == 2 {
                true => Err(Error::new(
                    Kind::Unimplemented,
                    "NO_SUCH_RPC",
                    format!("there is no RPC {path}"),
                )),
                false => Ok(Some(caller)),
            };
        };
        if !required.granted_by(&caller.permissions) {
            return Err(caller.lacks(&required.permission, None));
        }
        Ok(Some(caller))
    }
}

/// Who the guard let in with this request; a call that it did not see is nobody's.
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Result<Arc<Caller>> {
    request
        .extensions()
        .get()
        .cloned()
        .ok_or_else(|| Error::internal("a call that asks who its caller is came without the guard"))
}

impl<S> Layer<S> for Auth {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { auth: self.clone(), inner }
    }
}

/// A service behind the guard.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    auth: Auth,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.auth.authorise(request.uri().path(), request.headers()) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Box::pin(self.inner.call(request))
            }
            Err(error) => {
                let refused = Status::from(error).into_http::<Body>();
                Box::pin(std::future::ready(Ok(refused)))
            }
        }
    }
}
