//! `/v1/invoices`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, ExpandWithLines};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::invoices::{Invoice, InvoiceFilter, InvoiceView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists invoices, newest first.
#[utoipa::path(
    get, path = "/v1/invoices", tag = "invoices", params(InvoiceFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<InvoiceView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Invoice>(&app, principal, params).await
}

/// Shows an invoice.
#[utoipa::path(
    get, path = "/v1/invoices/{id}", tag = "invoices",
    params(("id" = String, Path, description = "Stripe's id"), ExpandWithLines, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The invoice", body = InvoiceView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Invoice>(&app, principal, id.into_inner(), params).await
}
