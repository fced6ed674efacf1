//! `/v1/disputes`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::disputes::{Dispute, DisputeFilter, DisputeView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists disputes, newest first.
#[utoipa::path(
    get, path = "/v1/disputes", tag = "disputes", params(DisputeFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<DisputeView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Dispute>(&app, principal, params).await
}

/// Shows a dispute.
#[utoipa::path(
    get, path = "/v1/disputes/{id}", tag = "disputes",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The dispute", body = DisputeView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Dispute>(&app, principal, id.into_inner(), params).await
}
