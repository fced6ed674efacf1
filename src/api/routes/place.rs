//! A path and the methods that it has. `HEAD` goes with `GET`; any other method is answered with 405 and the
//! list of those there are.

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::web::{self, resource, route};
use actix_web::{FromRequest, Handler, Resource, Responder, ResponseError, Route, guard};

use crate::error::Error;

/// A path with its methods.
pub(super) struct Place {
    resource: Resource,
    methods: Vec<&'static str>,
}

/// The path, without methods yet.
pub(super) fn at(path: &str) -> Place {
    Place { resource: resource(path), methods: Vec::new() }
}

macro_rules! methods {
    ($($name:ident $method:literal),+) => {
        $(
            pub(super) fn $name<F, Args>(self, handler: F) -> Self
            where
                F: Handler<Args>,
                Args: FromRequest + 'static,
                F::Output: Responder + 'static,
            {
                self.with(&[$method], web::$name().to(handler))
            }
        )+
    };
}

impl Place {
    methods! { post "POST", put "PUT", patch "PATCH", delete "DELETE" }

    /// `GET`, and `HEAD`: the server leaves the body out by itself.
    pub(super) fn get<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let either = guard::Any(guard::Get()).or(guard::Head());
        self.with(&["GET", "HEAD"], route().guard(either).to(handler))
    }

    fn with(mut self, methods: &[&'static str], route: Route) -> Self {
        self.methods.extend(methods);
        Self { resource: self.resource.route(route), methods: self.methods }
    }
}

impl HttpServiceFactory for Place {
    fn register(self, config: &mut AppService) {
        let allowed = self.methods.join(", ");
        let refuse = move || {
            let refused = Error::WrongMethod(allowed.clone()).error_response();
            async move { refused }
        };
        self.resource.default_service(route().to(refuse)).register(config);
    }
}
