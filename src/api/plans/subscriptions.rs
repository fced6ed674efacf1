//! `/v1/orgs/{id}/subscription` and `/v1/subscriptions/{id}/move`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::params::Params;
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::local_subscriptions::{
    self, Changed, Cursor, ImportedSubscription, LocalSubscription, Paid, Start,
};
use crate::billing::moves;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::invoicing::lines::InvoiceItem;
use crate::invoicing::plan_change::{self, NotProrated};
use crate::metering::catalog;
use crate::page::{Page, PageQuery};
use crate::plans::subscriptions;
use crate::realm::RealmSelector;
use crate::time::Moment;

/// How long a paid period lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// A month.
    Month,
    /// A year.
    Year,
}

/// A subscription to begin.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    /// Key of the plan; the subscription gets its newest version.
    pub plan: String,
    /// How long a paid period lasts; a month when left out.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// The same in months, in place of `interval`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 36)]
    pub interval_months: Option<i32>,
    /// Days of its trial; those of the plan when left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 730)]
    pub trial_days: Option<i32>,
    /// True when the first period is paid for, so that there is no trial.
    #[serde(default)]
    pub paid: bool,
    /// Gives a trial although the org had one of this plan before. Otherwise it gets one of each plan.
    #[serde(default)]
    pub force: bool,
}

impl StartBody {
    fn months(&self) -> Result<i32, Error> {
        match (self.interval, self.interval_months) {
            (Some(_), Some(_)) => {
                Err(Error::invalid("interval_months", "means the same as `interval`: leave one of them out"))
            }
            (_, Some(months)) => Ok(months),
            (Some(Interval::Year), None) => Ok(12),
            (Some(Interval::Month) | None, None) => Ok(1),
        }
    }

    fn start(&self) -> Result<Option<Start>, Error> {
        match (self.paid, self.trial_days) {
            (true, Some(_)) => {
                Err(Error::invalid("trial_days", "is not for what is paid: leave one of them out"))
            }
            (true, None) if self.force => {
                Err(Error::invalid("force", "is for trials: leave it out where it is paid"))
            }
            (true, None) => Ok(Some(Start::Paid)),
            (false, days) if self.force => Ok(Some(Start::ForcedTrial(days))),
            (false, days) => Ok(days.map(Start::Trial)),
        }
    }
}

/// The time that was paid for.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateBody {
    /// Number of intervals; 1 when left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 120)]
    pub periods: Option<u32>,
    /// End of the paid time, in place of `periods`.
    #[serde(default)]
    pub until: Option<Moment>,
}

/// How to cancel.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelBody {
    /// True: at the end of the paid time, or of the trial. False: now.
    pub at_period_end: bool,
}

/// The plan to change to.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeBody {
    /// Key of the plan; the subscription gets its newest version.
    pub plan: String,
}

/// Runs a command on an org's subscription.
async fn run<F>(
    command: Command,
    id: web::Path<String>,
    (action, detail): (&'static str, Value),
    work: F,
) -> Result<HttpResponse, Error>
where
    F: Fn(&mut PgConnection, i64, DateTime<Utc>) -> Result<Changed, Error> + Send + 'static,
{
    let org = OrgName::of_any(id.into_inner(), "id");
    let status = if action == "subscription.start" { StatusCode::CREATED } else { StatusCode::OK };
    let directory = command.directory();
    command
        .run(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let done = work(conn, org.org_id, now)?;
            let subscription = subscriptions::write_consequences(conn, &org, done, now)?;
            let (target, detail) = (subscription.id.clone(), detail.clone());
            Answer::new(status, &subscription, AuditEntry { org_id: org.org_id, action, target, detail })
        })
        .await
}

/// Begins a local subscription, for an org that does not pay through Stripe: with a trial, or paid.
///
/// A Stripe subscription that gives the org a plan comes before it.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/subscription", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = StartBody, security(("key" = ["billing:write"])),
    responses((status = 201, description = "The subscription", body = LocalSubscription), CommandErrors)
)]
pub(crate) async fn start(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: StartBody = command.read()?;
    let (months, start) = (sent.months()?, sent.start()?);
    let detail = json!({ "plan": sent.plan, "interval_months": months, "trial_days": sent.trial_days,
        "paid": sent.paid,
        "force": sent.force });
    let plan = sent.plan;
    let work = move |conn: &mut PgConnection, org_id, now| {
        local_subscriptions::start(conn, org_id, &plan, months, start, now)
    };
    run(command, id, ("subscription.start", detail), work).await
}

