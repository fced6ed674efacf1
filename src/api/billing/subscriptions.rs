//! `/v1/subscriptions`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, Expand};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::billing::subscriptions::{Subscription, SubscriptionFilter, SubscriptionView};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists subscriptions, newest first, with their items.
#[utoipa::path(
    get, path = "/v1/subscriptions", tag = "subscriptions",
    params(SubscriptionFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<SubscriptionView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<Subscription>(&app, principal, params).await
}

/// Shows a subscription.
#[utoipa::path(
    get, path = "/v1/subscriptions/{id}", tag = "subscriptions",
    params(("id" = String, Path, description = "Stripe's id"), Expand, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The subscription", body = SubscriptionView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<Subscription>(&app, principal, id.into_inner(), params).await
}
