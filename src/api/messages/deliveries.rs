//! `/v1/message_endpoints/{id}/…`: what was sent, and what is sent again.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::Scope;
use crate::error::Error;
use crate::messages::deliveries::{self, Attempt, Delivery, DeliveryFilter};
use crate::messages::endpoints;
use crate::page::{Page, PageQuery};
use crate::time::Moment;

const STATES: [&str; 3] = ["waiting", "delivered", "given_up"];

/// Narrows the list of deliveries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those with a higher number: to catch up after the last one that arrived.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Only `waiting`, `delivered` or `given_up`.
    state: Option<String>,
}

/// What to send again.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    /// From this time on, by `created_at` of the messages.
    pub since: Moment,
    /// Before this time; now when left out.
    #[serde(default)]
    pub until: Option<Moment>,
}

/// What is sent again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// Number of deliveries that were added.
    pub deliveries: usize,
}

/// Lists deliveries of an endpoint by number.
#[utoipa::path(
    get, path = "/v1/message_endpoints/{id}/deliveries", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`"), ListQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Delivery>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (query, page): (ListQuery, _) = (read.take()?, read.take_page::<i64>("message_deliveries")?);
    if query.state.as_ref().is_some_and(|state| !STATES.contains(&state.as_str())) {
        return Err(Error::invalid("state", format!("must be one of {}", STATES.join(", "))));
    }
    let (own, fetched) = (read.principal.own_org_id(), page.clone());
    let rows = read
        .run_as_platform(move |conn| {
            let (org_id, _) = endpoints::find(conn, own, &id)?;
            let after = fetched.after.or(query.after).unwrap_or(0);
            let filter = DeliveryFilter { state: query.state.clone(), sequence: None, after };
            deliveries::list(conn, (org_id, &id), &filter, fetched.to_fetch())
        })
        .await?;
    Ok(HttpResponse::Ok().json(page.page(rows, |delivery: &Delivery| delivery.sequence)?))
}

/// Lists the attempts of a delivery.
#[utoipa::path(
    get, path = "/v1/message_endpoints/{id}/deliveries/{sequence}/attempts", tag = "messages",
    params(
        ("id" = String, Path, description = "`mep_…`"),
        ("sequence" = i64, Path, description = "Number of the delivery"), PageQuery
    ),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Attempt>), FindErrors)
)]
pub(crate) async fn attempts(
    mut read: ReadRequest,
    path: web::Path<(String, i64)>,
) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (page, own) = (read.take_page::<i32>("message_attempts")?, read.principal.own_org_id());
    let ((id, sequence), fetched) = (path.into_inner(), page.clone());
    let rows = read
        .run_as_platform(move |conn| {
            let (org_id, _) = endpoints::find(conn, own, &id)?;
            let after = fetched.after.unwrap_or(0);
            deliveries::attempts(conn, (org_id, &id), sequence, after, fetched.to_fetch())
        })
        .await?;
    Ok(HttpResponse::Ok().json(page.page(rows, |attempt: &Attempt| attempt.attempt)?))
}

/// Sends a delivery again, whatever became of it.
#[utoipa::path(
    post, path = "/v1/message_endpoints/{id}/deliveries/{sequence}/resend", tag = "messages",
    params(
        ("id" = String, Path, description = "`mep_…`"),
        ("sequence" = i64, Path, description = "Number of the delivery"), IdempotencyKey
    ),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The delivery, which waits", body = Delivery), CommandErrors)
)]
pub(crate) async fn resend(
    BodilessCommand(command): BodilessCommand,
    path: web::Path<(String, i64)>,
) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let ((id, sequence), own) = (path.into_inner(), command.principal.own_org_id());
    command
        .run(move |conn, now| {
            let (org_id, delivery) = deliveries::resend(conn, own, &id, sequence, now)?;
            let (action, detail) = ("message_delivery.resend", json!({ "sequence": sequence }));
            Answer::new(StatusCode::OK, &delivery, AuditEntry { org_id, action, target: id.clone(), detail })
        })
        .await
}

/// Sends all messages of a time that the endpoint wants, each under a new number, at most 100,000.
#[utoipa::path(
    post, path = "/v1/message_endpoints/{id}/replay", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`"), IdempotencyKey),
    request_body = ReplayBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "How many", body = Replayed), CommandErrors)
)]
pub(crate) async fn replay(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let body: ReplayBody = command.read()?;
    let times = (body.since.0, body.until.map(|until| until.0));
    let own = command.principal.own_org_id();
    command
        .run(move |conn, now| {
            let (org_id, deliveries) = deliveries::replay(conn, own, &id, times, now)?;
            let detail = json!({ "since": times.0, "until": times.1, "deliveries": deliveries });
            let action = "message_endpoint.replay";
            let audit = AuditEntry { org_id, action, target: id.clone(), detail };
            Answer::new(StatusCode::OK, &Replayed { deliveries }, audit)
        })
        .await
}

/// Sends a message of the kind `endpoint.test` to this endpoint.
#[utoipa::path(
    post, path = "/v1/message_endpoints/{id}/test", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It will be sent"), CommandErrors)
)]
pub(crate) async fn test(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let own = command.principal.own_org_id();
    command
        .run(move |conn, now| {
            let org_id = deliveries::test(conn, own, &id, now)?;
            let action = "message_endpoint.test";
            Ok(Answer::done(AuditEntry { org_id, action, target: id.clone(), detail: json!({}) }))
        })
        .await
}