/// Says that a local subscription was paid for.
///
/// The current subscription continues from the end of its paid time (a trial from its end), and a planned
/// cancellation is taken back. If there is none, a new one begins now.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/subscription/activate", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = Option<ActivateBody>, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The subscription", body = LocalSubscription), CommandErrors)
)]
pub(crate) async fn activate(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: ActivateBody = command.read_optional()?;
    let paid = match (sent.periods, sent.until) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("until", "is in place of `periods`: leave one of them out"));
        }
        (periods, None) => Paid::Periods(periods.unwrap_or(1)),
        (None, Some(until)) => Paid::Until(until.0),
    };
    let detail = json!({ "periods": sent.periods, "until": sent.until });
    let work =
        move |conn: &mut PgConnection, org_id, now| local_subscriptions::activate(conn, org_id, paid, now);
    run(command, id, ("subscription.activate", detail), work).await
}

/// Cancels the current local subscription: now, or at the end of its paid time.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/subscription/cancel", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = CancelBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The subscription", body = LocalSubscription), CommandErrors)
)]
pub(crate) async fn cancel(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let CancelBody { at_period_end } = command.read()?;
    let work = move |conn: &mut PgConnection, org_id, now| {
        local_subscriptions::cancel(conn, org_id, at_period_end, now)
    };
    let detail = json!({ "at_period_end": at_period_end });
    run(command, id, ("subscription.cancel", detail), work).await
}

/// A subscription on its new plan, and what the change charges.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedPlan {
    /// The subscription.
    #[serde(flatten)]
    pub subscription: LocalSubscription,
    /// What is given back of the old plan and charged for the new one: items that wait for the next invoice.
    pub prorated: Vec<InvoiceItem>,
    /// Periods that were bought without an invoice, at a price that is not known: nothing is prorated.
    pub not_prorated: Vec<NotProrated>,
}

/// Moves the current local subscription to another plan, in its newest version. Its periods stay. What was
/// agreed for the old plan is prorated: also periods that are not paid yet, and those that were bought ahead.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/subscription/change", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = ChangeBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The subscription", body = ChangedPlan), CommandErrors)
)]
pub(crate) async fn change(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let ChangeBody { plan } = command.read()?;
    let detail = json!({ "plan": plan });
    let (org, directory) = (OrgName::of_any(id.into_inner(), "id"), command.directory());
    command
        .run(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let done = plan_change::change(conn, &org, &plan, now)?;
            let subscription = subscriptions::write_consequences(conn, &org, done.changed, now)?;
            let (action, target) = ("subscription.change", subscription.id.clone());
            let (prorated, not_prorated) = (done.prorated, done.not_prorated);
            let body = ChangedPlan { subscription, prorated, not_prorated };
            let entry = AuditEntry { org_id: org.org_id, action, target, detail: detail.clone() };
            Answer::new(StatusCode::OK, &body, entry)
        })
        .await
}

/// A subscription that another system kept.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportedSubscription)]
pub struct ImportBody {
    /// Key of the plan; it gets its newest version.
    pub plan: String,
    /// Months that a paid period lasts; 1 when left out.
    #[serde(default = "one_month")]
    #[schema(minimum = 1, maximum = 36)]
    pub interval_months: i32,
    /// When it began. An org has one subscription that began at an instant.
    pub started_at: Moment,
    /// End of its trial, past or to come: the org has used up its trial of the plan.
    #[serde(default)]
    pub trial_end: Option<Moment>,
    /// From when on its paid periods are counted; from the end of the trial or the beginning when left out.
    #[serde(default)]
    pub paid_from: Option<Moment>,
    /// Until when it is paid for. This or `trial_end`.
    #[serde(default)]
    pub paid_until: Option<Moment>,
    /// When it was cancelled, if that ended it before the paid time was over.
    #[serde(default)]
    pub cancelled_at: Option<Moment>,
    /// Whether it ends with the paid time.
    #[serde(default)]
    pub cancel_at_period_end: bool,
}

fn one_month() -> i32 {
    1
}

