//! `/v1/orgs`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::params::Params;
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::Scope;
use crate::billing::links;
use crate::billing::org_name::OrgName;
use crate::billing::orgs::{self, NewOrg, Org, OrgFilter, OrgPatch};
use crate::billing::standing::{self, Suspension};
use crate::erasure::{self, Erasure};
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
    /// Whether to list archived and erased orgs too; false when left out.
    #[serde(default)]
    #[param(required = false)]
    archived: bool,
}

/// Lists orgs, newest first.
#[utoipa::path(
    get, path = "/v1/orgs", tag = "orgs", params(ListQuery, PageQuery), security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Org>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let query: ListQuery = read.take()?;
    let page = read.take_page::<(Moment, i64)>("orgs")?;
    let filter = OrgFilter {
        org_id: read.principal.own_org_id(),
        external_id: query.external_id,
        archived: query.archived,
        plan: query.plan,
        created_from: query.created_from.map(|at| at.0),
        created_before: query.created_before.map(|at| at.0),
        after: page.after.map(|(at, id)| (at.0, id)),
    };
    let as_of = read.app.as_of();
    read.list_keyed(page, move |conn, page| {
        let found = orgs::list(conn, &filter, page.to_fetch(), as_of)?;
        Ok(found.into_iter().map(|(org_id, org)| ((Moment(org.created_at), org_id), org)).collect())
    })
    .await
}

/// Shows an org.
#[utoipa::path(
    get, path = "/v1/orgs/{id}", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The org", body = Org), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let org = OrgName::must(&read.principal, Some(id.into_inner()), "id")?;
    let as_of = read.app.as_of();
    read.show(move |conn| {
        let org_id = org.row_id(conn)?;
        orgs::find(conn, org_id, as_of)
    })
    .await
}

/// Makes an org.
#[utoipa::path(
    post, path = "/v1/orgs", tag = "orgs", params(IdempotencyKey), request_body = NewOrg,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The org", body = Org), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let new: NewOrg = command.read()?;
    let as_of = command.app.as_of();
    command
        .run(move |conn, now| {
            let (org_id, public_id) = orgs::create(conn, &new, now)?;
            let detail = json!({ "name": new.name, "external_id": new.external_id });
            let audit = AuditEntry { org_id, action: "org.create", target: public_id, detail };
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
pub(crate) async fn update(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let org = OrgName::of_any(id.into_inner(), "id");
    let patch: OrgPatch = command.read()?;
    let as_of = command.app.as_of();
    command
        .run(move |conn, _| {
            let org_id = org.row_id(conn)?;
            orgs::update(conn, org_id, &patch)?;
            let org = orgs::find(conn, org_id, as_of)?;
            let detail = json!({ "name": patch.name, "time_zone": patch.time_zone, "currency": patch.currency,
                        "metadata": patch.metadata });
            let audit = AuditEntry { org_id, action: "org.update", target: org.id.clone(), detail };
            Answer::new(StatusCode::OK, &org, audit)
        })
        .await
}

/// What a command does to how an org stands.
type Change = fn(&mut PgConnection, i64, DateTime<Utc>) -> Result<(), Error>;

async fn set_standing(
    command: Command,
    id: String,
    action: &'static str,
    change: Change,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (org, as_of) = (OrgName::of_any(id, "id"), command.app.as_of());
    command
        .run(move |conn, now| {
            let org_id = org.row_id(conn)?;
            change(conn, org_id, now)?;
            let org = orgs::find(conn, org_id, as_of)?;
            let audit = AuditEntry { org_id, action, target: org.id.clone(), detail: json!({}) };
            Answer::new(StatusCode::OK, &org, audit)
        })
        .await
}

/// Suspends an org: checks and reservations are refused and say why, and so is usage, unless it is to be
/// recorded. Reads, corrections and invoices go on. Once more changes the reason and the usage.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/suspend", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = Suspension, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub(crate) async fn suspend(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let suspension: Suspension = command.read()?;
    let (org, as_of) = (OrgName::of_any(id.into_inner(), "id"), command.app.as_of());
    command
        .run(move |conn, now| {
            let org_id = org.row_id(conn)?;
            standing::suspend(conn, org_id, &suspension, now)?;
            let org = orgs::find(conn, org_id, as_of)?;
            let detail = json!({ "reason": suspension.reason, "usage": suspension.usage });
            let audit = AuditEntry { org_id, action: "org.suspend", target: org.id.clone(), detail };
            Answer::new(StatusCode::OK, &org, audit)
        })
        .await
}

/// Ends a suspension. Of an org that is not suspended it changes nothing.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/resume", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub(crate) async fn resume(command: BodilessCommand, id: web::Path<String>) -> Result<HttpResponse, Error> {
    set_standing(command.0, id.into_inner(), "org.resume", standing::resume).await
}

