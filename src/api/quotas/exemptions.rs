//! `/v1/quota_exemptions`.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::api::quotas::check::check_text;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::slots::PeriodKind;
use crate::page::{Page, PageQuery};
use crate::quota::define::SlotDefinition;
use crate::quota::exemptions::{self, Exemption};

/// What an exemption is to be. Meter, filter, per_subject and period name the limits, as they do in a quota.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExemption {
    /// Public or external id of the org.
    pub org: String,
    /// Key of the meter.
    pub meter: String,
    /// The quota's filter.
    #[serde(default)]
    pub filter: BTreeMap<String, String>,
    /// Whether the quota has one counter for each subject.
    #[serde(default)]
    pub per_subject: bool,
    /// The quota's period.
    pub period: PeriodKind,
    /// Who is exempt.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub subject: String,
    /// Why, for people.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub reason: String,
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those of this org, by public or external id.
    org: Option<String>,
}

/// Lists exemptions by id.
#[utoipa::path(
    get, path = "/v1/quota_exemptions", tag = "quotas", params(ListQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Exemption>), FindErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (query, page): (ListQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<String>("quota_exemptions")?);
    let org = OrgName::of(&principal, query.org, "org")?;
    let rows = app.db.run(principal.rows, move |conn| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        exemptions::list(conn, org_id, None, after.as_deref(), limit + 1)
    });
    Ok(HttpResponse::Ok().json(Page::of("quota_exemptions", rows.await?, limit, |row| row.id.clone())?))
}

/// Exempts a subject of an org from the limits on this. It holds at once; its usage is counted all the same.
#[utoipa::path(
    post, path = "/v1/quota_exemptions", tag = "quotas", params(IdempotencyKey), request_body = NewExemption,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The exemption", body = Exemption), CommandErrors)
)]
pub async fn create(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let sent: NewExemption = commands::parse(&body.0)?;
    check_text("subject", &sent.subject)?;
    check_text("reason", &sent.reason)?;
    let NewExemption { org, meter, filter, per_subject, period, subject, reason } = sent;
    let counted = SlotDefinition { meter, filter, per_subject, period };
    let org = OrgName::of_any(org, "org");
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let org_id = org.row_id(conn)?;
        let id = exemptions::create(conn, org_id, &counted, (&subject, &reason), now)?;
        let made = exemptions::list(conn, Some(org_id), Some(&id), None, 1)?.pop();
        let made = made.ok_or(Error::NotFound("exemption"))?;
        let audit = Audit { org_id, action: "quota_exemption.create", target: id, detail: json!(made) };
        Answer::new(StatusCode::CREATED, &made, audit)
    })
    .await
}

/// Ends an exemption: limits hold the subject again, with all that it used.
#[utoipa::path(
    delete, path = "/v1/quota_exemptions/{id}", tag = "quotas",
    params(("id" = String, Path, description = "`qex_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub async fn delete(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let id = id.into_inner();
    commands::run(&app, &principal, &request, &[], move |conn, _| {
        let org_id = exemptions::delete(conn, &id)?;
        let audit = Audit { org_id, action: "quota_exemption.delete", target: id.clone(), detail: json!({}) };
        Answer::new(StatusCode::NO_CONTENT, &(), audit)
    })
    .await
}
