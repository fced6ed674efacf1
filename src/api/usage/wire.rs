//! `/api/v1/events` and `/api/v1/events/batch`: usage from clients of OpenMeter and of Lago, which get the
//! answers of OpenMeter and Lago.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::usage::event_body::CloudEvent;
use crate::api::usage::intake::{EVENTS, EventIds, caller, count, form, read_body, split_ids};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Problem};
use crate::metering::digest::event_key;
use crate::metering::event::lago::{self, LagoEvent, SOURCE};
use crate::metering::event::{self, Outcome};
use crate::metering::resolve::Caller;
use crate::quantity::Quantity;
use crate::shares::Holder;
use crate::usage::ingest::IngestOptions;

/// Events of a batch at most, as in Lago.
const BATCH: usize = 100;

/// A usage event as Lago's clients send it; what else it has is ignored.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
pub struct LagoSent {
    /// The caller's id of it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    transaction_id: String,
    /// The org, by its id or your own id of it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    external_subscription_id: Option<String>,
    /// The org where there is no subscription.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    external_customer_id: Option<String>,
    /// The name that meters count.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    code: String,
    /// Seconds since 1970; now when left out.
    timestamp: Option<i64>,
    /// The values and dimensions that meters read.
    #[schema(value_type = Option<Object>)]
    properties: Option<()>,
    /// A cost in the minor unit of the meter's currency; needs the scope usage:price.
    precise_total_amount_cents: Option<Quantity>,
}

/// One event of a client of Lago.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
pub struct LagoBody {
    /// The event.
    event: LagoSent,
}

/// Events of a client of Lago.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
pub struct LagoBatch {
    /// 1 to 100.
    #[schema(min_items = 1, max_items = 100)]
    events: Vec<LagoSent>,
}

/// A usage event as Lago answers it.
#[derive(Serialize, ToSchema)]
pub struct LagoAnswer<'a> {
    /// Our number of it: a digest of its key.
    lago_id: String,
    /// The caller's id of it.
    transaction_id: String,
    /// Null: there are no such objects here.
    lago_customer_id: Option<String>,
    /// Null: there are no such objects here.
    lago_subscription_id: Option<String>,
    /// The org, as it was named.
    external_subscription_id: String,
    /// The name that meters count.
    code: String,
    /// When it happened.
    timestamp: String,
    /// A cost that was set.
    #[schema(value_type = Option<String>)]
    precise_total_amount_cents: Option<&'a RawValue>,
    /// The properties as they were sent.
    #[schema(value_type = Object)]
    properties: Option<&'a RawValue>,
    /// Time of arrival.
    created_at: String,
}

/// One event, answered.
#[derive(Serialize, ToSchema)]
pub struct LagoOne<'a> {
    /// The event.
    event: LagoAnswer<'a>,
}

/// A batch, answered.
#[derive(Serialize, ToSchema)]
pub struct LagoMany<'a> {
    /// The events, as they were sent.
    events: Vec<LagoAnswer<'a>>,
}

/// Lago's answer for an event that it does not take.
#[derive(Serialize, ToSchema)]
pub struct LagoRefusal {
    /// 422.
    status: u16,
    /// `Unprocessable Entity`.
    error: &'static str,
    /// `validation_errors`.
    code: &'static str,
    /// Field to the rules that it breaks; in a batch by the event's place, from 0.
    #[schema(value_type = Object)]
    error_details: Value,
    /// What to do, for people. Lago has no such field.
    detail: String,
}

