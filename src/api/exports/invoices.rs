//! `/v1/invoices/export` and `/v1/invoices/export/totals`.

use actix_web::{HttpRequest, HttpResponse, web};

use super::download::{respond, respond_totals};
use crate::api::described::{ExportFile, FindErrors};
use crate::api::params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::export::{ExportParams, ExportRequest};

/// Exports invoices, their lines, payments or refunds as a file: Stripe's and our own.
///
/// Rows are ordered by `created`, then `id`; the same state gives the same bytes. `Coulomb-Control-Totals`
/// counts and sums the rows. A download that fails half-way breaks off; `after` continues it.
#[utoipa::path(
    get, path = "/v1/invoices/export", tag = "exports", params(ExportParams),
    security(("key" = ["billing:read"])),
    responses(ExportFile, FindErrors)
)]
pub(crate) async fn export(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    respond(&app, &principal, &request, asked(&app, &request)?).await
}

/// Counts and sums the rows of an export with the same parameters, per currency, in minor units.
#[utoipa::path(
    get, path = "/v1/invoices/export/totals", tag = "exports", params(ExportParams),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"invoices\",\"rows\":2,\"currencies\":{\"eur\":{\"rows\":2,\"total\":300,…}}}`",
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
    respond_totals(&app, &principal, asked(&app, &request)?).await
}

fn asked(app: &App, request: &HttpRequest) -> Result<ExportRequest, Error> {
    ExportParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}