/// Imports a local subscription of another system, with its dates. One that began at the same instant is
/// there already and stays as it is (200).
#[utoipa::path(
    post, path = "/v1/orgs/{id}/subscription/import", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id"), IdempotencyKey),
    request_body = ImportBody, security(("key" = ["billing:write"])),
    responses(
        (status = 201, description = "The subscription", body = LocalSubscription),
        (status = 200, description = "It was there already", body = LocalSubscription),
        CommandErrors
    )
)]
pub(crate) async fn import(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: ImportBody = command.read()?;
    let (org, directory) = (OrgName::of_any(id.into_inner(), "id"), command.directory());
    let asked = ImportedSubscription {
        plan: sent.plan,
        interval_months: sent.interval_months,
        started_at: sent.started_at.0,
        trial_end: sent.trial_end.map(|at| at.0),
        paid_from: sent.paid_from.map(|at| at.0),
        paid_until: sent.paid_until.map(|at| at.0),
        cancelled_at: sent.cancelled_at.map(|at| at.0),
        cancel_at_period_end: sent.cancel_at_period_end,
    };
    command
        .run(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let (subscription, is_new) = local_subscriptions::import(conn, org.org_id, &asked, now)?;
            let detail = json!({ "plan": asked.plan, "started_at": asked.started_at });
            let audit = AuditEntry {
                org_id: org.org_id,
                action: "subscription.import",
                target: subscription.id.clone(),
                detail,
            };
            Answer::new(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &subscription, audit)
        })
        .await
}

/// Shows an org's local subscription: the current one, or else the last one.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/subscription", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The subscription", body = LocalSubscription), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (org, now) = (OrgName::must(&read.principal, Some(id.into_inner()), "id")?, read.app.clock.now());
    read.show(move |conn| {
        let org_id = org.row_id(conn)?;
        local_subscriptions::current(conn, org_id, now)
    })
    .await
}

/// Lists all local subscriptions that an org has had, newest first.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/subscriptions", tag = "subscriptions",
    params(("id" = String, Path, description = "Public or external id"), PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<LocalSubscription>), FindErrors)
)]
pub(crate) async fn history(mut read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let page = read.take_page::<Cursor>("subscriptions_of_org")?;
    let (org, now) = (OrgName::must(&read.principal, Some(id.into_inner()), "id")?, read.app.clock.now());
    let key = |row: &LocalSubscription| (Moment(row.created_at), row.id.clone());
    read.list(page, key, move |conn, page| {
        let org_id = org.row_id(conn)?;
        local_subscriptions::history(conn, org_id, page.after.clone(), page.to_fetch(), now)
    })
    .await
}

/// The version that a subscription gets.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MoveSubscription)]
pub struct MoveBody {
    /// Key of the plan. A local subscription keeps its plan, so it may be left out there.
    #[serde(default)]
    pub plan: Option<String>,
    /// Version of the plan.
    #[schema(minimum = 1, maximum = 2147483647)]
    pub version: i32,
}

/// Account and mode of the subscription: the same id may exist in several accounts and in both modes.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RealmQuery {
    /// Connected account; empty for our own. Left out: the one in which the subscription is known.
    account: Option<String>,
    /// Live (true) or test mode (false). Left out: the one in which the subscription is known.
    livemode: Option<bool>,
}

/// A moved subscription.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MovedOne {
    /// The subscription.
    pub subscription: String,
    /// The plan; null for a local subscription that was named without it.
    pub plan: Option<String>,
    /// Its version now.
    pub version: i32,
}

/// Moves a subscription of Stripe (`sub_…`) or a local one (`lsub_…`) to another version of its plan.
#[utoipa::path(
    post, path = "/v1/subscriptions/{id}/move", tag = "subscriptions",
    params(("id" = String, Path, description = "`sub_…` or `lsub_…`"), RealmQuery, IdempotencyKey),
    request_body = MoveBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "Done", body = MovedOne), CommandErrors)
)]
pub(crate) async fn move_one(
    command: Command,
    id: web::Path<String>,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let RealmQuery { account, livemode } = params.take()?;
    params.done()?;
    let selector = RealmSelector { account, livemode };
    let (id, sent): (String, MoveBody) = (id.into_inner(), command.read()?);
    command.run(move |conn, now| {
        catalog::begin_change(conn)?;
        let (org_id, realm) = if id.starts_with("lsub_") {
            let org_id = local_subscriptions::move_one(conn, &id, sent.plan.as_deref(), sent.version, now)?;
            (org_id, None)
        } else {
            let plan = sent.plan.as_deref();
            let plan = plan.ok_or_else(|| Error::invalid("plan", "must name the plan of the version"))?;
            (PLATFORM, Some(moves::one(conn, &selector, &id, (plan, sent.version), now)?))
        };
        let moved = MovedOne { subscription: id.clone(), plan: sent.plan.clone(), version: sent.version };
        let (account, livemode) = realm.map(|realm| (realm.account, realm.livemode)).unzip();
        let detail =
            json!({ "account": account, "livemode": livemode, "plan": sent.plan, "version": sent.version });
        let audit = AuditEntry { org_id, action: "subscription.move", target: id.clone(), detail };
        Answer::new(StatusCode::OK, &moved, audit)
    })
    .await
}
