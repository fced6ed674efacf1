//! `/v1/quota_exemptions`.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::quotas::check::check_text;
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::slots::PeriodKind;
use crate::page::{Page, PageQuery};
use crate::quota::define::SlotDefinition;
use crate::quota::exemptions::{self, Exemption};

/// An exemption to make. Meter, filter, per_subject and period name the limits, as in a quota.
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
    /// True when the quota has one counter for each subject.
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
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (query, page): (ListQuery, _) = (read.take()?, read.take_page::<String>("quota_exemptions")?);
    let org = OrgName::of(&read.principal, query.org, "org")?;
    let key = |exemption: &Exemption| exemption.id.clone();
    read.list(page, key, move |conn, page| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        exemptions::list(conn, org_id, None, page.after.as_deref(), page.to_fetch())
    })
    .await
}

/// Exempts a subject of an org from these limits. It holds at once; the subject's usage is still counted.
#[utoipa::path(
    post, path = "/v1/quota_exemptions", tag = "quotas", params(IdempotencyKey), request_body = NewExemption,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The exemption", body = Exemption), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let sent: NewExemption = command.read()?;
    check_text("subject", &sent.subject)?;
    check_text("reason", &sent.reason)?;
    let NewExemption { org, meter, filter, per_subject, period, subject, reason } = sent;
    let counted = SlotDefinition { meter, filter, per_subject, period };
    let org = OrgName::of_any(org, "org");
    command
        .run(move |conn, now| {
            let org_id = org.row_id(conn)?;
            let id = exemptions::create(conn, org_id, &counted, (&subject, &reason), now)?;
            let made = exemptions::list(conn, Some(org_id), Some(&id), None, 1)?.pop();
            let made = made.ok_or(Error::NotFound("exemption"))?;
            let audit =
                AuditEntry { org_id, action: "quota_exemption.create", target: id, detail: json!(made) };
            Answer::new(StatusCode::CREATED, &made, audit)
        })
        .await
}

/// Ends an exemption: the limits hold for the subject again, and count all that it has used.
#[utoipa::path(
    delete, path = "/v1/quota_exemptions/{id}", tag = "quotas",
    params(("id" = String, Path, description = "`qex_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub(crate) async fn delete(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let id = id.into_inner();
    command
        .run(move |conn, _| {
            let org_id = exemptions::delete(conn, &id)?;
            let audit = AuditEntry {
                org_id,
                action: "quota_exemption.delete",
                target: id.clone(),
                detail: json!({}),
            };
            Ok(Answer::done(audit))
        })
        .await
}
