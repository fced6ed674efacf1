//! `/v1/products`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::{FindErrors, ReadErrors};
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::catalog::Product;
use crate::billing::catalog::read::{ProductFilter, ProductView};
use crate::billing::read::{Basics, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists products, newest first.
#[utoipa::path(
    get, path = "/v1/products", tag = "catalogue", params(ProductFilter, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<ProductView>), ReadErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Product>(&app, principal, params).await
}

/// Shows a product.
#[utoipa::path(
    get, path = "/v1/products/{id}", tag = "catalogue",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The product", body = ProductView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Product>(&app, principal, id.into_inner(), params).await
}
