//! Serves the handlers of [`super::routes`], and the pages that describe them.
//!
//! `HEAD` goes with `GET`. A method that a path lacks is answered with 405 and the methods that it has; an
//! unknown path with 404.

use std::sync::LazyLock;

use actix_web::http::Method;
use actix_web::web::{ServiceConfig, redirect, resource, route};
use actix_web::{HttpRequest, HttpResponse, Resource, ResponseError, Route, guard};

use super::docs;
use super::params::QueryNames;
use super::routes::ENDPOINTS;
use crate::error::Error;

/// Registers all routes.
pub fn configure(config: &mut ServiceConfig) {
    let documents = [
        Place::new("/openapi.json".to_owned()).with(Method::GET, |route| route.to(docs::json)),
        Place::new("/docs".to_owned()).with(Method::GET, |route| route.to(docs::page)),
    ];
    for place in PLACES.iter().chain(&documents) {
        config.service(place.resource());
    }
    config.service(redirect("/", "/docs")).default_service(route().to(no_route));
}

/// The paths of the handlers, in the order of the list.
static PLACES: LazyLock<Vec<Place>> = LazyLock::new(|| {
    let mut places: Vec<Place> = Vec::new();
    for endpoint in ENDPOINTS {
        let routing = endpoint.routing();
        let known = places.iter().position(|place| place.path == routing.path).unwrap_or_else(|| {
            places.push(Place::new(routing.path));
            places.len() - 1
        });
        let place = &mut places[known];
        place.query.insert(routing.method.clone(), routing.query);
        place.methods.push((routing.method, endpoint.attach));
    }
    places
});

/// Gives a route to a handler.
type Attach = fn(Route) -> Route;

/// A path with its methods.
struct Place {
    path: String,
    methods: Vec<(Method, Attach)>,
    query: QueryNames,
}

impl Place {
    fn new(path: String) -> Self {
        Self { path, methods: Vec::new(), query: QueryNames::default() }
    }

    fn with(mut self, method: Method, attach: Attach) -> Self {
        self.methods.push((method, attach));
        self
    }

    fn resource(&self) -> Resource {
        let mut resource = resource(&self.path);
        if self.path.starts_with("/v1/") {
            resource = resource.app_data(self.query.clone());
        }
        for (method, attach) in &self.methods {
            let only = match *method {
                // The server leaves the body out by itself.
                Method::GET => route().guard(guard::Any(guard::Get()).or(guard::Head())),
                ref method => route().method(method.clone()),
            };
            resource = resource.route(attach(only));
        }
        let allowed = self.allowed();
        resource.default_service(route().to(move || {
            let refused = Error::WrongMethod(allowed.clone()).error_response();
            async move { refused }
        }))
    }

    /// The methods, as an `Allow` header lists them.
    fn allowed(&self) -> String {
        let names: Vec<&str> = self.methods.iter().map(|(method, _)| method.as_str()).collect();
        names.join(", ").replace("GET", "GET, HEAD")
    }
}

async fn no_route(_: HttpRequest) -> Result<HttpResponse, Error> {
    Err(Error::NoRoute("there is no such route: /docs lists them"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use actix_web::http::StatusCode;
    use actix_web::test::{TestRequest, call_service, init_service};
    use serde_json::Value;

    use super::*;
    use crate::api::openapi;

    const METHODS: [Method; 5] = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE];

    /// The methods of each path, as the description lists them.
    fn described() -> BTreeMap<String, BTreeSet<String>> {
        let document: Value = serde_json::from_str(&openapi::document()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let methods = |item: &Value| {
            let names = item.as_object().expect("methods").keys();
            names.map(|name| name.to_uppercase()).collect()
        };
        paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
    }

    /// The server has every described operation under its own path, and no other methods there. So the
    /// description is complete, and no route catches the requests for another path.
    #[actix_web::test]
    async fn what_is_served_is_what_is_described() {
        let service = init_service(actix_web::App::new().configure(configure)).await;
        let described = described();
        assert_eq!(described.values().map(BTreeSet::len).sum::<usize>(), ENDPOINTS.len());
        for (path, methods) in &described {
            let url = path.replace('{', "a-").replace('}', "");
            for method in METHODS {
                let request = TestRequest::default().method(method.clone()).uri(&url).to_request();
                let response = call_service(&service, request).await;
                assert_eq!(response.request().match_pattern().as_ref(), Some(path), "{method} {url}");
                let refused = response.status() == StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(refused, !methods.contains(method.as_str()), "{method} {url}");
            }
        }
    }
}
