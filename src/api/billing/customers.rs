//! `/v1/customers`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::customers::{Customer, CustomerFilter, CustomerView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists customers, newest first.
#[utoipa::path(
    get, path = "/v1/customers", tag = "customers", params(CustomerFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<CustomerView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Customer>(&app, principal, params).await
}

/// Shows a customer.
#[utoipa::path(
    get, path = "/v1/customers/{id}", tag = "customers",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The customer", body = CustomerView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Customer>(&app, principal, id.into_inner(), params).await
}
