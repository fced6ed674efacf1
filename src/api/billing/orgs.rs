//! `/v1/orgs`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::billing::links;
use crate::billing::org_name::OrgName;
use crate::billing::orgs::{self, NewOrg, Org, OrgFilter, OrgPatch};
use crate::error::Error;
use crate::page::{Page, PageQuery};
use crate::realm::RealmSelector;
use crate::time::Moment;

/// Narrows the list of orgs.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only the org with this external id; an empty page when none has it.
    external_id: Option<String>,
    /// Only orgs on this plan.
    plan: Option<String>,
    /// Made at or after (RFC 3339).
    created_from: Option<Moment>,
    /// Made before (RFC 3339).
    created_before: Option<Moment>,
}

/// Lists orgs, newest first.
#[utoipa::path(
    get, path = "/v1/orgs", tag = "orgs", params(ListQuery, PageQuery), security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Org>), ReadErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let (query, page): (ListQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let limit = page.limit()?;
    let filter = OrgFilter {
        org_id: Some(principal.org_id()).filter(|org_id| *org_id != PLATFORM),
        external_id: query.external_id,
        plan: query.plan,
        created_from: query.created_from.map(|at| at.0),
        created_before: query.created_before.map(|at| at.0),
        after: page.after::<(Moment, i64)>("orgs")?.map(|(at, id)| (at.0, id)),
    };
    let as_of = app.as_of();
    let rows = app.db.run(principal.rows, move |conn| orgs::list(conn, &filter, limit + 1, as_of)).await?;
    let page = Page::of("orgs", rows, limit, |(org_id, org)| (Moment(org.created_at), *org_id))?;
    let data: Vec<Org> = page.data.into_iter().map(|(_, org)| org).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}

/// Shows an org.
#[utoipa::path(
    get, path = "/v1/orgs/{id}", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The org", body = Org), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let org = OrgName::must(&principal, Some(id.into_inner()), "id")?;
    let as_of = app.as_of();
    let found = app.db.run(principal.rows, move |conn| {
        let org_id = org.row_id(conn)?;
        orgs::find(conn, org_id, as_of)
    });
    Ok(HttpResponse::Ok().json(found.await?))
}

/// Makes an org.
#[utoipa::path(
    post, path = "/v1/orgs", tag = "orgs", params(IdempotencyKey), request_body = NewOrg,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The org", body = Org), CommandErrors)
)]
pub async fn create(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let new: NewOrg = commands::parse(&body.0)?;
    let as_of = app.as_of();
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let (org_id, public_id) = orgs::create(conn, &new, now)?;
        let detail = json!({ "name": new.name, "external_id": new.external_id });
        let audit = Audit { org_id, action: "org.create", target: public_id, detail };
        Answer::new(StatusCode::CREATED, &orgs::find(conn, org_id, as_of)?, audit)
    })
    .await
}

/// Changes an org.
#[utoipa::path(
    patch, path = "/v1/orgs/{id}", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = OrgPatch,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub async fn update(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let org = OrgName::of_any(id.into_inner(), "id");
    let patch: OrgPatch = commands::parse(&body.0)?;
    let as_of = app.as_of();
    commands::run(&app, &principal, &request, &body.0, move |conn, _| {
        let org_id = org.row_id(conn)?;
        orgs::update(conn, org_id, &patch)?;
        let org = orgs::find(conn, org_id, as_of)?;
        let detail = json!({ "name": patch.name, "time_zone": patch.time_zone, "metadata": patch.metadata });
        let audit = Audit { org_id, action: "org.update", target: org.id.clone(), detail };
        Answer::new(StatusCode::OK, &org, audit)
    })
    .await
}

/// Which customer is selector: the same id may exist in several accounts and in both modes.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RealmQuery {
    /// Connected account of the customer; empty for our own. Left out: the one in which the customer is
    /// known, else our own.
    account: Option<String>,
    /// Live (true) or test mode (false). Left out: the one in which the customer is known; of a customer that
    /// Stripe has not told of it must be given.
    livemode: Option<bool>,
}

/// Links a Stripe customer to an org. This beats what the customer's metadata and its checkout sessions say.
/// The customer may come later: then `known` is false in the answer.
#[utoipa::path(
    put, path = "/v1/orgs/{id}/stripe_customers/{customer_id}", tag = "orgs",
    params(
        ("id" = String, Path, description = "Public or external id of the org"),
        ("customer_id" = String, Path, description = "`cus_…`"),
        RealmQuery,
        IdempotencyKey
    ),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub async fn link(
    app: web::Data<App>,
    principal: Principal,
    path: web::Path<(String, String)>,
    params: Params,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    set_link(&app, &principal, path.into_inner(), params, &request, &body, true).await
}

/// Takes back a link that was made over the API; what metadata and sessions say counts again.
#[utoipa::path(
    delete, path = "/v1/orgs/{id}/stripe_customers/{customer_id}", tag = "orgs",
    params(
        ("id" = String, Path, description = "Public or external id of the org"),
        ("customer_id" = String, Path, description = "`cus_…`"),
        RealmQuery,
        IdempotencyKey
    ),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub async fn unlink(
    app: web::Data<App>,
    principal: Principal,
    path: web::Path<(String, String)>,
    params: Params,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    set_link(&app, &principal, path.into_inner(), params, &request, &body, false).await
}

async fn set_link(
    app: &App,
    principal: &Principal,
    (id, customer_id): (String, String),
    mut params: Params,
    request: &HttpRequest,
    body: &Body,
    on: bool,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let RealmQuery { account, livemode } = params.take()?;
    params.done()?;
    let (org, selector) = (OrgName::of_any(id, "id"), RealmSelector { account, livemode });
    let directory = Arc::clone(&app.directory);
    let as_of = app.as_of();
    commands::run(app, principal, request, &body.0, move |conn, _| {
        let org = org.find(&directory, conn)?;
        let org_id = org.org_id;
        let realm = if on {
            links::link(conn, &selector, &customer_id, &org.public_id)?
        } else {
            links::unlink(conn, &selector, &customer_id, org_id)?
        };
        let detail = json!({ "customer": customer_id, "account": realm.account, "livemode": realm.livemode });
        let action = if on { "org.link" } else { "org.unlink" };
        let audit = Audit { org_id, action, target: org.public_id.to_string(), detail };
        Answer::new(StatusCode::OK, &orgs::find(conn, org_id, as_of)?, audit)
    })
    .await
}
