//! `/v1/quota/…`: check, reserve, settle, release.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::api::described::{CommandErrors, IdempotencyKey};
use crate::api::http::Body;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::error::{Error, Problem};
use crate::ids;
use crate::metering::slots::PeriodKind;
use crate::quantity::{Amount, QuantityAboveZero, QuantityFromZero};
use crate::quota::check::Verdict;
use crate::quota::limit_status::{BatteryStatus, LimitStatus, RequestedUsage};
use crate::quota::reservation_batch::{NewReservation, ReservationAnswer, ReservationRequest};
use crate::quota::reservations::Reservation;

/// Checks in one request, at most.
const MAX_ITEMS: usize = 1000;
const MAX_DIMENSIONS: usize = 20;
const TEXT_LIMIT: usize = 200;
/// Longest time of a reservation.
const MAX_DEADLINE: TimeDelta = TimeDelta::days(7);
/// Its time when the request gives none, in seconds.
const DEFAULT_DEADLINE_S: i64 = 300;

/// One question.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckItem {
    /// Public or external id of the org; the key's own when left out.
    #[serde(default)]
    pub org: Option<String>,
    /// Key of the meter: one of kind `sum`, `count` or `level`.
    pub meter: String,
    /// The amount; 1 when left out. 0 asks for the state of the limits only.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub amount: Option<Amount>,
    /// Dimensions of the usage.
    #[serde(default)]
    pub dimensions: BTreeMap<String, String>,
    /// The subject that quotas per subject count it to.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub subject: Option<String>,
}

/// Questions.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckBody {
    /// 1 to 1000.
    #[schema(min_items = 1, max_items = 1000)]
    pub items: Vec<CheckItem>,
}

/// Answers, in the order of the questions. Each is answered as if it were the only one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CheckAnswer {
    /// One for each question.
    pub results: Vec<Verdict>,
}

/// An amount to reserve.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReserveBody {
    /// Your id of the reservation: 1 to 100 of A-Z, a-z, 0-9, `-`, `_`, `.`. Never use it for another one; a
    /// repeat gets the same reservation.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,100}$")]
    pub id: Option<String>,
    /// Public or external id of the org; the key's own when left out.
    #[serde(default)]
    pub org: Option<String>,
    /// Key of the meter: one of kind `sum`, `count` or `level`.
    pub meter: String,
    /// The amount, above 0.
    #[schema(value_type = QuantityAboveZero)]
    pub amount: Amount,
    /// Dimensions of the expected usage.
    #[serde(default)]
    pub dimensions: BTreeMap<String, String>,
    /// The subject that quotas per subject count it to.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub subject: Option<String>,
    /// The member of the org that it is for.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub member: Option<String>,
    /// Seconds until it expires by itself, 1 to 604800; 300 when left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 604_800)]
    pub expires_in_s: Option<i64>,
    /// When it expires by itself, in place of `expires_in_s`.
    #[serde(default)]
    pub expires_at: Option<crate::time::Moment>,
}

/// The usage that replaces a reservation.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleBody {
    /// The org; needed by a platform key only where several orgs chose the same id.
    #[serde(default)]
    pub org: Option<String>,
    /// The actual amount, 0 or more; what was reserved when left out. It is recorded as a usage event with
    /// the reservation's id and the source `coulomb:reservation`.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub amount: Option<Amount>,
    /// The usage event to record instead, in the native form of `POST /v1/usage`. The amount is its quantity
    /// on the meter.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub event: Option<Box<RawValue>>,
}

/// The org of the reservation to release.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseBody {
    /// The org; needed by a platform key only where several orgs chose the same id.
    #[serde(default)]
    pub org: Option<String>,
}

/// A problem with the limit that refuses the reservation.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaExceeded {
    /// The problem; its code is `quota_exceeded`.
    #[serde(flatten)]
    pub problem: Problem,
    /// The org's state under that limit.
    #[serde(flatten)]
    pub standing: LimitStatus,
}

/// A problem with the state of the battery.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatteryExhausted {
    /// The problem; its code is `battery_exhausted`.
    #[serde(flatten)]
    pub problem: Problem,
    /// The state of the battery.
    #[serde(flatten)]
    pub battery: BatteryStatus,
}

/// Why a reservation does not fit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum DoesNotFit {
    /// A limit refuses it.
    Quota(QuotaExceeded),
    /// The battery does not hold enough.
    Battery(BatteryExhausted),
}

/// # Errors
/// [`Error::Invalid`] when it is empty, too long or has control characters.
pub(super) fn check_text(field: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() || text.chars().count() > TEXT_LIMIT || text.chars().any(char::is_control) {
        let rule = format!("must be 1 to {TEXT_LIMIT} characters, without control characters");
        return Err(Error::invalid(field.to_owned(), rule));
    }
    Ok(())
}

