//! `/v1/quotas` and `/v1/plans/{id}/quotas`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::billing::plans;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::periods::Back;
use crate::page::{Page, PageQuery};
use crate::quota::history::{self, HistoryCursor, PeriodUsage};
use crate::quota::new_limit::{NewLimit, plan_limits};
use crate::quota::plan_quotas::{self, PlanQuota};
use crate::quota::quotas::{self, Quota, QuotaFilter, QuotaPatch};

/// Narrows the list of quotas.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those of this org, by public or external id.
    org: Option<String>,
    /// Only those on this meter.
    meter: Option<String>,
}

/// Lists quotas of orgs by id. Limits that come from a plan are under `/v1/plans/{id}/quotas`.
#[utoipa::path(
    get, path = "/v1/quotas", tag = "quotas", params(ListQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Quota>), FindErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (query, page): (ListQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<String>("quotas")?);
    let org = OrgName::of(&principal, query.org, "org")?;
    let rows = app.db.run(principal.rows, move |conn| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        let filter = QuotaFilter { id: None, org_id, meter: query.meter.clone(), after: after.clone() };
        quotas::list(conn, &filter, limit + 1)
    });
    let rows: Vec<Quota> = rows.await?.into_iter().map(|(_, quota)| quota).collect();
    Ok(HttpResponse::Ok().json(Page::of("quotas", rows, limit, |quota| quota.id.clone())?))
}

/// Makes a quota. What it counts is filled in from the usage of the running period.
#[utoipa::path(
    post, path = "/v1/quotas", tag = "quotas", params(IdempotencyKey), request_body = NewLimit,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The quota", body = Quota), CommandErrors)
)]
pub async fn create(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (org, counted, terms) = commands::parse::<NewLimit>(&body.0)?.split()?;
    let org = org.ok_or_else(|| Error::invalid("org", "must name an org by its public or external id"))?;
    let (org, directory) = (OrgName::of_any(org, "org"), Arc::clone(&app.directory));
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let org_id = org.row_id(conn)?;
        let id = quotas::create(conn, &directory, org_id, &counted, &terms, now)?;
        let (_, quota) = quotas::find(conn, &id, Some(org_id))?;
        let audit = Audit { org_id, action: "quota.create", target: id, detail: json!(quota) };
        Answer::new(StatusCode::CREATED, &quota, audit)
    })
    .await
}

/// Shows a quota.
#[utoipa::path(
    get, path = "/v1/quotas/{id}", tag = "quotas", params(("id" = String, Path, description = "`quo_…`")),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "The quota", body = Quota), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (id, own) = (id.into_inner(), own(principal.rows));
    let quota = app.db.run(principal.rows, move |conn| quotas::find(conn, &id, own)).await?.1;
    Ok(HttpResponse::Ok().json(quota))
}

/// The org that a key is kept to.
pub(crate) fn own(rows: RowScope) -> Option<i64> {
    match rows {
        RowScope::Platform => None,
        RowScope::Org(org_id) => Some(org_id),
    }
}

/// Changes a quota. It holds at once; what was counted stays.
#[utoipa::path(
    patch, path = "/v1/quotas/{id}", tag = "quotas",
    params(("id" = String, Path, description = "`quo_…`"), IdempotencyKey),
    request_body = QuotaPatch, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The quota as it is now", body = Quota), CommandErrors)
)]
pub async fn update(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (id, patch): (String, QuotaPatch) = (id.into_inner(), commands::parse(&body.0)?);
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let (org_id, quota) = quotas::update(conn, &id, &patch, now)?;
        let audit = Audit { org_id, action: "quota.update", target: id.clone(), detail: json!(quota) };
        Answer::new(StatusCode::OK, &quota, audit)
    })
    .await
}

