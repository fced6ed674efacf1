//! The operator's routes over the Stripe inbox.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::error::Error;
use crate::stripe::inbox::{self, Entry, State, TypeCount, Unfiled};

/// Narrows the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only events that stand there.
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
    /// Where it stands.
    #[serde(flatten)]
    pub entry: Entry,
    /// How often it was delivered after the first time.
    pub redeliveries: i64,
    /// The body as received, where it is UTF-8.
    pub body: Option<String>,
    /// The body in base64, where it is not.
    pub body_base64: Option<String>,
}

/// Lists the Stripe inbox.
#[utoipa::path(
    get,
    path = "/v1/stripe/inbox",
    tag = "stripe",
    params(ListQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "A page", body = InboxPage), ReadErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let query: ListQuery = params.take()?;
    params.done()?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=500).contains(&limit) {
        return Err(Error::invalid("limit", "must be from 1 to 500"));
    }
    let data = app
        .db
        .run(principal.rows, move |conn| {
            inbox::list(conn, query.state, query.about.as_deref(), query.cursor, limit)
        })
        .await?;
    let full = i64::try_from(data.len()).is_ok_and(|len| len == limit);
    let next = data.last().map(|entry| entry.inbox_id).filter(|_| full);
    Ok(HttpResponse::Ok().json(InboxPage { data, next }))
}

/// How many.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UnfiledQuery {
    /// At most this many, 1 to 100; 50 when left out.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

/// Lists deliveries that were acknowledged and are not in the inbox yet.
///
/// Normally there are some for a few milliseconds. Those that could not be filed come first, with the reason;
/// they are tried again, after an hour at most.
#[utoipa::path(
    get,
    path = "/v1/stripe/inbox/unfiled",
    tag = "stripe",
    params(UnfiledQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "The deliveries", body = Vec<Unfiled>), ReadErrors)
)]
pub async fn unfiled(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let query: UnfiledQuery = params.take()?;
    params.done()?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=100).contains(&limit) {
        return Err(Error::invalid("limit", "must be from 1 to 100"));
    }
    let deliveries = app.db.run(principal.rows, move |conn| inbox::unfiled(conn, limit)).await?;
    Ok(HttpResponse::Ok().json(deliveries))
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
pub async fn types(app: web::Data<App>, principal: Principal) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    Ok(HttpResponse::Ok().json(app.db.run(principal.rows, inbox::count_by_type).await?))
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
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    inbox_id: web::Path<i64>,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let inbox_id = inbox_id.into_inner();
    let (entry, bytes, redeliveries) =
        app.db.run(principal.rows, move |conn| inbox::find(conn, inbox_id)).await?;
    let (body, body_base64) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(base64::prelude::BASE64_STANDARD.encode(error.as_bytes()))),
    };
    Ok(HttpResponse::Ok().json(InboxEvent { entry, redeliveries, body, body_base64 }))
}

/// How many are to be projected again.
#[derive(Serialize, ToSchema)]
pub struct Retried {
    /// Events.
    retried: usize,
}

/// Has one event projected again.
#[utoipa::path(
    post,
    path = "/v1/stripe/inbox/{inbox_id}/retry",
    tag = "stripe",
    params(("inbox_id" = i64, Path, description = "Number in the inbox"), IdempotencyKey),
    security(("key" = ["admin"])),
    responses((status = 202, description = "It is on the queue", body = Retried),
    CommandErrors)
)]
pub async fn retry(
    app: web::Data<App>,
    principal: Principal,
    inbox_id: web::Path<i64>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let inbox_id = inbox_id.into_inner();
    let done = commands::run(&app, &principal, &request, &body.0, move |conn, _| {
        inbox::retry(conn, inbox_id)?;
        let audit = Audit {
            org_id: PLATFORM,
            action: "stripe_event.retry",
            target: inbox_id.to_string(),
            detail: json!({}),
        };
        Answer::new(StatusCode::ACCEPTED, &Retried { retried: 1 }, audit)
    });
    let answer = done.await?;
    app.wake.all();
    Ok(answer)
}

/// Has every quarantined event projected again.
#[utoipa::path(
    post,
    path = "/v1/stripe/inbox/retry",
    tag = "stripe",
    params(IdempotencyKey),
    security(("key" = ["admin"])),
    responses((status = 202, description = "They are on the queue", body = Retried),
    CommandErrors)
)]
pub async fn retry_all(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let done = commands::run(&app, &principal, &request, &body.0, |conn, _| {
        let retried = inbox::retry_all(conn)?;
        let audit = Audit {
            org_id: PLATFORM,
            action: "stripe_event.retry_all",
            target: "quarantine".to_owned(),
            detail: json!({ "events": retried }),
        };
        Answer::new(StatusCode::ACCEPTED, &Retried { retried }, audit)
    });
    let answer = done.await?;
    app.wake.all();
    Ok(answer)
}
