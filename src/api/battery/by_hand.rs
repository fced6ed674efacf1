//! Operators' changes to batteries: `POST /v1/battery/grants`, `/v1/battery/adjustments`,
//! `/v1/battery/settings/{org}`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, IdempotencyKey};
use crate::audit::AuditEntry;
use crate::auth::Scope;
use crate::battery::by_hand::{self, Act, ManualGrant};
use crate::battery::grants::GrantSource;
use crate::battery::reads::entries::{self, Posted};
use crate::battery::reads::grants::Granted;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::catalog;
use crate::quantity::{Quantity, UnitsAboveZero, UnitsFromZero, UnitsNotZero};
use crate::text::check_line;
use crate::time::Moment;

/// Decimal places of units at most.
const PLACES: u32 = 9;
const TEXT_LIMIT: usize = 200;
const PRIORITIES: std::ops::RangeInclusive<i16> = 0..=1000;

/// Where a manual grant comes from.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a field")]
pub enum ManualSource {
    /// A gift.
    Bonus,
    /// A correction.
    Adjustment,
    /// Something that was paid for elsewhere.
    Purchase,
}

/// A grant by hand.
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
    /// When it becomes usable; now when left out or in the past.
    #[serde(default)]
    pub effective_at: Option<Moment>,
    /// When the rest lapses: after `effective_at` and in the future. Never, when left out.
    #[serde(default)]
    pub expires_at: Option<Moment>,
    /// Why, for people.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// What it is granted for, in your words, such as a ticket. An org gets only one grant per key.
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
    /// are burned as usage burns them; what the grants lack becomes debt, whatever the debt limit.
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

/// The result of an adjustment.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatteryAdjustment)]
pub struct Adjusted {
    /// The entry; `balance_after` below zero is debt.
    pub entry: Posted,
    /// The grant, where units were added.
    pub grant: Option<Granted>,
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

/// An org's own settings for its battery.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBatterySettings)]
pub struct SettingsBody {
    /// How far below zero usage may take the battery. "0" refuses usage that it does not hold; null: no
    /// limit.
    #[serde(deserialize_with = "given")]
    #[schema(required, value_type = Option<UnitsFromZero>)]
    pub debt_limit: Option<Quantity>,
}

/// An org's own settings, which hold in place of its plan's.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatterySettings)]
pub struct Settings {
    /// Public id of the org.
    pub org: String,
    /// How far below zero usage may take the battery; null: no limit.
    pub debt_limit: Option<Quantity>,
}

/// Reads an `Option` that must be written, so that a forgotten field does not mean "no limit".
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Quantity>, D::Error> {
    Option::deserialize(from)
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
    check_line("reason", &sent.reason, TEXT_LIMIT)?;
    if let Some(key) = &sent.key {
        check_line("key", key, TEXT_LIMIT)?;
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

/// Grants units to an org's battery. They pay its debt first.
#[utoipa::path(
    post, path = "/v1/battery/grants", tag = "battery", params(IdempotencyKey), request_body = NewGrantBody,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The grant", body = Granted), CommandErrors)
)]
pub(crate) async fn grant(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: NewGrantBody = command.read()?;
    let new = wanted(&sent)?;
    let org = OrgName::of_any(sent.org.clone(), "org");
    let (directory, actor) = (command.directory(), command.actor());
    command
        .run(move |conn, now| {
            let org_id = org.find(&directory, conn)?.org_id;
            let grant = by_hand::grant(conn, org_id, &new, &actor, now)?;
            let (target, detail) = (grant.id.clone(), json!(grant));
            Answer::new(
                StatusCode::CREATED,
                &grant,
                AuditEntry { org_id, action: "battery.grant", target, detail },
            )
        })
        .await
}

/// Corrects a battery by hand: adds units, or takes them away as usage would, with debt where needed.
#[utoipa::path(
    post, path = "/v1/battery/adjustments", tag = "battery", params(IdempotencyKey),
    request_body = AdjustmentBody,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "What it came to", body = Adjusted), CommandErrors)
)]
pub(crate) async fn adjust(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: AdjustmentBody = command.read()?;
    let units = check_places("amount", sent.amount.0)?;
    if units.is_zero() {
        return Err(Error::invalid("amount", "must not be 0"));
    }
    check_line("reason", &sent.reason, TEXT_LIMIT)?;
    let org = OrgName::of_any(sent.org.clone(), "org");
    let (directory, actor) = (command.directory(), command.actor());
    command
        .run(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let act = Act { actor: &actor, reason: &sent.reason };
            let (sequence, grant) = by_hand::adjust(conn, org.org_id, units, act, now)?;
            let entry = entries::find(conn, org.org_id, sequence)?;
            let detail = json!({ "amount": entry.amount, "sequence": sequence, "reason": sent.reason });
            let audit = AuditEntry {
                org_id: org.org_id,
                action: "battery.adjust",
                target: org.public_id.to_string(),
                detail,
            };
            Answer::new(StatusCode::CREATED, &Adjusted { entry, grant }, audit)
        })
        .await
}

