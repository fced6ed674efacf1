//! `/v1/meters/{key}/rate_cards`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::meters;
use crate::metering::rates::{self, CardFilter, NewRateCard, RateCard};
use crate::page::{Page, PageQuery};

/// Which rate cards.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CardsQuery {
    /// Only those for orgs with this plan.
    pub plan: Option<String>,
    /// Only those for this org, by public or external id.
    pub org: Option<String>,
}

/// Lists the rate cards of a meter, the newest first: its own, those of plans and of orgs.
///
/// Usage is priced by the first of these that has a rate for it: the card of its org, of the plan that the
/// org had then, of the meter. Of one of them the card counts that starts last of those valid at the time of
/// the usage, of those the newest version.
#[utoipa::path(
    get, path = "/v1/meters/{key}/rate_cards", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), CardsQuery, PageQuery),
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
    let (asked, page): (CardsQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, before) = (page.limit()?, page.after::<i32>("rate_cards")?);
    let org = asked.org.map(|name| OrgName::of_any(name, "org").within(&principal)).transpose()?;
    let rows = app
        .db
        .run(principal.rows, move |conn| {
            let meter = meters::find(conn, &key)?;
            let filter = CardFilter::new(conn, asked.plan.as_deref(), org.as_ref())?;
            let filter = CardFilter { before_version: before, ..filter };
            rates::list(conn, meter.meter_id, &filter, limit + 1)
        })
        .await?;
    Ok(HttpResponse::Ok().json(Page::of("rate_cards", rows, limit, |card| card.version)?))
}

/// Makes a rate card for a meter: for everybody's usage, for orgs with a plan, or for one org.
///
/// A card never changes; another takes its place from its `valid_from` on. Usage is priced when it comes and
/// keeps its price, so a backdated card prices only what comes later for that time, and, by `POST
/// /v1/meters/{key}/rate_usage`, what has had no price. Tiers are counted by the org's month, whichever card
/// priced it: a card that begins in the middle of a month goes on where the month stands.
#[utoipa::path(
    post, path = "/v1/meters/{key}/rate_cards", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
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
        let detail = json!(card);
        let audit = Audit { org_id: PLATFORM, action: "rate_card.create", target: key.clone(), detail };
        Answer::new(StatusCode::CREATED, &card, audit)
    })
    .await
}
