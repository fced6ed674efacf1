//! `/v1/message_endpoints`: who gets messages.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::billing::org_name::OrgName;
use crate::billing::standing;
use crate::error::Error;
use crate::messages::endpoints::{self, Endpoint, EndpointFilter, EndpointPatch, NewEndpoint};
use crate::page::{Page, PageQuery};

/// Hours that a replaced secret goes on signing when the request gives none.
const OVERLAP_H: i64 = 24;

/// Narrows the list of endpoints.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those of this org, by public or external id.
    org: Option<String>,
}

/// An endpoint with what its receiver needs to verify signatures.
#[derive(Serialize, ToSchema)]
pub struct EndpointSecret {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// The shared secret (`whsec_…`), shown this once, or the public key (`whpk_…`). A replay of the request
    /// shows null.
    pub secret: Option<String>,
}

/// How long the old secret signs beside the new one.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBody {
    /// Hours, 0 to 336; 24 when left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 336)]
    pub overlap_hours: Option<i64>,
}

/// Lists endpoints by id: the platform's and those of orgs; for a key of an org its own.
#[utoipa::path(
    get, path = "/v1/message_endpoints", tag = "messages", params(ListQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Endpoint>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (query, page): (ListQuery, _) = (read.take()?, read.take_page::<String>("message_endpoints")?);
    let org = OrgName::of(&read.principal, query.org, "org")?;
    let fetched = page.clone();
    let rows = read
        .run_as_platform(move |conn| {
            let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
            let filter = EndpointFilter { org_id, id: None, after: fetched.after.clone() };
            endpoints::list(conn, &filter, fetched.to_fetch())
        })
        .await?;
    let rows = rows.into_iter().map(|(_, endpoint)| endpoint).collect();
    Ok(HttpResponse::Ok().json(page.page(rows, |endpoint: &Endpoint| endpoint.id.clone())?))
}

/// Makes an endpoint. It gets the messages that are written from now on.
#[utoipa::path(
    post, path = "/v1/message_endpoints", tag = "messages", params(IdempotencyKey),
    request_body = NewEndpoint, security(("key" = ["billing:write"])),
    responses(
        (status = 201, description = "The endpoint, with its secret, shown once", body = EndpointSecret),
        CommandErrors
    )
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let new: NewEndpoint = command.read()?;
    let org = OrgName::of(&command.principal, new.org.clone(), "org")?;
    let rules = command.app.config.message_targets();
    command
        .run(move |conn, now| {
            let org_id = org.as_ref().map_or(Ok(PLATFORM), |org| org.row_id(conn))?;
            standing::must_not_be_erased(conn, org_id)?;
            let (id, secret) = endpoints::create(conn, &rules, org_id, &new, now)?;
            let (_, endpoint) = endpoints::find(conn, Some(org_id), &id)?;
            with_secret(StatusCode::CREATED, (org_id, endpoint), secret, "message_endpoint.create")
        })
        .await
}

/// The answer that shows a secret once.
fn with_secret(
    status: StatusCode,
    (org_id, endpoint): (i64, Endpoint),
    secret: String,
    action: &'static str,
) -> Result<Answer, Error> {
    let audit = AuditEntry { org_id, action, target: endpoint.id.clone(), detail: json!(endpoint) };
    let shown = EndpointSecret { endpoint: endpoint.clone(), secret: Some(secret) };
    let mut answer = Answer::new(status, &shown, audit)?;
    answer.replay = Some(crate::json::to_tree(&EndpointSecret { endpoint, secret: None })?);
    Ok(answer)
}

/// Shows an endpoint.
#[utoipa::path(
    get, path = "/v1/message_endpoints/{id}", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`")), security(("key" = ["billing:read"])),
    responses((status = 200, description = "The endpoint", body = Endpoint), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let own = read.principal.own_org_id();
    let (_, endpoint) = read.run_as_platform(move |conn| endpoints::find(conn, own, &id)).await?;
    Ok(HttpResponse::Ok().json(endpoint))
}

/// Changes an endpoint. The change holds within two seconds.
#[utoipa::path(
    patch, path = "/v1/message_endpoints/{id}", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`"), IdempotencyKey),
    request_body = EndpointPatch, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The endpoint as it is now", body = Endpoint), CommandErrors)
)]
pub(crate) async fn update(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let (own, patch): (_, EndpointPatch) = (command.principal.own_org_id(), command.read()?);
    let rules = command.app.config.message_targets();
    command
        .run(move |conn, now| {
            let (org_id, endpoint) = endpoints::update(conn, &rules, (own, &id), &patch, now)?;
            let (action, detail) = ("message_endpoint.update", json!(endpoint));
            Answer::new(StatusCode::OK, &endpoint, AuditEntry { org_id, action, target: id.clone(), detail })
        })
        .await
}

/// Deletes an endpoint with its deliveries and their attempts.
#[utoipa::path(
    delete, path = "/v1/message_endpoints/{id}", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub(crate) async fn delete(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let own = command.principal.own_org_id();
    command
        .run(move |conn, _| {
            let org_id = endpoints::delete(conn, own, &id)?;
            let action = "message_endpoint.delete";
            Ok(Answer::done(AuditEntry { org_id, action, target: id.clone(), detail: json!({}) }))
        })
        .await
}

/// Gives an endpoint a new secret. For a while both sign, so the receiver can change in its own time.
#[utoipa::path(
    post, path = "/v1/message_endpoints/{id}/roll_secret", tag = "messages",
    params(("id" = String, Path, description = "`mep_…`"), IdempotencyKey),
    request_body = Option<RollBody>, security(("key" = ["billing:write"])),
    responses(
        (status = 200, description = "The endpoint, with its new secret, shown once", body = EndpointSecret),
        CommandErrors
    )
)]
pub(crate) async fn roll_secret(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::BillingWrite)?;
    let overlap = command.read_optional::<RollBody>()?.overlap_hours.unwrap_or(OVERLAP_H);
    let own = command.principal.own_org_id();
    command
        .run(move |conn, now| {
            let (org_id, secret) = endpoints::roll_secret(conn, own, &id, overlap, now)?;
            let found = endpoints::find(conn, Some(org_id), &id)?;
            with_secret(StatusCode::OK, found, secret, "message_endpoint.roll_secret")
        })
        .await
}
