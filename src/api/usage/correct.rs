//! `/v1/usage/void`, `/v1/usage/amend`, `/v1/usage/closings`.

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::closings::{self, Closing};
use crate::metering::event::{Cost, UsageEvent};
use crate::page::{MAX_LIMIT, Page};
use crate::quantity::Quantity;
use crate::text::check_line;
use crate::time::Month;
use crate::usage::correct::{self, Correction};

/// Names the wrong usage event.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VoidBody {
    /// Its org, by public or external id; the key's own when left out.
    #[serde(default)]
    org: Option<String>,
    /// Its source.
    #[serde(default)]
    source: String,
    /// Its id.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    id: String,
    /// Why it is taken back.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
}

/// Names the wrong usage event, and gives the right one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AmendBody {
    /// Its org, by public or external id; the key's own when left out.
    #[serde(default)]
    org: Option<String>,
    /// Its source.
    #[serde(default)]
    source: String,
    /// Its id.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    id: String,
    /// Why it is replaced.
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
    /// The right event.
    event: Replacement,
}

/// The right usage event. Id, source and time stay those of the wrong one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// Which meters count it.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    event_name: String,
    /// Who in the org caused it.
    #[serde(default)]
    member: Option<String>,
    /// The subject that quotas per subject count it to.
    #[serde(default)]
    subject: Option<String>,
    /// The values and dimensions that meters read.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Option<Box<RawValue>>,
    /// A cost to set; needs the scope usage:price.
    #[serde(default)]
    cost: Option<Quantity>,
}

/// The result of a correction.
#[derive(Debug, Serialize, ToSchema)]
pub struct Corrected {
    /// The event's source.
    source: String,
    /// Its id.
    id: String,
    /// Number of the event's last record: odd when it takes the event back, even when it replaces it.
    correction: i16,
}

/// A month to close.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseBody {
    /// The org, by public or external id; every org when left out.
    #[serde(default, deserialize_with = "crate::json::not_null")]
    #[schema(nullable = false)]
    org: Option<String>,
    /// The month, such as `2026-10`.
    month: Month,
}

/// A month that is closed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Closed {
    /// Public id of the org; null: every org's.
    org: Option<String>,
    /// The month.
    month: Month,
}

/// A source may be empty, but is otherwise written like an id.
fn check_source(source: &str) -> Result<(), Error> {
    if source.is_empty() { Ok(()) } else { check_line("source", source, 200) }
}

/// Takes a usage event back.
///
/// The event stays visible, beside a record with the negative quantity. Summaries, counters and cost follow
/// at once. In a closed month, the record is counted to the open one.
#[utoipa::path(
    post, path = "/v1/usage/void", tag = "usage", params(IdempotencyKey), request_body = VoidBody,
    security(("key" = ["usage:write"])),
    responses((status = 200, description = "It is taken back", body = Corrected), FindErrors, CommandErrors)
)]
pub(crate) async fn void(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::UsageWrite)?;
    let asked: VoidBody = command.read()?;
    check_line("id", &asked.id, 200)?;
    check_source(&asked.source)?;
    check_line("reason", &asked.reason, 500)?;
    let (rules, directory, series) =
        (Arc::clone(&command.app.rules), command.directory(), Arc::clone(&command.app.usage.series));
    let org = OrgName::must(&command.principal, asked.org.clone(), "org")?;
    let actor = command.actor();
    command
        .run(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let correction = Correction {
                org: &org,
                source: &asked.source,
                id: &asked.id,
                reason: &asked.reason,
                actor: &actor,
            };
            let number = correct::void(conn, &rules, &series, &correction, now)?;
            answer(&correction, "usage.void", number)
        })
        .await
}

