//! `/v1/quotas` and `/v1/plans/{id}/quotas`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::org_name::OrgName;
use crate::billing::plans;
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::periods::CountedDays;
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

/// Lists quotas of orgs by id. Quotas of plans are under `/v1/plans/{id}/quotas`.
#[utoipa::path(
    get, path = "/v1/quotas", tag = "quotas", params(ListQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Quota>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (query, page): (ListQuery, _) = (read.take()?, read.take_page::<String>("quotas")?);
    let org = OrgName::of(&read.principal, query.org, "org")?;
    let key = |quota: &Quota| quota.id.clone();
    read.list(page, key, move |conn, page| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        let (meter, after) = (query.meter.clone(), page.after.clone());
        let found = quotas::list(conn, &QuotaFilter { id: None, org_id, meter, after }, page.to_fetch())?;
        Ok(found.into_iter().map(|(_, quota)| quota).collect())
    })
    .await
}

/// Makes a quota. Its counter starts with the usage of the current period.
#[utoipa::path(
    post, path = "/v1/quotas", tag = "quotas", params(IdempotencyKey), request_body = NewLimit,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The quota", body = Quota), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (org, counted, terms) = command.read::<NewLimit>()?.split()?;
    let org = org.ok_or_else(|| Error::invalid("org", "must name an org by its public or external id"))?;
    let (org, directory) = (OrgName::of_any(org, "org"), command.directory());
    command
        .run(move |conn, now| {
            let org_id = org.row_id(conn)?;
            let id = quotas::create(conn, &directory, org_id, &counted, &terms, now)?;
            let (_, quota) = quotas::find(conn, &id, Some(org_id))?;
            let audit = AuditEntry { org_id, action: "quota.create", target: id, detail: json!(quota) };
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
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let own = read.principal.own_org_id();
    read.show(move |conn| Ok(quotas::find(conn, &id, own)?.1)).await
}

/// Changes a quota. The change holds at once; the counters stay.
#[utoipa::path(
    patch, path = "/v1/quotas/{id}", tag = "quotas",
    params(("id" = String, Path, description = "`quo_…`"), IdempotencyKey),
    request_body = QuotaPatch, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The quota as it is now", body = Quota), CommandErrors)
)]
pub(crate) async fn update(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, patch): (String, QuotaPatch) = (id.into_inner(), command.read()?);
    command
        .run(move |conn, now| {
            let (org_id, quota) = quotas::update(conn, &id, &patch, now)?;
            let audit =
                AuditEntry { org_id, action: "quota.update", target: id.clone(), detail: json!(quota) };
            Answer::new(StatusCode::OK, &quota, audit)
        })
        .await
}

/// Removes a quota: the limit of the org's plan holds again, if there is one. Counting goes on.
#[utoipa::path(
    delete, path = "/v1/quotas/{id}", tag = "quotas",
    params(("id" = String, Path, description = "`quo_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub(crate) async fn delete(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let id = id.into_inner();
    command
        .run(move |conn, _| {
            let org_id = quotas::delete(conn, &id)?;
            let audit = AuditEntry { org_id, action: "quota.delete", target: id.clone(), detail: json!({}) };
            Ok(Answer::done(audit))
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

/// Shows the usage of each period, newest first, the current one included.
///
/// It goes back as far as the retention; before the quota was made 400 days, for single subjects 7.
#[utoipa::path(
    get, path = "/v1/quotas/{id}/history", tag = "quotas", security(("key" = ["usage:read"])),
    params(("id" = String, Path, description = "`quo_…`"), HistoryQuery, PageQuery),
    responses((status = 200, description = "A page", body = Page<PeriodUsage>), FindErrors)
)]
pub(crate) async fn history(mut read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (query, page): (HistoryQuery, _) = (read.take()?, read.take_page::<HistoryCursor>("quota_history")?);
    let (own, directory) = (read.principal.own_org_id(), read.directory());
    let (config, now) = (&read.app.config, read.app.clock.now());
    let kept = CountedDays { org: config.quota_retention_days, subject: config.quota_subject_retention_days };
    let key = |row: &PeriodUsage| row.cursor.clone();
    read.list(page, key, move |conn, page| {
        let (subject, page) = (query.subject.as_deref(), (page.after.clone(), page.to_fetch()));
        history::history(conn, &directory, (&id, own), subject, page, (kept, now))
    })
    .await
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

/// Replaces the quotas of a plan's newest version in place.
///
/// They hold at once for every org on that version, unless the org has a quota of its own on the same. Orgs
/// on earlier versions keep the quotas of those. To keep the quotas that everybody bought, put the plan with
/// its `quotas` instead: that makes a new version.
#[utoipa::path(
    put, path = "/v1/plans/{id}/quotas", tag = "quotas",
    params(("id" = String, Path, description = "Key of the plan"), IdempotencyKey),
    request_body = PlanQuotasBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The list as it is now", body = PlanQuotas), CommandErrors)
)]
pub(crate) async fn put_plan(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, sent): (String, PlanQuotasBody) = (id.into_inner(), command.read()?);
    let list = plan_limits(sent.quotas)?;
    let directory = command.directory();
    command
        .run(move |conn, now| {
            catalog::begin_change(conn)?;
            let version = plans::newest_version(conn, &id)?;
            plan_quotas::put(conn, &directory, (&id, version), &list, now)?;
            let quotas = PlanQuotas { quotas: plan_quotas::list(conn, &id, version)? };
            let detail = json!({ "version": version, "quotas": quotas.quotas });
            let audit =
                AuditEntry { org_id: PLATFORM, action: "plan.put_quotas", target: id.clone(), detail };
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
pub(crate) async fn show_plan(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    read.show(move |conn| {
        let version = plans::newest_version(conn, &id)?;
        Ok(PlanQuotas { quotas: plan_quotas::list(conn, &id, version)? })
    })
    .await
}
