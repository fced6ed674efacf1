//! `/v1/prices`.

use actix_web::{HttpResponse, web};

use super::catalog::read::{self, PriceFilter, PriceView};
use super::read::{Basics, RealmQuery};
use super::read_http::{self, Expand};
use crate::app::App;
use crate::auth::Principal;
use crate::error::Error;
use crate::openapi::{FindErrors, ReadErrors};
use crate::page::{Page, PageQuery};
use crate::params::Params;

/// Lists prices, newest first.
#[utoipa::path(
    get, path = "/v1/prices", tag = "catalogue", params(PriceFilter, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<PriceView>), ReadErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    read_http::list_catalogue(&app, principal, params, read::list_prices).await
}

/// Shows a price.
#[utoipa::path(
    get, path = "/v1/prices/{id}", tag = "catalogue",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The price", body = PriceView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    read_http::show(&app, principal, id.into_inner(), params, read::find_price).await
}
