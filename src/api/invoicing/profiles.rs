//! `/v1/orgs/{id}/billing` and `/v1/orgs/{id}/coupons`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::invoicing::coupons::{self, OrgCoupon};
use crate::invoicing::profiles::{self, Profile, ProfileBody};

/// Shows the billing profile of an org: who it is on invoices, and on which terms it buys.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/billing", tag = "invoicing",
    params(("id" = String, Path, description = "Public or external id of the org")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The profile", body = Profile), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let org = OrgName::must(&read.principal, Some(id.into_inner()), "id")?;
    read.show(move |conn| {
        let org_id = org.row_id(conn)?;
        profiles::find(conn, org_id)
    })
    .await
}

/// Makes the billing profile of an org, or replaces it. Finalised documents stay as they are.
#[utoipa::path(
    put, path = "/v1/orgs/{id}/billing", tag = "invoicing",
    params(("id" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    request_body = ProfileBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The profile as it is now", body = Profile), CommandErrors)
)]
pub(crate) async fn put(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (name, body): (_, ProfileBody) = (OrgName::of_any(id.into_inner(), "id"), command.read()?);
    let directory = command.directory();
    command
        .run(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let profile = profiles::put(conn, org.org_id, &body, now)?;
            let audit = audit(&org, "billing_profile.put", &org.public_id, json!(body));
            Answer::new(StatusCode::OK, &profile, audit)
        })
        .await
}

/// The coupons of an org.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrgCoupons {
    /// In the order in which invoices use them. An org keeps those that were taken from it, with `ended_at`.
    pub coupons: Vec<OrgCoupon>,
}

/// Lists the coupons that an org has or had.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/coupons", tag = "invoicing",
    params(("id" = String, Path, description = "Public or external id of the org")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "All of them", body = OrgCoupons), FindErrors)
)]
pub(crate) async fn list_coupons(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let org = OrgName::must(&read.principal, Some(id.into_inner()), "id")?;
    read.show(move |conn| {
        let org_id = org.row_id(conn)?;
        Ok(OrgCoupons { coupons: coupons::of_org(conn, org_id)? })
    })
    .await
}

/// Gives an org a coupon: its next invoices have the discount.
#[utoipa::path(
    put, path = "/v1/orgs/{id}/coupons/{code}", tag = "invoicing",
    params(
        ("id" = String, Path, description = "Public or external id of the org"),
        ("code" = String, Path, description = "Code of the coupon"),
        IdempotencyKey
    ),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The org has it", body = OrgCoupon), CommandErrors)
)]
pub(crate) async fn put_coupon(
    BodilessCommand(command): BodilessCommand,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, code) = path.into_inner();
    let (name, directory) = (OrgName::of_any(id, "id"), command.directory());
    command
        .run(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let coupon = coupons::apply(conn, org.org_id, &code, now)?;
            let audit = audit(&org, "org.put_coupon", &org.public_id, json!({ "coupon": code }));
            Answer::new(StatusCode::OK, &coupon, audit)
        })
        .await
}

/// Takes a coupon from an org. Finalised invoices keep their discount.
#[utoipa::path(
    delete, path = "/v1/orgs/{id}/coupons/{code}", tag = "invoicing",
    params(
        ("id" = String, Path, description = "Public or external id of the org"),
        ("code" = String, Path, description = "Code of the coupon"),
        IdempotencyKey
    ),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "The org does not have it any more"), CommandErrors)
)]
pub(crate) async fn delete_coupon(
    BodilessCommand(command): BodilessCommand,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, code) = path.into_inner();
    let (name, directory) = (OrgName::of_any(id, "id"), command.directory());
    command
        .run(move |conn, now| {
            let org = name.find(&directory, conn)?;
            coupons::remove(conn, org.org_id, &code, now)?;
            let audit = audit(&org, "org.delete_coupon", &org.public_id, json!({ "coupon": code }));
            Ok(Answer::done(audit))
        })
        .await
}
