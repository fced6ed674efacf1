//! `/v1/refunds`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::billing::refunds::{Refund, RefundFilter, RefundView};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists refunds, newest first.
#[utoipa::path(
    get, path = "/v1/refunds", tag = "refunds", params(RefundFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<RefundView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Refund>(&app, principal, params).await
}

/// Shows a refund.
#[utoipa::path(
    get, path = "/v1/refunds/{id}", tag = "refunds",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The refund", body = RefundView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Refund>(&app, principal, id.into_inner(), params).await
}