/// Takes usage from clients of OpenMeter and of Lago.
///
/// CloudEvents, one or many, get OpenMeter's answer: 204, whether they are new or known. With a key of the
/// platform, the subject names the org. `{"event": {…}}` gets Lago's answer: 200 with the event, or 422 with
/// `value_already_exist` when its `transaction_id` is known. There the external id of the subscription names
/// the org, `code` is the event name, and the source is `lago`. Events are stored as by `POST /v1/usage`,
/// except that an event which no meter counts is refused.
#[utoipa::path(
    post, path = "/api/v1/events", tag = "usage", security(("key" = ["usage:write"])),
    request_body(content(
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"), (LagoBody = "application/json")
    ), description = "CloudEvents 1.0, or `{\"event\": {…}}`"),
    responses(
        (status = 200, description = "To Lago's clients: it is stored and counted", body = LagoOne),
        (status = 204, description = "To OpenMeter's clients: all are stored and counted"),
        (status = 400,
            description = "The body cannot be read; to OpenMeter's clients: an event was rejected, those \
                that were not are stored",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "To Lago's clients: it was not stored", body = LagoRefusal),
        (status = 401, description = "No valid key", body = Problem,
            content_type = "application/problem+json"),
        (status = 403, description = "The key may not", body = Problem,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit, or has too many events", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Too much waits: send it again", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not stored: send it again", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn post(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let caller = caller(&principal)?;
    let (body, _place) = read_body(&app, &principal, &request, payload).await?;
    if is_cloud(&request) || !lago::is_lago(&body) {
        return openmeter(&app, (principal.holder(), &caller), &request, &body).await;
    }
    let (sent, now) = (lago::one(&body)?, app.clock.now());
    let caller = (principal.holder(), &caller);
    let outcomes =
        app.usage.accept(&app.quotas, caller, IngestOptions::default(), || Ok(vec![sent.read(now)])).await?;
    count(&app, &request, &outcomes);
    match outcomes.first().and_then(refusal) {
        None => Ok(HttpResponse::Ok().json(LagoOne { event: answer(&sent, now)? })),
        Some(refusal) => Ok(refused(json!({ refusal.field: [refusal.rule] }), refusal.detail)),
    }
}

/// Takes a batch of at most 100 usage events from clients of Lago: all of them or none.
#[utoipa::path(
    post, path = "/api/v1/events/batch", tag = "usage", security(("key" = ["usage:write"])),
    request_body = LagoBatch,
    responses(
        (status = 200, description = "All are stored and counted", body = LagoMany),
        (status = 400, description = "The body cannot be read", body = Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "One is rejected or known already: nothing was stored",
            body = LagoRefusal),
        (status = 401, description = "No valid key", body = Problem,
            content_type = "application/problem+json"),
        (status = 403, description = "The key may not", body = Problem,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit, or has too many events", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Too much waits: send it again", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not stored: send it again", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn batch(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let caller = caller(&principal)?;
    let (body, _place) = read_body(&app, &principal, &request, payload).await?;
    let (sent, now) = (lago::many(&body)?, app.clock.now());
    if sent.is_empty() || sent.len() > BATCH {
        let rule = if sent.is_empty() { "no_events" } else { "too_many_events" };
        return Ok(refused(json!({ "events": [rule] }), format!("send 1 to {BATCH} events")));
    }
    let read = || Ok(sent.iter().map(|event| event.read(now)).collect());
    let options = IngestOptions { all_or_nothing: true, new_only: true };
    let mut outcomes = app.usage.accept(&app.quotas, (principal.holder(), &caller), options, read).await?;
    let refusals: BTreeMap<usize, Refusal> =
        outcomes.iter().enumerate().filter_map(|(place, outcome)| Some((place, refusal(outcome)?))).collect();
    let Some((place, first)) = refusals.first_key_value() else {
        count(&app, &request, &outcomes);
        let events = sent.iter().map(|event| answer(event, now)).collect::<Result<_, _>>()?;
        return Ok(HttpResponse::Ok().json(LagoMany { events }));
    };
    // The others were not stored.
    outcomes.retain(|outcome| *outcome != Outcome::Accepted);
    count(&app, &request, &outcomes);
    let detail = format!("nothing was stored; event {place}: {}", first.detail);
    let details =
        refusals.iter().map(|(place, one)| (place.to_string(), json!({ one.field.as_str(): [one.rule] })));
    Ok(refused(Value::Object(details.collect()), detail))
}

fn is_cloud(request: &HttpRequest) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| text.trim_start().starts_with("application/cloudevents"))
        || request.headers().contains_key("ce-specversion")
}

