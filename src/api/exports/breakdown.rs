//! `/v1/usage/breakdown/export` and `/v1/usage/breakdown/export/totals`.

use actix_web::{HttpRequest, HttpResponse, web};

use super::download::{respond, respond_totals};
use crate::api::described::{ExportFile, FindErrors};
use crate::api::params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::export::{BreakdownExportParams, ExportRequest};

/// Exports a breakdown of usage as a file: the rows of `/v1/usage/breakdown` with the same parameters.
///
/// `dimension.<name>=<value>` keeps only usage with that value of a dimension or label; of several such
/// parameters all must hold. Rows are ordered by time, org, meter, currency, member, subject, dimensions.
/// `Coulomb-Control-Totals` sums costs by currency, and quantities by meter.
#[utoipa::path(
    get, path = "/v1/usage/breakdown/export", tag = "exports", params(BreakdownExportParams),
    security(("key" = ["usage:read"])),
    responses(ExportFile, FindErrors)
)]
pub(crate) async fn export(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    respond(&app, &principal, &request, asked(&app, &request)?).await
}

/// Counts and sums the rows of an export with the same parameters: costs by currency, quantities by meter.
#[utoipa::path(
    get, path = "/v1/usage/breakdown/export/totals", tag = "exports", params(BreakdownExportParams),
    security(("key" = ["usage:read"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"breakdown\",\"rows\":2,\"currencies\":{\"eur\":{\"rows\":2,\"cost\":\"12.5\"}},\
                \"meters\":{\"tokens\":{\"rows\":2,\"quantity\":\"100\",\"count\":5,\
                \"battery_units\":\"0\"}}}`",
            body = Object),
        FindErrors
    )
)]
pub(crate) async fn totals(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    respond_totals(&app, &principal, asked(&app, &request)?).await
}

fn asked(app: &App, request: &HttpRequest) -> Result<ExportRequest, Error> {
    BreakdownExportParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}
