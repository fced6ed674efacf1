//! `/v1/plans`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::acting_realms;
use crate::billing::plans::{self, Plan, PlanVersion};
use crate::error::Error;
use crate::page::{Page, PageQuery};
use crate::plans::body::PlanBody;
use crate::plans::diff::PlanChange;
use crate::plans::import;
use crate::quota::plan_quotas::{self, PlanQuota};
use crate::realm::Realm;

/// Narrows the list of plans.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only plans that are (true) or are no longer (false) offered.
    active: Option<bool>,
}

/// A plan with the quotas of its newest version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanView {
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// Quotas of its newest version.
    pub quotas: Vec<PlanQuota>,
}

/// A version of a plan with its quotas.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// The version.
    #[serde(flatten)]
    pub version: PlanVersion,
    /// Its quotas.
    pub quotas: Vec<PlanQuota>,
}

/// All versions of a plan.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Versions {
    /// Newest first.
    pub versions: Vec<VersionView>,
}

fn view(conn: &mut PgConnection, id: &str) -> Result<PlanView, Error> {
    let plan = plans::find(conn, id)?;
    let quotas = plan_quotas::list(conn, id, plan.version)?;
    Ok(PlanView { plan, quotas })
}

/// Lists plans by id, each with the terms of its newest version.
#[utoipa::path(
    get, path = "/v1/plans", tag = "plans", params(ListQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Plan>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (ListQuery { active }, page) = (read.take()?, read.take_page::<String>("plans")?);
    let key = |plan: &Plan| plan.id.clone();
    read.list(page, key, move |conn, page| plans::list(conn, active, page.after.as_deref(), page.to_fetch()))
        .await
}

/// Shows a plan with the terms and quotas of its newest version.
#[utoipa::path(
    get, path = "/v1/plans/{id}", tag = "plans",
    params(("id" = String, Path, description = "Key of the plan")), security(("key" = ["billing:read"])),
    responses((status = 200, description = "The plan", body = PlanView), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    read.show(move |conn| view(conn, &id)).await
}

/// Shows every version of a plan, newest first.
#[utoipa::path(
    get, path = "/v1/plans/{id}/versions", tag = "plans",
    params(("id" = String, Path, description = "Key of the plan")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "All of them", body = Versions), FindErrors)
)]
pub(crate) async fn versions(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    read.show(move |conn| {
        let found = plans::versions(conn, &id)?;
        let with_quotas = |version: PlanVersion| {
            let quotas = plan_quotas::list(conn, &id, version.version)?;
            Ok(VersionView { version, quotas })
        };
        let versions = found.into_iter().map(with_quotas).collect::<Result<_, Error>>()?;
        Ok(Versions { versions })
    })
    .await
}

/// Makes a plan or replaces it, with the Stripe prices and products that buy it.
///
/// Where terms or quotas differ from those of the newest version, a new version is made. Subscriptions keep
/// the version that they bought until they are moved.
#[utoipa::path(
    put, path = "/v1/plans/{id}", tag = "plans",
    params(("id" = String, Path, description = "Key of the plan: a-z, 0-9, `-`, `_`, `.`"), IdempotencyKey),
    request_body = PlanBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The plan as it is now", body = PlanView), CommandErrors)
)]
pub(crate) async fn put(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, plan): (String, PlanBody) = (id.into_inner(), command.read()?);
    let (definition, directory) = (plan.into_definition(&id)?, command.directory());
    command
        .run(move |conn, now| {
            let detail = json!({ "change": crate::plans::put(conn, &directory, &definition, now)? });
            let audit = AuditEntry { org_id: PLATFORM, action: "plan.put", target: id.clone(), detail };
            Answer::new(StatusCode::OK, &view(conn, &id)?, audit)
        })
        .await
}

/// From which version to which.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MovePlan)]
pub struct MoveBody {
    /// Version that the subscriptions have.
    #[schema(minimum = 1, maximum = 2147483647)]
    pub from: i32,
    /// Version that they get.
    #[schema(minimum = 1, maximum = 2147483647)]
    pub to: i32,
}

/// The number of moved subscriptions.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Moved {
    /// Subscriptions.
    pub moved: usize,
}

/// Moves all subscriptions from one version of a plan to another, except those that have ended.
#[utoipa::path(
    post, path = "/v1/plans/{id}/move", tag = "plans",
    params(("id" = String, Path, description = "Key of the plan"), IdempotencyKey),
    request_body = MoveBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "Done", body = Moved), CommandErrors)
)]
pub(crate) async fn move_all(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, sent): (String, MoveBody) = (id.into_inner(), command.read()?);
    command
        .run(move |conn, now| {
            let moved = crate::plans::move_all(conn, &id, (sent.from, sent.to), now)?;
            let detail = json!({ "from": sent.from, "to": sent.to, "moved": moved });
            let audit = AuditEntry { org_id: PLATFORM, action: "plan.move", target: id.clone(), detail };
            Answer::new(StatusCode::OK, &Moved { moved }, audit)
        })
        .await
}

/// Which products to import.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// True for products of live mode, false for those of test mode; those of the mode that acts when left
    /// out.
    #[serde(default)]
    pub livemode: Option<bool>,
    /// Connected account of the products; our own when left out.
    #[serde(default)]
    pub account: String,
    /// Only answer what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an import changed, or would change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Imported {
    /// True when the changes were made; false for a dry run.
    pub applied: bool,
    /// Plans that differ; none: nothing to do.
    pub changes: Vec<PlanChange>,
}

/// Makes or changes plans from Stripe products whose metadata has `coulomb_plan`, the key of the plan.
///
/// The other keys of the metadata: `battery_units`, `annual_battery_units`, `trial_battery_units`,
/// `daily_battery`, `battery_debt_limit`, `trial_days` and `feature_<name>`. What a product does not say
/// stays as it is. Amounts are those of its active monthly and yearly prices.
#[utoipa::path(
    post, path = "/v1/plans/import", tag = "plans", params(IdempotencyKey), request_body = Option<ImportBody>,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "What was, or would be, done", body = Imported), CommandErrors)
)]
pub(crate) async fn import(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: ImportBody = command.read_optional()?;
    let directory = command.directory();
    command
        .run(move |conn, now| {
            let livemode = sent
                .livemode
                .map_or_else(|| acting_realms::load(conn).map(|acting| acting.livemode()), Ok)?;
            let realm = Realm { account: sent.account.clone(), livemode };
            let (definitions, problems) = import::read(conn, &realm)?;
            if let Some(problem) = problems.into_iter().next() {
                return Err(problem.into());
            }
            let changes = if sent.dry_run {
                crate::plans::changes(conn, &definitions)?
            } else {
                crate::plans::apply(conn, &directory, &definitions, now)?
            };
            let detail = json!({ "livemode": livemode, "account": sent.account, "dry_run": sent.dry_run,
            "changes": changes });
            let audit =
                AuditEntry { org_id: PLATFORM, action: "plans.import", target: String::new(), detail };
            Answer::new(StatusCode::OK, &Imported { applied: !sent.dry_run, changes }, audit)
        })
        .await
}
