//! `/v1/meters/{key}/rate_cards`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::meters;
use super::rates::{self, NewRateCard, RateCard};
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::commands::{self, Answer, Audit};
use crate::error::Error;
use crate::http::Body;
use crate::openapi::{CommandErrors, FindErrors, IdempotencyKey};
use crate::page::{Page, PageQuery};
use crate::params::Params;

/// Lists the rate cards of a meter, the newest first.
///
/// Of the cards valid at an event's time the one that starts last counts, of those the newest version.
#[utoipa::path(
    get, path = "/v1/meters/{key}/rate_cards", tag = "meters", params(("key" = String, Path, description = "Key of the meter"), PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<RateCard>), FindErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    key: web::Path<String>,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let page: PageQuery = params.take()?;
    params.done()?;
    let (limit, before) = (page.limit()?, page.after::<i32>("rate_cards")?);
    let rows = app
        .db
        .run(principal.rows, move |conn| {
            let meter = meters::find(conn, &key)?;
            rates::list(conn, meter.meter_id, before, limit + 1)
        })
        .await?;
    Ok(HttpResponse::Ok().json(Page::of("rate_cards", rows, limit, |card| card.version)?))
}

/// Makes a rate card for a meter.
///
/// A card never changes; another takes its place from its `valid_from` on. Usage is priced when it comes and
/// keeps its price, so a backdated card prices only what comes later for that time, and, by `POST
/// /v1/meters/{key}/rate_usage`, what has had no price. Tiers are counted by the org's month, whichever card
/// priced it: a card that begins in the middle of a month goes on where the month stands.
#[utoipa::path(
    post, path = "/v1/meters/{key}/rate_cards", tag = "meters", params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = NewRateCard, security(("key" = ["billing:write"])),
    responses((status = 201, description = "The card", body = RateCard), CommandErrors)
)]
pub async fn create(
    app: web::Data<App>,
    principal: Principal,
    key: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let new: NewRateCard = commands::parse(&body.0)?;
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let card = rates::create(conn, &key, &new, now)?;
        let detail = json!({
            "version": card.version, "valid_from": card.valid_from, "currency": card.currency, "rates": card.rates,
        });
        let audit = Audit { org_id: PLATFORM, action: "rate_card.create", target: key.clone(), detail };
        Answer::new(StatusCode::CREATED, &card, audit)
    })
    .await
}