/// Voids a grant: takes away what remains of it. Burned units stay burned.
#[utoipa::path(
    post, path = "/v1/battery/grants/{id}/void", tag = "battery",
    params(("id" = String, Path, description = "`grt_…`"), IdempotencyKey),
    request_body = VoidBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The grant as it is now", body = Granted), CommandErrors)
)]
pub(crate) async fn void(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, sent): (String, VoidBody) = (id.into_inner(), command.read()?);
    check_line("reason", &sent.reason, TEXT_LIMIT)?;
    let actor = command.actor();
    command
        .run(move |conn, now| {
            let act = Act { actor: &actor, reason: &sent.reason };
            let (org_id, units, grant) = by_hand::void(conn, &id, act, now)?;
            let detail = json!({ "units": units.normalize().to_string(), "reason": sent.reason });
            let audit = AuditEntry { org_id, action: "battery.void", target: id.clone(), detail };
            Answer::new(StatusCode::OK, &grant, audit)
        })
        .await
}

/// Sets an org's own debt limit, in place of its plan's. It holds everywhere at once.
#[utoipa::path(
    put, path = "/v1/battery/settings/{org}", tag = "battery",
    params(("org" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    request_body = SettingsBody,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "What holds now", body = Settings), CommandErrors)
)]
pub(crate) async fn put_settings(command: Command, org: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (name, sent): (_, SettingsBody) = (OrgName::of_any(org.into_inner(), "org"), command.read()?);
    if let Some(limit) = sent.debt_limit
        && check_places("debt_limit", limit.0)? < Decimal::ZERO
    {
        return Err(Error::invalid("debt_limit", "must be 0 or more, or null for no limit"));
    }
    let directory = command.directory();
    command
        .run(move |conn, now| {
            catalog::begin_change(conn)?;
            let org = name.find(&directory, conn)?;
            by_hand::set_debt_limit(conn, org.org_id, sent.debt_limit.map(|limit| limit.0), now)?;
            let settings = Settings { org: org.public_id.to_string(), debt_limit: sent.debt_limit };
            let (target, detail) = (settings.org.clone(), json!({ "debt_limit": settings.debt_limit }));
            let audit = AuditEntry { org_id: org.org_id, action: "battery.set_debt_limit", target, detail };
            Answer::new(StatusCode::OK, &settings, audit)
        })
        .await
}

/// Removes an org's own debt limit: its plan's limit holds again.
#[utoipa::path(
    delete, path = "/v1/battery/settings/{org}", tag = "battery",
    params(("org" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub(crate) async fn delete_settings(
    BodilessCommand(command): BodilessCommand,
    org: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (name, directory) = (OrgName::of_any(org.into_inner(), "org"), command.directory());
    command
        .run(move |conn, _| {
            catalog::begin_change(conn)?;
            let org = name.find(&directory, conn)?;
            by_hand::clear_debt_limit(conn, org.org_id)?;
            let audit = AuditEntry {
                org_id: org.org_id,
                action: "battery.clear_debt_limit",
                target: org.public_id.to_string(),
                detail: json!({}),
            };
            Ok(Answer::done(audit))
        })
        .await
}
