//! `/v1/meters/{key}/rate_cards`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::meters;
use crate::metering::rates::{self, CardFilter, NewRateCard, RateCard};
use crate::page::{Page, PageQuery};

/// Narrows the list of rate cards.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CardsQuery {
    /// Only those for orgs with this plan.
    pub plan: Option<String>,
    /// Only those for this org, by public or external id.
    pub org: Option<String>,
}

/// Lists the rate cards of a meter, newest first: its own, and those of plans and orgs.
///
/// Usage is priced by the first of these that has a rate for it: the card of its org, the card of the plan
/// that the org had then, the meter's card. Where several of these are valid at the time of the usage, the
/// one with the latest `valid_from` counts, and of equal ones the newest version.
#[utoipa::path(
    get, path = "/v1/meters/{key}/rate_cards", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), CardsQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<RateCard>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest, key: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (asked, page): (CardsQuery, _) = (read.take()?, read.take_page::<i32>("rate_cards")?);
    let org = asked.org.map(|name| OrgName::of_any(name, "org").within(&read.principal)).transpose()?;
    let version = |card: &RateCard| card.version;
    read.list(page, version, move |conn, page| {
        let meter = meters::find(conn, &key)?;
        let filter = CardFilter::new(conn, asked.plan.as_deref(), org.as_ref())?;
        rates::list(conn, meter.meter_id, &CardFilter { before: page.after, ..filter }, page.to_fetch())
    })
    .await
}

/// Makes a rate card for a meter: for all usage, for orgs with a plan, or for one org.
///
/// A card never changes; a new card replaces it from its `valid_from` on. Usage is priced when it comes and
/// keeps its price. So a backdated card prices only usage of that time that comes later, and, by `POST
/// /v1/meters/{key}/rate_usage`, usage that had no price. Tiers are counted by the org's month, whichever
/// card priced it: a card that begins within a month continues at the tier that the month has reached.
#[utoipa::path(
    post, path = "/v1/meters/{key}/rate_cards", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = NewRateCard, security(("key" = ["billing:write"])),
    responses((status = 201, description = "The card", body = RateCard), CommandErrors)
)]
pub(crate) async fn create(command: Command, key: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let new: NewRateCard = command.read()?;
    command
        .run(move |conn, now| {
            let card = rates::create(conn, &key, &new, now)?;
            let detail = json!(card);
            let audit =
                AuditEntry { org_id: PLATFORM, action: "rate_card.create", target: key.clone(), detail };
            Answer::new(StatusCode::CREATED, &card, audit)
        })
        .await
}
