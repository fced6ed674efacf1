//! `/v1/orgs/{id}/entitlements`.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use utoipa::IntoParams;

use crate::api::described::FindErrors;
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::{Error, Problem};
use crate::plans::entitlements::{self, Entitlements};

/// The header that asks for news only.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IfNoneMatch {
    /// `ETag` of an earlier answer.
    #[param(rename = "If-None-Match", required = false)]
    #[allow(dead_code, reason = "describes a header")]
    if_none_match: Option<String>,
}

/// Shows what an org is entitled to: its plan with features, its subscription, and each quota with its use.
///
/// It is fast enough to be asked with every request. With `If-None-Match` the answer is 304 while nothing has
/// changed.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/entitlements", tag = "orgs",
    params(("id" = String, Path, description = "Public or external id"), IfNoneMatch),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "All of it", body = Entitlements),
    (status = 304, description = "As it was"),
        (status = 429, description = "Too many requests wait: try again", body = Problem,
            content_type = "application/problem+json"),
        FindErrors)
)]
pub(crate) async fn show(
    read: ReadRequest,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let org = OrgName::must(&read.principal, Some(id.into_inner()), "id")?;
    let entitlements = read.app.quotas.entitlements(read.principal.holder(), org.into_ref()).await?;
    let body = serde_json::to_vec(&Entitlements::new(entitlements, read.app.clock.now()))
        .map_err(|error| Error::Internal(error.to_string()))?;
    let tag = entitlements::etag(&body);
    let asked = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if asked.is_some_and(|named| entitlements::is_named_by(&tag, named)) {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, tag)).finish());
    }
    Ok(HttpResponse::Ok()
        .insert_header((ETAG, tag))
        .insert_header((CACHE_CONTROL, "private, no-cache"))
        .insert_header((CONTENT_TYPE, "application/json"))
        .body(body))
}
