//! The operator's routes over the Stripe inbox.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::error::Error;
use crate::stripe::inbox::{self, Entry, State, TypeCount, Unfiled};

/// Narrows the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only events in this state.
    state: Option<State>,
    /// Only events with this id, type or object id.
    about: Option<String>,
    /// At most this many, 1 to 500; 50 when left out.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<i64>,
}

/// A page of the inbox, newest first.
#[derive(Serialize, ToSchema)]
pub struct InboxPage {
    /// The events.
    pub data: Vec<Entry>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<i64>,
}

/// An event with its body.
#[derive(Serialize, ToSchema)]
pub struct InboxEvent {
    /// The event and its state.
    #[serde(flatten)]
    pub entry: Entry,
    /// Number of deliveries after the first.
    pub redeliveries: i64,
    /// The body as received, where it is UTF-8.
    pub body: Option<String>,
    /// The body in base64, where it is not.
    pub body_base64: Option<String>,
}

/// Lists the events of the Stripe inbox, newest first.
#[utoipa::path(
    get,
    path = "/v1/stripe/inbox",
    tag = "stripe",
    params(ListQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "A page", body = InboxPage), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    let ListQuery { state, about, limit, cursor } = read.take()?;
    read.params.done()?;
    let limit = checked_limit(limit, 500)?;
    let data = read.run(move |conn| inbox::list(conn, state, about.as_deref(), cursor, limit)).await?;
    let full = i64::try_from(data.len()).is_ok_and(|len| len == limit);
    let next = data.last().map(|entry| entry.inbox_id).filter(|_| full);
    Ok(HttpResponse::Ok().json(InboxPage { data, next }))
}

/// 50 when left out.
fn checked_limit(limit: Option<i64>, most: i64) -> Result<i64, Error> {
    match limit.unwrap_or(50) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Error::invalid("limit", format!("must be from 1 to {most}"))),
    }
}

/// Limits the list of unfiled deliveries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UnfiledQuery {
    /// At most this many, 1 to 100; 50 when left out.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

/// Lists acknowledged deliveries that are not in the inbox yet.
///
/// Normally a delivery is here for a few milliseconds. Those that could not be filed come first, with the
/// reason; they are tried again, at least once an hour.
#[utoipa::path(
    get,
    path = "/v1/stripe/inbox/unfiled",
    tag = "stripe",
    params(UnfiledQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "The deliveries", body = Vec<Unfiled>), ReadErrors)
)]
pub(crate) async fn unfiled(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    let UnfiledQuery { limit } = read.take()?;
    read.params.done()?;
    let limit = checked_limit(limit, 100)?;
    read.show(move |conn| inbox::unfiled(conn, limit)).await
}

/// Counts the Stripe inbox by type of event.
#[utoipa::path(
    get,
    path = "/v1/stripe/inbox/types",
    tag = "stripe",
    security(("key" = ["admin"])),
    responses((status = 200, description = "Counts, most first", body = Vec<TypeCount>),
    ReadErrors)
)]
pub(crate) async fn types(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    read.show(inbox::count_by_type).await
}

/// Shows one event with its body.
#[utoipa::path(
    get,
    path = "/v1/stripe/inbox/{inbox_id}",
    tag = "stripe",
    params(("inbox_id" = i64, Path, description = "Number in the inbox")),
    security(("key" = ["admin"])),
    responses((status = 200, description = "The event", body = InboxEvent), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, inbox_id: web::Path<i64>) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    read.show(move |conn| {
        let (entry, bytes, redeliveries) = inbox::find(conn, *inbox_id)?;
        let (body, body_base64) = match String::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(base64::prelude::BASE64_STANDARD.encode(error.as_bytes()))),
        };
        Ok(InboxEvent { entry, redeliveries, body, body_base64 })
    })
    .await
}

/// The number of events to project again.
#[derive(Serialize, ToSchema)]
pub struct Retried {
    /// Events.
    retried: usize,
}

/// Projects one event again.
#[utoipa::path(
    post,
    path = "/v1/stripe/inbox/{inbox_id}/retry",
    tag = "stripe",
    params(("inbox_id" = i64, Path, description = "Number in the inbox"), IdempotencyKey),
    security(("key" = ["admin"])),
    responses((status = 202, description = "It is on the queue", body = Retried),
    CommandErrors)
)]
pub(crate) async fn retry(command: Command, inbox_id: web::Path<i64>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let inbox_id = inbox_id.into_inner();
    command
        .run_and_wake(move |conn, _| {
            inbox::retry(conn, inbox_id)?;
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "stripe_event.retry",
                target: inbox_id.to_string(),
                detail: json!({}),
            };
            Answer::new(StatusCode::ACCEPTED, &Retried { retried: 1 }, audit)
        })
        .await
}

/// Projects all quarantined events again.
#[utoipa::path(
    post,
    path = "/v1/stripe/inbox/retry",
    tag = "stripe",
    params(IdempotencyKey),
    security(("key" = ["admin"])),
    responses((status = 202, description = "They are on the queue", body = Retried),
    CommandErrors)
)]
pub(crate) async fn retry_all(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    command
        .run_and_wake(|conn, _| {
            let retried = inbox::retry_all(conn)?;
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "stripe_event.retry_all",
                target: "quarantine".to_owned(),
                detail: json!({ "events": retried }),
            };
            Answer::new(StatusCode::ACCEPTED, &Retried { retried }, audit)
        })
        .await
}
