//! `/v1/battery/packs`.

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
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let (query, page): (ListQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<String>("battery_packs")?);
    let rows = app
        .db
        .run(principal.rows, move |conn| packs::list(conn, query.active, after.as_deref(), limit + 1))
        .await?;
    Ok(HttpResponse::Ok().json(Page::of("battery_packs", rows, limit, |pack| pack.id.clone())?))
}

/// Shows a pack.
#[utoipa::path(
    get, path = "/v1/battery/packs/{id}", tag = "battery",
    params(("id" = String, Path, description = "Key of the pack")), security(("key" = ["billing:read"])),
    responses((status = 200, description = "The pack", body = Pack), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let id = id.into_inner();
    Ok(HttpResponse::Ok().json(app.db.run(principal.rows, move |conn| packs::find(conn, &id)).await?))
}

/// Makes a pack or replaces it, with the Stripe prices and payment links that buy it.
///
/// What was granted before stays as it is. Payments that waited for the pack are granted now.
#[utoipa::path(
    put, path = "/v1/battery/packs/{id}", tag = "battery",
    params(("id" = String, Path, description = "Key of the pack: a-z, 0-9, `-`, `_`, `.`"), IdempotencyKey),
    request_body = PackBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The pack as it is now", body = Pack), CommandErrors)
)]
pub async fn put(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (id, pack): (String, PackBody) = (id.into_inner(), commands::parse(&body.0)?);
    let done = commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        packs::put(conn, &id, &pack, now)?;
        let detail = json!({ "name": pack.name, "units": pack.units, "stripe_prices": pack.stripe_prices,
            "payment_links": pack.payment_links });
        let audit = Audit { org_id: PLATFORM, action: "battery_pack.put", target: id.clone(), detail };
        Answer::new(StatusCode::OK, &packs::find(conn, &id)?, audit)
    });
    let answer = done.await?;
    app.wake.all();
    Ok(answer)
}
