//! `/v1/audit`: the audit log, as a list and as a file.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::described::{ExportFile, FindErrors};
use crate::api::exports::download::{respond, respond_totals};
use crate::api::params;
use crate::api::reads::ReadRequest;
use crate::app::App;
use crate::audit::read::{self, Filter, LogEntry};
use crate::auth::{Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::export::{AuditParams, ExportRequest};
use crate::page::{Page, PageQuery};
use crate::time::Moment;

/// Narrows the list of entries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only entries that concern the org with this public or external id.
    org: Option<String>,
    /// Only what this actor did: `key:<id>`, `cli:<user>`, `stranger`.
    actor: Option<String>,
    /// Only this action, such as `quota.update`, or all of a noun: `quota.`
    action: Option<String>,
    /// Only what was done to the thing with this id.
    target: Option<String>,
    /// Only what the request with this id did.
    request_id: Option<String>,
    /// At or after (RFC 3339).
    from: Option<Moment>,
    /// Before (RFC 3339).
    before: Option<Moment>,
}

/// Lists entries of the audit log, newest first. A key of an org sees those of its org.
///
/// Each command leaves one, and so do exports and reads of money. What happens too often for that is counted:
/// failed authentications (`auth.fail`) and requests over a limit (`rate_limit.exceed`) have one entry for
/// each address and minute.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", params(AuditQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<LogEntry>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let query: AuditQuery = read.take()?;
    let page = read.take_page::<(Moment, i64)>("audit")?;
    let org = OrgName::of(&read.principal, query.org, "org")?;
    let filter = Filter {
        own: read.principal.own_org_id(),
        org_id: None,
        actor: query.actor,
        action: query.action,
        target: query.target,
        request_id: query.request_id,
        from: query.from.map(|at| at.0),
        before: query.before.map(|at| at.0),
        after: page.after.map(|(at, id)| (at.0, id)),
    };
    let key = |entry: &LogEntry| {
        let (at, id) = entry.place();
        (Moment(at), id)
    };
    read.list(page, key, move |conn, page| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        read::list(conn, &Filter { org_id, ..filter.clone() }, page.to_fetch())
    })
    .await
}

/// Exports the audit log as a file.
///
/// Rows are ordered by time. `Coulomb-Control-Totals` counts the rows by action. A download that fails
/// half-way breaks off; `after` continues it. The entry of this export itself comes after the file.
#[utoipa::path(
    get, path = "/v1/audit/export", tag = "exports", params(AuditParams),
    security(("key" = ["billing:read"])),
    responses(ExportFile, FindErrors)
)]
pub(crate) async fn export(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let wanted = asked(&app, &request)?;
    respond(&app, &principal, &request, wanted).await
}

/// Counts the rows of an export with the same parameters, by action.
#[utoipa::path(
    get, path = "/v1/audit/export/totals", tag = "exports", params(AuditParams),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"audit\",\"rows\":2,\"actions\":{\"org.create\":{\"rows\":2}}}`",
            body = Object),
        FindErrors
    )
)]
pub(crate) async fn totals(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let wanted = asked(&app, &request)?;
    respond_totals(&app, &principal, wanted).await
}

fn asked(app: &App, request: &HttpRequest) -> Result<ExportRequest, Error> {
    AuditParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}
