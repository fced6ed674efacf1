//! `/v1/payments`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::payments::Payment;
use crate::billing::payments::read::{PaymentFilter, PaymentView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists payments, newest first.
#[utoipa::path(
    get, path = "/v1/payments", tag = "payments", params(PaymentFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<PaymentView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Payment>(&app, principal, params).await
}

/// Shows a payment.
#[utoipa::path(
    get, path = "/v1/payments/{id}", tag = "payments",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The payment", body = PaymentView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Payment>(&app, principal, id.into_inner(), params).await
}
