//! What operators do to batteries: `POST /v1/battery/grants`, `/v1/battery/adjustments`,
//! `/v1/battery/settings/{org}`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, IdempotencyKey};
use crate::api::http::Body;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::battery::by_hand::{self, Act, ManualGrant};
use crate::battery::grants::GrantSource;
use crate::battery::reads::entries::{self, BatteryEntry};
use crate::battery::reads::grants::BatteryGrant;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::catalog;
use crate::quantity::{Quantity, UnitsAboveZero, UnitsFromZero, UnitsNotZero};
use crate::time::Moment;

/// Decimal places of units at most.
const PLACES: u32 = 9;
const TEXT_LIMIT: usize = 200;
const PRIORITIES: std::ops::RangeInclusive<i16> = 0..=1000;

/// Describes the sources of what an operator grants.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a field")]
pub enum ManualSource {
    /// A present.
    Bonus,
    /// A correction.
    Adjustment,
    /// What was paid for elsewhere.
    Purchase,
}

/// What an operator grants.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBatteryGrant)]
pub struct NewGrantBody {
    /// Public or external id of the org.
    pub org: String,
    /// Units, above 0, at most 9 decimal places.
    #[schema(value_type = UnitsAboveZero)]
    pub amount: Quantity,
    /// `bonus` when left out.
    #[serde(default)]
    #[schema(value_type = Option<ManualSource>)]
    pub source: Option<GrantSource>,
    /// 0 to 1000; lower is burned first. Left out: 30, for `purchase` 40. Daily allowances have 10,
    /// subscriptions 20.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000)]
    pub priority: Option<i16>,
    /// From when on it may be used; now when left out or in the past.
    #[serde(default)]
    pub effective_at: Option<Moment>,
    /// When what remains expires: after `effective_at` and in the future. Never, when left out.
    #[serde(default)]
    pub expires_at: Option<Moment>,
    /// Why, for people.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// What it is granted for, in your words, such as a ticket. An org is granted nothing twice under one
    /// key.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub key: Option<String>,
}

/// A correction by hand.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBatteryAdjustment)]
pub struct AdjustmentBody {
    /// Public or external id of the org.
    pub org: String,
    /// Units, at most 9 decimal places, not 0. Above zero they are granted and never expire. Below zero they
    /// are burned as usage would burn them; what the grants do not have becomes debt, whatever the debt
    /// limit.
    #[schema(value_type = UnitsNotZero)]
    pub amount: Quantity,
    /// Why, for people.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
}

/// What an adjustment came to.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatteryAdjustment)]
pub struct Adjusted {
    /// The entry; `balance_after` below zero is debt.
    pub entry: BatteryEntry,
    /// The grant, where units were added.
    pub grant: Option<BatteryGrant>,
}

/// Why a grant is voided.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatteryVoid)]
pub struct VoidBody {
    /// Why, for people.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
}

/// An org's own word on its battery.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBatterySettings)]
pub struct SettingsBody {
    /// How far below zero the battery may be used: "0" refuses what it does not hold; null: without limit.
    #[serde(deserialize_with = "given")]
    #[schema(required, value_type = Option<UnitsFromZero>)]
    pub debt_limit: Option<Quantity>,
}

/// What holds for an org's battery in place of its plan's word.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatterySettings)]
pub struct Settings {
    /// Public id of the org.
    pub org: String,
    /// How far below zero the battery may be used; null: without limit.
    pub debt_limit: Option<Quantity>,
}

/// An `Option` that must be written, so that "without limit" is never a field forgotten.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Quantity>, D::Error> {
    Option::deserialize(from)
}

fn check_text(field: &'static str, text: &str) -> Result<(), Error> {
    if text.trim().is_empty() || text.chars().count() > TEXT_LIMIT || text.chars().any(char::is_control) {
        let rule = format!("must be 1 to {TEXT_LIMIT} characters, not blank, without control characters");
        return Err(Error::invalid(field, rule));
    }
    Ok(())
}

fn check_places(field: &'static str, units: Decimal) -> Result<Decimal, Error> {
    if units.normalize().scale() > PLACES {
        return Err(Error::invalid(field, format!("must have at most {PLACES} decimal places")));
    }
    Ok(units)
}

fn wanted(sent: &NewGrantBody) -> Result<ManualGrant, Error> {
    let amount = check_places("amount", sent.amount.0)?;
    if amount <= Decimal::ZERO {
        return Err(Error::invalid("amount", "must be above 0: /v1/battery/adjustments takes units away"));
    }
    let source = sent.source.unwrap_or(GrantSource::Bonus);
    if !matches!(source, GrantSource::Bonus | GrantSource::Adjustment | GrantSource::Purchase) {
        return Err(Error::invalid(
            "source",
            "must be bonus, adjustment or purchase: subscriptions and daily allowances are granted by \
                themselves",
        ));
    }
    if sent.priority.is_some_and(|priority| !PRIORITIES.contains(&priority)) {
        return Err(Error::invalid("priority", "must be from 0 to 1000"));
    }
    check_text("reason", &sent.reason)?;
    if let Some(key) = &sent.key {
        check_text("key", key)?;
    }
    Ok(ManualGrant {
        amount,
        source,
        priority: sent.priority,
        effective_at: sent.effective_at.map(|at| at.0),
        expires_at: sent.expires_at.map(|at| at.0),
        reason: sent.reason.clone(),
        key: sent.key.clone(),
    })
}