/// Replaces a usage event.
///
/// The event stays visible, beside one record that takes it back and one that replaces it. Summaries,
/// counters and cost follow at once. In a closed month, both records are counted to the open one.
#[utoipa::path(
    post, path = "/v1/usage/amend", tag = "usage", params(IdempotencyKey), request_body = AmendBody,
    security(("key" = ["usage:write"])),
    responses((status = 200, description = "It is replaced", body = Corrected), FindErrors, CommandErrors)
)]
pub(crate) async fn amend(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::UsageWrite)?;
    let asked: AmendBody = command.read()?;
    check_line("id", &asked.id, 200)?;
    check_source(&asked.source)?;
    check_line("reason", &asked.reason, 500)?;
    check_line("event.event_name", &asked.event.event_name, 200)?;
    for (field, text) in [("event.member", &asked.event.member), ("event.subject", &asked.event.subject)] {
        text.as_deref().map_or(Ok(()), |text| check_line(field, text, 200))?;
    }
    let (rules, directory, series) =
        (Arc::clone(&command.app.rules), command.directory(), Arc::clone(&command.app.usage.series));
    let org = OrgName::must(&command.principal, asked.org.clone(), "org")?;
    let actor = command.actor();
    let price = command.principal.require(Scope::UsagePrice).is_ok();
    command
        .run(move |conn, now| {
            let org = org.find(&directory, conn)?;
            let correction = Correction {
                org: &org,
                source: &asked.source,
                id: &asked.id,
                reason: &asked.reason,
                actor: &actor,
            };
            let event = UsageEvent {
                id: Cow::Borrowed(&asked.id),
                source: Cow::Borrowed(&asked.source),
                org: None,
                event_name: Cow::Borrowed(&asked.event.event_name),
                occurred_at: None,
                member: asked.event.member.as_deref().map(Cow::Borrowed),
                subject: asked.event.subject.as_deref().map(Cow::Borrowed),
                data: asked.event.data.as_deref(),
                cost: asked.event.cost.map(|cost| Cost::Major(cost.0)),
            };
            let number = correct::amend(conn, &rules, &series, price, &correction, &event, now)?;
            answer(&correction, "usage.amend", number)
        })
        .await
}

fn answer(correction: &Correction<'_>, action: &'static str, number: i16) -> Result<Answer, Error> {
    let corrected =
        Corrected { source: correction.source.to_owned(), id: correction.id.to_owned(), correction: number };
    let detail = json!({ "source": correction.source, "reason": correction.reason, "correction": number });
    let audit =
        AuditEntry { org_id: correction.org.org_id, action, target: correction.id.to_owned(), detail };
    Answer::new(StatusCode::OK, &corrected, audit)
}

/// Closes a month: later usage and corrections for it are counted to the open month.
#[utoipa::path(
    post, path = "/v1/usage/closings", tag = "usage", params(IdempotencyKey), request_body = CloseBody,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "It is closed", body = Closed), FindErrors, CommandErrors)
)]
pub(crate) async fn close(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let asked: CloseBody = command.read()?;
    let (directory, actor) = (command.directory(), command.actor());
    let org = OrgName::of(&command.principal, asked.org, "org")?;
    command
        .run(move |conn, now| {
            let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
            let org_id = org.as_ref().map_or(PLATFORM, |org| org.org_id);
            closings::close(conn, org_id, asked.month, &actor, now)?;
            let closed =
                Closed { org: org.as_ref().map(|org| org.public_id.to_string()), month: asked.month };
            let audit = AuditEntry {
                org_id,
                action: "usage_month.close",
                target: asked.month.to_string(),
                detail: json!(closed),
            };
            Answer::new(StatusCode::OK, &closed, audit)
        })
        .await
}

/// Lists closed months, latest first.
#[utoipa::path(
    get, path = "/v1/usage/closings", tag = "usage", security(("key" = ["usage:read"])),
    responses((status = 200, description = "The latest 500", body = Page<Closing>), ReadErrors)
)]
pub(crate) async fn closed(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    read.show(|conn| Ok(Page { data: closings::list(conn, MAX_LIMIT)?, next: None })).await
}