/// Takes what OpenMeter's clients send. There a repeated event is fine, even with other content.
async fn openmeter(
    app: &App,
    (holder, caller): (Holder, &Caller),
    request: &HttpRequest,
    body: &[u8],
) -> Result<HttpResponse, Error> {
    let form = form(request.headers());
    let mut ids = EventIds::new();
    let read = || {
        let events;
        (ids, events) = split_ids(event::parse(body, &form, EVENTS, caller.org_id.is_none())?.events);
        Ok(events)
    };
    let outcomes = app.usage.accept(&app.quotas, (holder, caller), IngestOptions::default(), read).await?;
    count(app, request, &outcomes);
    let mut rejected =
        outcomes.iter().zip(&ids).enumerate().filter_map(|(place, (outcome, id))| match outcome {
            Outcome::Rejected(rejection) => Some((place, id, rejection)),
            _ => None,
        });
    let Some((place, id, rejection)) = rejected.next() else {
        return Ok(HttpResponse::NoContent().finish());
    };
    let field = if ids.len() == 1 {
        rejection.field.to_string()
    } else {
        format!("events[{place}].{}", rejection.field)
    };
    let more = match rejected.count() {
        0 if ids.len() == 1 => String::new(),
        0 => "; the other events are stored".to_owned(),
        more => format!("; {more} others were rejected too, the rest is stored"),
    };
    let detail =
        format!("event `{id}`, {} ({}): {}{more}", rejection.field, rejection.rule, rejection.detail);
    Err(Error::invalid(field, detail))
}

/// Why Lago does not take an event.
struct Refusal {
    field: String,
    rule: &'static str,
    detail: String,
}

/// In Lago's words, where it has words for it.
fn refusal(outcome: &Outcome) -> Option<Refusal> {
    let rejection = match outcome {
        Outcome::Accepted => return None,
        Outcome::Duplicate | Outcome::Conflict => {
            return Some(Refusal {
                field: "transaction_id".to_owned(),
                rule: "value_already_exist",
                detail: "an event with this transaction_id is stored already".to_owned(),
            });
        }
        Outcome::Rejected(rejection) => rejection,
    };
    let field = match rejection.field.as_ref() {
        "id" => "transaction_id".to_owned(),
        "org" => "external_subscription_id".to_owned(),
        "event_name" => "code".to_owned(),
        "occurred_at" => "timestamp".to_owned(),
        "cost" => "precise_total_amount_cents".to_owned(),
        other => other.replacen("data", "properties", 1),
    };
    let rule = match rejection.rule {
        "missing" | "empty" | "no_org" => "value_is_mandatory",
        "unknown_org" => "subscription_not_found",
        "unknown_event_name" => "metric_not_found",
        rule => rule,
    };
    let detail = format!("{field}: {}", rejection.detail);
    Some(Refusal { field, rule, detail })
}

fn refused(error_details: Value, detail: String) -> HttpResponse {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    HttpResponse::build(status).json(LagoRefusal {
        status: status.as_u16(),
        error: "Unprocessable Entity",
        code: "validation_errors",
        error_details,
        detail,
    })
}

fn answer<'a>(sent: &LagoEvent<'a>, now: DateTime<Utc>) -> Result<LagoAnswer<'a>, Error> {
    let event = sent.read(now).map_err(|rejection| Error::Internal(rejection.detail))?;
    let at = event.occurred_at.unwrap_or(now);
    Ok(LagoAnswer {
        lago_id: event_key(SOURCE, &event.id).to_string(),
        transaction_id: event.id.into_owned(),
        lago_customer_id: None,
        lago_subscription_id: None,
        external_subscription_id: event.org.unwrap_or_default().into_owned(),
        code: event.event_name.into_owned(),
        timestamp: at.to_rfc3339_opts(SecondsFormat::Millis, true),
        precise_total_amount_cents: sent.precise_total_amount_cents,
        properties: sent.properties,
        created_at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
    })
}