fn requested(
    meter: String,
    amount: Decimal,
    dimensions: BTreeMap<String, String>,
    subject: Option<String>,
) -> Result<RequestedUsage, Error> {
    check_text("meter", &meter)?;
    if amount < Decimal::ZERO {
        return Err(Error::invalid("amount", "must not be negative"));
    }
    if dimensions.len() > MAX_DIMENSIONS {
        return Err(Error::invalid("dimensions", format!("must be at most {MAX_DIMENSIONS}")));
    }
    for (name, value) in &dimensions {
        check_text("dimensions", name)?;
        check_text(&format!("dimensions.{name}"), value)?;
    }
    if let Some(subject) = &subject {
        check_text("subject", subject)?;
    }
    Ok(RequestedUsage { meter, amount, dimensions: dimensions.into_iter().collect(), subject })
}

/// Says whether amounts could be used now, and the org's state under each limit. Reserves nothing.
#[utoipa::path(
    post, path = "/v1/quota/check", tag = "quotas", request_body = CheckBody,
    security(("key" = ["usage:read"])),
    responses(
        (status = 200, description = "The answers", body = CheckAnswer),
        (status = 429, description = "Too many requests wait: try again", body = Problem,
            content_type = "application/problem+json"),
        CommandErrors
    )
)]
pub(crate) async fn check(
    app: web::Data<App>,
    principal: Principal,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let sent: CheckBody = body.read()?;
    if sent.items.is_empty() || sent.items.len() > MAX_ITEMS {
        return Err(Error::invalid("items", format!("must be 1 to {MAX_ITEMS} questions")));
    }
    let read = |(n, item): (usize, CheckItem)| {
        let read = || {
            let org = OrgName::must(&principal, item.org, "org")?.into_ref();
            let amount = item.amount.map_or(Decimal::ONE, |amount| amount.0);
            Ok((org, requested(item.meter, amount, item.dimensions, item.subject)?))
        };
        read().map_err(|error| match error {
            Error::Invalid { field, rule } => Error::invalid(format!("items.{n}.{field}"), rule),
            Error::UnknownOrg(field) => Error::UnknownOrg(format!("items.{n}.{field}").into()),
            other => other,
        })
    };
    let items = sent.items.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(HttpResponse::Ok().json(CheckAnswer { results: app.quotas.check(principal.holder(), items).await? }))
}

/// The caller's id of a new reservation, from the body or the header; else a fresh one.
fn reservation_id(request: &HttpRequest, sent: Option<String>) -> Result<String, Error> {
    if let Some(id) = sent {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if plain && (1..=100).contains(&id.len()) {
            return Ok(id);
        }
        return Err(Error::invalid("id", "must be 1 to 100 of A-Z, a-z, 0-9, `-`, `_`, `.`"));
    }
    match request.headers().get("Idempotency-Key") {
        None => Ok(ids::fresh("res")),
        // The same key always makes the same id.
        Some(key) if (1..=255).contains(&key.len()) => {
            Ok(format!("res_{}", &hex::encode(Sha256::digest(key.as_bytes()))[..32]))
        }
        Some(_) => Err(Error::invalid("Idempotency-Key", "must be 1 to 255 characters")),
    }
}

fn deadline(body: &ReserveBody, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
    let (at, field) = match (body.expires_in_s, body.expires_at) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid(
                "expires_at",
                "is given together with `expires_in_s`: leave one of them out",
            ));
        }
        (None, Some(at)) => (Some(at.0), "expires_at"),
        (seconds, None) => {
            let seconds = TimeDelta::try_seconds(seconds.unwrap_or(DEFAULT_DEADLINE_S));
            (seconds.and_then(|seconds| now.checked_add_signed(seconds)), "expires_in_s")
        }
    };
    at.filter(|at| *at > now && *at - now <= MAX_DEADLINE)
        .ok_or_else(|| Error::invalid(field, "must lie in the future, at most 7 days (604800 seconds) ahead"))
}

/// Reserves an amount until it is settled, released, or expires.
///
/// It counts to the periods in which it is made.
#[utoipa::path(
    post, path = "/v1/quota/reserve", tag = "quotas", params(IdempotencyKey), request_body = ReserveBody,
    security(("key" = ["usage:write"])),
    responses(
        (status = 201, description = "The reservation", body = Reservation),
        (status = 409,
            description = "It does not fit under a limit (`quota_exceeded`), the battery does not hold \
                enough (`battery_exhausted`), or the id was used for another one",
            body = DoesNotFit,
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests wait: try again", body = Problem,
            content_type = "application/problem+json"),
        CommandErrors
    )
)]
pub(crate) async fn reserve(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageWrite)?;
    let sent: ReserveBody = body.read()?;
    let expires_at = deadline(&sent, app.clock.now())?;
    let id = reservation_id(&request, sent.id)?;
    let org = OrgName::must(&principal, sent.org, "org")?.into_ref();
    if let Some(member) = &sent.member {
        check_text("member", member)?;
    }
    if sent.amount.0 <= Decimal::ZERO {
        return Err(Error::invalid("amount", "must be above 0"));
    }
    let usage = requested(sent.meter, sent.amount.0, sent.dimensions, sent.subject)?;
    let new = NewReservation { id, usage, member: sent.member, expires_at };
    let request = ReservationRequest::Reserve { org, new };
    app.quotas.reservation(principal.holder(), request).await.map(|done| answer(done, StatusCode::CREATED))
}

