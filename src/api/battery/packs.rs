//! `/v1/battery/packs`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::battery::packs::{self, Pack, PackBody};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Narrows the list of packs.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only packs that are (true) or are no longer (false) offered.
    active: Option<bool>,
}

/// Lists packs by id.
#[utoipa::path(
    get, path = "/v1/battery/packs", tag = "battery", params(ListQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Pack>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (ListQuery { active }, page) = (read.take()?, read.take_page::<String>("battery_packs")?);
    let key = |pack: &Pack| pack.id.clone();
    read.list(page, key, move |conn, page| packs::list(conn, active, page.after.as_deref(), page.to_fetch()))
        .await
}

/// Shows a pack.
#[utoipa::path(
    get, path = "/v1/battery/packs/{id}", tag = "battery",
    params(("id" = String, Path, description = "Key of the pack")), security(("key" = ["billing:read"])),
    responses((status = 200, description = "The pack", body = Pack), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    read.show(move |conn| packs::find(conn, &id)).await
}

/// Makes a pack or replaces it, with the Stripe prices and payment links that buy it.
///
/// Earlier grants stay as they are. Payments that waited for this pack are granted now.
#[utoipa::path(
    put, path = "/v1/battery/packs/{id}", tag = "battery",
    params(("id" = String, Path, description = "Key of the pack: a-z, 0-9, `-`, `_`, `.`"), IdempotencyKey),
    request_body = PackBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The pack as it is now", body = Pack), CommandErrors)
)]
pub(crate) async fn put(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, pack): (String, PackBody) = (id.into_inner(), command.read()?);
    command
        .run_and_wake(move |conn, now| {
            packs::put(conn, &id, &pack, now)?;
            let detail = json!({ "name": pack.name, "units": pack.units, "stripe_prices": pack.stripe_prices,
            "payment_links": pack.payment_links });
            let audit =
                AuditEntry { org_id: PLATFORM, action: "battery_pack.put", target: id.clone(), detail };
            Answer::new(StatusCode::OK, &packs::find(conn, &id)?, audit)
        })
        .await
}
