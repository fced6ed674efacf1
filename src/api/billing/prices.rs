//! `/v1/prices`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::{FindErrors, ReadErrors};
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::catalog::Price;
use crate::billing::catalog::read::{PriceFilter, PriceView};
use crate::billing::read::{Basics, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists prices, newest first.
#[utoipa::path(
    get, path = "/v1/prices", tag = "catalogue", params(PriceFilter, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<PriceView>), ReadErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Price>(&app, principal, params).await
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
    lists::show::<Price>(&app, principal, id.into_inner(), params).await
}
