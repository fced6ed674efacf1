//! `/v1/usage/unpriced`, `/v1/meters/{key}/rate_usage`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::unpriced::{self, Position, UnpricedFilter, UnpricedUsage};
use crate::page::{Page, PageQuery};
use crate::text::check_line;
use crate::time::Moment;
use crate::usage::correct::late_pricing::{self, LatePricing, Rated};

/// Narrows the list of unpriced usage.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UnpricedQuery {
    /// Only of this org, by public or external id.
    org: Option<String>,
    /// Only of the meter with this key.
    meter: Option<String>,
}

/// Lists usage that no rate of its meter fits, such as that of a new model.
///
/// It is recorded, and costs nothing until it is priced.
#[utoipa::path(
    get, path = "/v1/usage/unpriced", tag = "usage", params(UnpricedQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<UnpricedUsage>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (query, page): (UnpricedQuery, _) = (read.take()?, read.take_page::<Position>("unpriced_usage")?);
    let (org, directory) = (OrgName::of(&read.principal, query.org, "org")?, read.directory());
    read.list(page, UnpricedUsage::position, move |conn, page| {
        let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
        let filter = UnpricedFilter { org_id: org.map(|org| org.org_id), meter: query.meter.clone() };
        unpriced::list(conn, &filter, page.after.as_ref(), page.to_fetch())
    })
    .await
}

/// The usage to price.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateUsage {
    /// Only of this org, by public or external id; all orgs, one after the other, when left out.
    #[serde(default, deserialize_with = "crate::json::not_null")]
    #[schema(nullable = false)]
    org: Option<String>,
    /// Only usage that occurred at or after.
    #[serde(default)]
    from: Option<Moment>,
    /// Only usage that occurred before.
    #[serde(default)]
    to: Option<Moment>,
    /// The reason, for people.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
}

/// Prices usage that had no price when it came, by the current rate cards.
///
/// Usage that no rate fitted, or that came before the meter had a card, gets the price of its time, in the
/// tiers of its month. Usage with a price keeps it. Each event is taken back and replaced; in a closed month
/// the cost is posted to the open one. One request prices at most a thousand events of one org: repeat it
/// while the answer says `more`.
#[utoipa::path(
    post, path = "/v1/meters/{key}/rate_usage", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = RateUsage,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "What was priced", body = Rated), FindErrors, CommandErrors)
)]
pub(crate) async fn rate_usage(command: Command, key: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let asked: RateUsage = command.read()?;
    check_line("reason", &asked.reason, 500)?;
    let (rules, directory, series) =
        (Arc::clone(&command.app.rules), command.directory(), Arc::clone(&command.app.usage.series));
    let org = asked.org.map(|org| OrgName::must(&command.principal, Some(org), "org")).transpose()?;
    let actor = command.actor();
    command
        .run(move |conn, now| {
            let org_id = match &org {
                Some(org) => Some(org.find(&directory, conn)?.org_id),
                None => None,
            };
            let later = LatePricing {
                meter: &key,
                org_id,
                from: asked.from.map(|at| at.0),
                before: asked.to.map(|at| at.0),
                reason: &asked.reason,
                actor: &actor,
            };
            let rated = late_pricing::price_late(conn, (&rules, &series, &directory), &later, now)?;
            let detail = crate::json::to_tree(&rated)?;
            let audit = AuditEntry { org_id: PLATFORM, action: "usage.rate", target: key.clone(), detail };
            Answer::new(StatusCode::OK, &rated, audit)
        })
        .await
}
