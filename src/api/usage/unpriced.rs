//! `/v1/usage/unpriced`, `/v1/meters/{key}/rate_usage`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::api::quotas::limits::own;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::unpriced::{self, Position, UnpricedFilter, UnpricedUsage};
use crate::page::{Page, PageQuery};
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

/// Lists usage that no rate of its meter fits, such as that of a new model: it is recorded, and costs nothing
/// until it is priced.
#[utoipa::path(
    get, path = "/v1/usage/unpriced", tag = "usage", params(UnpricedQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<UnpricedUsage>), FindErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (query, page): (UnpricedQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<Position>("unpriced_usage")?);
    let (shared, caller) = (app.clone(), principal.clone());
    let rows = app
        .db
        .run(principal.rows, move |conn| {
            let org_id = match query.org.clone() {
                Some(org) => {
                    Some(OrgName::must(&caller, Some(org), "org")?.find(&shared.directory, conn)?.org_id)
                }
                None => own(caller.rows),
            };
            unpriced::list(
                conn,
                &UnpricedFilter { org_id, meter: query.meter.clone() },
                after.as_ref(),
                limit + 1,
            )
        })
        .await?;
    Ok(HttpResponse::Ok().json(Page::of("unpriced_usage", rows, limit, UnpricedUsage::position)?))
}

/// Which usage is to be priced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateUsage {
    /// Only of this org, by public or external id; one org after the other when left out.
    #[serde(default, deserialize_with = "crate::json::not_null")]
    #[schema(nullable = false)]
    org: Option<String>,
    /// Only usage that occurred at or after.
    #[serde(default)]
    from: Option<Moment>,
    /// Only usage that occurred before.
    #[serde(default)]
    to: Option<Moment>,
    /// Why, for whoever asks later.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
}

/// Prices usage that had no price when it came, by the rate cards that there are now.
///
/// Usage that no rate fitted, or that came before the meter had a card, gets the price of its time, in the
/// tiers of its month; what has a price keeps it. Each event is taken back and put in its place again, and in
/// a closed month the cost is posted to the open one. A thousand events of one org at most: ask again while
/// the answer says `more`.
#[utoipa::path(
    post, path = "/v1/meters/{key}/rate_usage", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = RateUsage,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "What was priced", body = Rated), FindErrors, CommandErrors)
)]
pub async fn rate_usage(
    app: web::Data<App>,
    principal: Principal,
    key: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let asked: RateUsage = commands::parse(&body.0)?;
    crate::api::usage::correct::check("reason", &asked.reason, 500)?;
    let (catalog, directory, series) =
        (Arc::clone(&app.catalog), Arc::clone(&app.directory), Arc::clone(&app.usage.series));
    let org = asked.org.map(|org| OrgName::must(&principal, Some(org), "org")).transpose()?;
    let actor = format!("key:{}", principal.key_id);
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
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
        let rated = late_pricing::price_late(conn, (&catalog, &series, &directory), &later, now)?;
        let detail = serde_json::to_value(&rated).map_err(|error| Error::Internal(error.to_string()))?;
        let audit = Audit { org_id: PLATFORM, action: "usage.rate", target: key.clone(), detail };
        Answer::new(StatusCode::OK, &rated, audit)
    })
    .await
}
