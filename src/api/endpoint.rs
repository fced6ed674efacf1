//! A handler with its description, out of which come its route and its part of the API's description.

use actix_web::Route;
use actix_web::http::Method;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

/// A handler.
pub(super) struct Endpoint {
    /// Its description: one path with one operation, and the schemas that the operation names.
    pub(super) describe: fn() -> OpenApi,
    /// Gives a route to the handler.
    pub(super) attach: fn(Route) -> Route,
}

/// Makes `ENDPOINTS` of the paths of handlers that have an `#[utoipa::path]`.
macro_rules! endpoints {
    ($($module:ident $(:: $name:ident)+),+ $(,)?) => {
        /// All handlers.
        pub(super) const ENDPOINTS: &[crate::api::endpoint::Endpoint] = &[$({
            #[derive(utoipa::OpenApi)]
            #[openapi(paths($module $(:: $name)+))]
            struct Described;
            crate::api::endpoint::Endpoint {
                describe: <Described as utoipa::OpenApi>::openapi,
                attach: |route| route.to($module $(:: $name)+),
            }
        }),+];
    };
}
pub(super) use endpoints;

/// The route of a handler.
pub(super) struct Routing {
    pub(super) method: Method,
    pub(super) path: String,
    /// Names of its query parameters.
    pub(super) query: Vec<String>,
}

impl Endpoint {
    /// Method, path and query parameters, as the description has them.
    pub(super) fn routing(&self) -> Routing {
        let mut paths = (self.describe)().paths.paths.into_iter();
        let (path, mut item) = paths.next().expect("a handler has a path");
        let (method, operation) = operations(&mut item).into_iter().next().expect("a path has an operation");
        let name = |parameter| match parameter {
            RefOr::T(Parameter { name, parameter_in: ParameterIn::Query, .. }) => Some(name),
            _ => None,
        };
        let query = operation.parameters.take().unwrap_or_default().into_iter().filter_map(name).collect();
        Routing { method, path, query }
    }
}

/// The operations of a path, with their methods.
pub(super) fn operations(item: &mut PathItem) -> Vec<(Method, &mut Operation)> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    let all = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::PATCH, patch),
        (Method::DELETE, delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?))).collect()
}