/// Archives an org: nothing more is counted or billed, and lists leave it out. What is there stays, and
/// `restore` brings it back.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/archive", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub(crate) async fn archive(command: BodilessCommand, id: web::Path<String>) -> Result<HttpResponse, Error> {
    let archive: Change = |conn, org_id, now| standing::archive(conn, org_id, true, now);
    set_standing(command.0, id.into_inner(), "org.archive", archive).await
}

/// Takes an org out of the archive. A suspension from before goes on.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/restore", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org as it is now", body = Org), CommandErrors)
)]
pub(crate) async fn restore(command: BodilessCommand, id: web::Path<String>) -> Result<HttpResponse, Error> {
    let restore: Change = |conn, org_id, now| standing::archive(conn, org_id, false, now);
    set_standing(command.0, id.into_inner(), "org.restore", restore).await
}

/// Confirms an erasure.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EraseBody {
    /// Public id of the org, once more: what is erased never comes back.
    confirm: String,
}

/// Erases an org's personal data: names, members, keys, external ids, messages, audit details, and the
/// personal fields of its Stripe customers and of Stripe's events about them.
///
/// Issued invoices, entries and payments stay, as the law asks. The Stripe events follow within minutes
/// (`GET /v1/orgs/{id}/erasure`). Once more walks through the events that came since. Refused while something
/// of the org runs that would bring the data back: drafts of invoices, subscriptions.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/erase", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = EraseBody, security(("key" = ["admin"])),
    responses((status = 202, description = "How the erasure stands", body = Erasure), CommandErrors)
)]
pub(crate) async fn erase(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let EraseBody { confirm } = command.read()?;
    let (org, directory) = (OrgName::of_any(id.into_inner(), "id"), command.directory());
    let erased = command
        .run_and_wake(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let erasure = erasure::erase(conn, (org.org_id, &org.public_id), &confirm, now)?;
            let target = org.public_id.to_string();
            let audit = AuditEntry { org_id: org.org_id, action: "org.erase", target, detail: json!({}) };
            Answer::new(StatusCode::ACCEPTED, &erasure, audit)
        })
        .await;
    command.app.keyring.forget();
    erased
}

/// Shows how the erasure of an org stands.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/erasure", tag = "orgs",
    params(("id" = String, Path, description = "Public id")), security(("key" = ["billing:read"])),
    responses((status = 200, description = "How it stands", body = Erasure), FindErrors)
)]
pub(crate) async fn show_erasure(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::BillingRead)?;
    let org = OrgName::of_any(id.into_inner(), "id");
    read.show(move |conn| {
        let org_id = org.row_id(conn)?;
        erasure::find(conn, org_id)
    })
    .await
}

/// Account and mode of the customer: the same id may exist in several accounts and in both modes.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RealmQuery {
    /// Connected account of the customer; empty for our own. Left out: the one in which the customer is
    /// known, else our own.
    account: Option<String>,
    /// Live (true) or test mode (false). Left out: the one in which the customer is known. It must be given
    /// for a customer that Stripe has not sent yet.
    livemode: Option<bool>,
}

/// Links a Stripe customer to an org.
///
/// This link comes before what the customer's metadata and its Checkout sessions say. The customer may be
/// unknown yet; then `known` is false in the answer.
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
pub(crate) async fn link(
    command: Command,
    path: web::Path<(String, String)>,
    params: Params,
) -> Result<HttpResponse, Error> {
    set_link(command, path.into_inner(), params, true).await
}

/// Removes a link that was made over the API. What metadata and Checkout sessions say counts again.
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
pub(crate) async fn unlink(
    command: Command,
    path: web::Path<(String, String)>,
    params: Params,
) -> Result<HttpResponse, Error> {
    set_link(command, path.into_inner(), params, false).await
}

/// Makes the link (`on`), or takes it back.
async fn set_link(
    command: Command,
    (id, customer_id): (String, String),
    mut params: Params,
    on: bool,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let RealmQuery { account, livemode } = params.take()?;
    params.done()?;
    let (org, selector) = (OrgName::of_any(id, "id"), RealmSelector { account, livemode });
    let (directory, as_of) = (command.directory(), command.app.as_of());
    command
        .run(move |conn, _| {
            let org = org.find(&directory, conn)?;
            let org_id = org.org_id;
            let realm = if on {
                links::link(conn, &selector, &customer_id, &org.public_id)?
            } else {
                links::unlink(conn, &selector, &customer_id, org_id)?
            };
            let detail =
                json!({ "customer": customer_id, "account": realm.account, "livemode": realm.livemode });
            let action = if on { "org.link" } else { "org.unlink" };
            let audit = AuditEntry { org_id, action, target: org.public_id.to_string(), detail };
            Answer::new(StatusCode::OK, &orgs::find(conn, org_id, as_of)?, audit)
        })
        .await
}