/// Takes a quota away: its plan's limit holds again, if there is one. Counting goes on.
#[utoipa::path(
    delete, path = "/v1/quotas/{id}", tag = "quotas",
    params(("id" = String, Path, description = "`quo_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub async fn delete(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let id = id.into_inner();
    commands::run(&app, &principal, &request, &[], move |conn, _| {
        let org_id = quotas::delete(conn, &id)?;
        let audit = Audit { org_id, action: "quota.delete", target: id.clone(), detail: json!({}) };
        Answer::new(StatusCode::NO_CONTENT, &(), audit)
    })
    .await
}

/// Narrows a history.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// Only this subject.
    subject: Option<String>,
}

/// What was used in each period, newest first, the running one included, as far back as the retention goes.
/// Of the time before the quota was made, too: 400 days, of single subjects 7.
#[utoipa::path(
    get, path = "/v1/quotas/{id}/history", tag = "quotas", security(("key" = ["usage:read"])),
    params(("id" = String, Path, description = "`quo_…`"), HistoryQuery, PageQuery),
    responses((status = 200, description = "A page", body = Page<PeriodUsage>), FindErrors)
)]
pub async fn history(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (query, page): (HistoryQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<HistoryCursor>("quota_history")?);
    let (id, own, directory) = (id.into_inner(), own(principal.rows), Arc::clone(&app.directory));
    let (config, now) = (&app.config, app.clock.now());
    let kept = Back { org: config.quota_retention_days, subject: config.quota_subject_retention_days };
    let rows = app.db.run(principal.rows, move |conn| {
        let (subject, page) = (query.subject.as_deref(), (after.clone(), limit + 1));
        history::history(conn, &directory, (&id, own), subject, page, (kept, now))
    });
    let key = |row: &PeriodUsage| row.cursor.clone();
    Ok(HttpResponse::Ok().json(Page::of("quota_history", rows.await?, limit, key)?))
}

/// A plan's quotas as they are put: the whole list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanQuotasBody {
    /// At most 100.
    #[schema(max_items = 100)]
    pub quotas: Vec<NewLimit>,
}

/// A plan's quotas.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanQuotas {
    /// All of them.
    pub quotas: Vec<PlanQuota>,
}

/// Puts the whole list of quotas of a plan's newest version, in place: they hold at once for every org on
/// that version that has no quota of its own on the same. Whoever bought an earlier version keeps what that
/// has. To leave everybody what they bought, put the plan with its `quotas` instead, which makes a new
/// version.
#[utoipa::path(
    put, path = "/v1/plans/{id}/quotas", tag = "quotas",
    params(("id" = String, Path, description = "Key of the plan"), IdempotencyKey),
    request_body = PlanQuotasBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The list as it is now", body = PlanQuotas), CommandErrors)
)]
pub async fn put_plan(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (id, sent): (String, PlanQuotasBody) = (id.into_inner(), commands::parse(&body.0)?);
    let list = plan_limits(sent.quotas)?;
    let directory = Arc::clone(&app.directory);
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        catalog::begin_change(conn)?;
        let version = plans::newest_version(conn, &id)?;
        plan_quotas::put(conn, &directory, (&id, version), &list, now)?;
        let quotas = PlanQuotas { quotas: plan_quotas::list(conn, &id, version)? };
        let detail = json!({ "version": version, "quotas": quotas.quotas });
        let audit = Audit { org_id: PLATFORM, action: "plan.put_quotas", target: id.clone(), detail };
        Answer::new(StatusCode::OK, &quotas, audit)
    })
    .await
}

/// Shows the quotas of a plan's newest version.
#[utoipa::path(
    get, path = "/v1/plans/{id}/quotas", tag = "quotas",
    params(("id" = String, Path, description = "Key of the plan")),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "All of them", body = PlanQuotas), FindErrors)
)]
pub async fn show_plan(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let id = id.into_inner();
    let quotas = app.db.run(principal.rows, move |conn| {
        let version = plans::newest_version(conn, &id)?;
        plan_quotas::list(conn, &id, version)
    });
    let quotas = quotas.await?;
    Ok(HttpResponse::Ok().json(PlanQuotas { quotas }))
}