fn answer(answer: ReservationAnswer, status: StatusCode) -> HttpResponse {
    match answer {
        ReservationAnswer::Reservation(reservation) => HttpResponse::build(status).json(reservation),
        ReservationAnswer::Exhausted(battery) => {
            let (code, title) = ("battery_exhausted", "The battery does not hold enough");
            let detail = format!("{battery}; nothing was changed");
            let problem = Problem::new(StatusCode::CONFLICT, code, title, detail);
            refused(code, &DoesNotFit::Battery(BatteryExhausted { problem, battery: *battery }))
        }
        ReservationAnswer::Exceeded(standing) => {
            let left = standing.remaining.map_or(Decimal::ZERO, |left| left.0);
            let until = match (standing.resets_at, standing.period) {
                (Some(at), _) => format!(" until {}", at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
                (None, PeriodKind::Always) => " for ever".to_owned(),
                (None, _) => String::new(),
            };
            let detail = format!("the limit on {} leaves {left}{until}; nothing was changed", standing.meter);
            let (code, title) = ("quota_exceeded", "A quota does not allow it");
            let problem = Problem::new(StatusCode::CONFLICT, code, title, detail);
            refused(code, &DoesNotFit::Quota(QuotaExceeded { problem, standing: *standing }))
        }
    }
}

fn refused(code: &'static str, problem: &DoesNotFit) -> HttpResponse {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    Problem::answer(HttpResponse::Conflict(), code, body)
}

/// Replaces a reservation by the actual usage and records that, in one transaction.
///
/// The usage is recorded whatever the limits say: when it is more than was reserved, and when the reservation
/// has ended. The answer says how much went over a limit (`overage`) and how much the battery lacked
/// (`debt`); they make the next reservation fail. A repeat gets the same answer.
#[utoipa::path(
    post, path = "/v1/quota/{id}/settle", tag = "quotas",
    params(("id" = String, Path, description = "The reservation")),
    request_body = SettleBody, security(("key" = ["usage:write"])),
    responses(
        (status = 200, description = "The reservation", body = Reservation),
        (status = 409,
            description = "It was settled with other usage (`already_settled`), or another event is recorded \
                under the event's key",
            body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests wait: try again", body = Problem,
            content_type = "application/problem+json"),
        CommandErrors
    )
)]
pub(crate) async fn settle(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageWrite)?;
    let sent: SettleBody = body.read()?;
    if sent.amount.is_some_and(|amount| amount.0 < Decimal::ZERO) {
        return Err(Error::invalid("amount", "must not be negative"));
    }
    if sent.amount.is_some() && sent.event.is_some() {
        return Err(Error::invalid(
            "amount",
            "is given together with `event`, which has its own: leave one of them out",
        ));
    }
    if sent.event.as_ref().is_some_and(|event| !event.get().starts_with('{')) {
        return Err(Error::invalid("event", "must be a usage event, a JSON object"));
    }
    let org = OrgName::of(&principal, sent.org, "org")?.map(OrgName::into_ref);
    let amount = sent.amount.map(|amount| amount.0);
    let request = ReservationRequest::Settle { org, id: id.into_inner(), amount, event: sent.event };
    app.quotas.reservation(principal.holder(), request).await.map(|done| answer(done, StatusCode::OK))
}

/// Releases a reservation. One that has ended stays as it is.
#[utoipa::path(
    post, path = "/v1/quota/{id}/release", tag = "quotas",
    params(("id" = String, Path, description = "The reservation")),
    request_body = Option<ReleaseBody>, security(("key" = ["usage:write"])),
    responses(
        (status = 200, description = "The reservation", body = Reservation),
        (status = 429, description = "Too many requests wait: try again", body = Problem,
            content_type = "application/problem+json"),
        CommandErrors
    )
)]
pub(crate) async fn release(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageWrite)?;
    let sent: ReleaseBody = body.read_optional()?;
    let org = OrgName::of(&principal, sent.org, "org")?.map(OrgName::into_ref);
    let request = ReservationRequest::Release { org, id: id.into_inner() };
    app.quotas.reservation(principal.holder(), request).await.map(|done| answer(done, StatusCode::OK))
}
