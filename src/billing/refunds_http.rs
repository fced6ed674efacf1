//! `/v1/refunds`.

use actix_web::{HttpResponse, web};

use super::read::{Basics, Owners, RealmQuery};
use super::read_http::{self, Expand};
use super::refunds::{self, Filter, RefundView};
use crate::app::App;
use crate::auth::Principal;
use crate::error::Error;
use crate::openapi::FindErrors;
use crate::page::{Page, PageQuery};
use crate::params::Params;

/// Lists refunds, newest first.
#[utoipa::path(
    get, path = "/v1/refunds", tag = "refunds", params(Filter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<RefundView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    read_http::list(&app, principal, params, refunds::list).await
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
    read_http::show(&app, principal, id.into_inner(), params, refunds::find).await
}