/// Grants units to an org's battery. Debt is paid with them first.
#[utoipa::path(
    post, path = "/v1/battery/grants", tag = "battery", params(IdempotencyKey), request_body = NewGrantBody,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The grant", body = BatteryGrant), CommandErrors)
)]
pub async fn grant(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let sent: NewGrantBody = commands::parse(&body.0)?;
    let new = wanted(&sent)?;
    let org = OrgName::of_any(sent.org.clone(), "org");
    let (directory, actor) = (Arc::clone(&app.directory), format!("key:{}", principal.key_id));
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let org_id = org.find(&directory, conn)?.org_id;
        let grant = by_hand::grant(conn, org_id, &new, &actor, now)?;
        let (target, detail) = (grant.id.clone(), json!(grant));
        Answer::new(StatusCode::CREATED, &grant, Audit { org_id, action: "battery.grant", target, detail })
    })
    .await
}

/// Corrects a battery by hand: adds units, or takes them away as usage would, into debt where it must.
#[utoipa::path(
    post, path = "/v1/battery/adjustments", tag = "battery", params(IdempotencyKey),
    request_body = AdjustmentBody,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "What it came to", body = Adjusted), CommandErrors)
)]
pub async fn adjust(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let sent: AdjustmentBody = commands::parse(&body.0)?;
    let units = check_places("amount", sent.amount.0)?;
    if units.is_zero() {
        return Err(Error::invalid("amount", "must not be 0"));
    }
    check_text("reason", &sent.reason)?;
    let org = OrgName::of_any(sent.org.clone(), "org");
    let (directory, actor) = (Arc::clone(&app.directory), format!("key:{}", principal.key_id));
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let org = org.find(&directory, conn)?;
        let act = Act { actor: &actor, reason: &sent.reason };
        let (sequence, grant) = by_hand::adjust(conn, org.org_id, units, act, now)?;
        let entry = entries::find(conn, org.org_id, sequence)?;
        let detail = json!({ "amount": entry.amount, "sequence": sequence, "reason": sent.reason });
        let audit =
            Audit { org_id: org.org_id, action: "battery.adjust", target: org.public_id.to_string(), detail };
        Answer::new(StatusCode::CREATED, &Adjusted { entry, grant }, audit)
    })
    .await
}

/// Voids a grant: what remains of it is taken away. What was burned stays burned.
#[utoipa::path(
    post, path = "/v1/battery/grants/{id}/void", tag = "battery",
    params(("id" = String, Path, description = "`grt_…`"), IdempotencyKey),
    request_body = VoidBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The grant as it is now", body = BatteryGrant), CommandErrors)
)]
pub async fn void(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (id, sent): (String, VoidBody) = (id.into_inner(), commands::parse(&body.0)?);
    check_text("reason", &sent.reason)?;
    let actor = format!("key:{}", principal.key_id);
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let act = Act { actor: &actor, reason: &sent.reason };
        let (org_id, units, grant) = by_hand::void(conn, &id, act, now)?;
        let detail = json!({ "units": units.normalize().to_string(), "reason": sent.reason });
        let audit = Audit { org_id, action: "battery.void", target: id.clone(), detail };
        Answer::new(StatusCode::OK, &grant, audit)
    })
    .await
}

/// Sets how far below zero an org's battery may be used, in place of its plan's word. It holds at once,
/// everywhere.
#[utoipa::path(
    put, path = "/v1/battery/settings/{org}", tag = "battery",
    params(("org" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    request_body = SettingsBody,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "What holds now", body = Settings), CommandErrors)
)]
pub async fn put_settings(
    app: web::Data<App>,
    principal: Principal,
    org: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (name, sent): (_, SettingsBody) =
        (OrgName::of_any(org.into_inner(), "org"), commands::parse(&body.0)?);
    if let Some(limit) = sent.debt_limit
        && check_places("debt_limit", limit.0)? < Decimal::ZERO
    {
        return Err(Error::invalid("debt_limit", "must be 0 or more, or null for no limit"));
    }
    let directory = Arc::clone(&app.directory);
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        catalog::begin_change(conn)?;
        let org = name.find(&directory, conn)?;
        by_hand::set_debt_limit(conn, org.org_id, sent.debt_limit.map(|limit| limit.0), now)?;
        let settings = Settings { org: org.public_id.to_string(), debt_limit: sent.debt_limit };
        let (target, detail) = (settings.org.clone(), json!({ "debt_limit": settings.debt_limit }));
        let audit = Audit { org_id: org.org_id, action: "battery.set_debt_limit", target, detail };
        Answer::new(StatusCode::OK, &settings, audit)
    })
    .await
}

/// Takes an org's own debt limit away: its plan's word holds again.
#[utoipa::path(
    delete, path = "/v1/battery/settings/{org}", tag = "battery",
    params(("org" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub async fn delete_settings(
    app: web::Data<App>,
    principal: Principal,
    org: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (name, directory) = (OrgName::of_any(org.into_inner(), "org"), Arc::clone(&app.directory));
    commands::run(&app, &principal, &request, &[], move |conn, _| {
        catalog::begin_change(conn)?;
        let org = name.find(&directory, conn)?;
        by_hand::clear_debt_limit(conn, org.org_id)?;
        let audit = Audit {
            org_id: org.org_id,
            action: "battery.clear_debt_limit",
            target: org.public_id.to_string(),
            detail: json!({}),
        };
        Answer::new(StatusCode::NO_CONTENT, &(), audit)
    })
    .await
}
