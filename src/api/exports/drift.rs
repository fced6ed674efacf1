//! `/v1/stripe/drift/export` and `/v1/stripe/drift/export/totals`.

use actix_web::{HttpRequest, HttpResponse, web};

use super::download::{respond, respond_totals};
use crate::api::described::{ExportFile, FindErrors};
use crate::api::params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::export::{DriftParams, ExportRequest};

/// Exports the differences between mirrors and Stripe as a file, in the order in which they were found.
///
/// `Coulomb-Control-Totals` counts the rows by kind.
#[utoipa::path(
    get, path = "/v1/stripe/drift/export", tag = "exports", params(DriftParams),
    security(("key" = ["admin"])),
    responses(ExportFile, FindErrors)
)]
pub(crate) async fn export(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    respond(&app, &principal, &request, asked(&app, &request)?).await
}

/// Counts the rows of an export with the same parameters, by kind.
#[utoipa::path(
    get, path = "/v1/stripe/drift/export/totals", tag = "exports", params(DriftParams),
    security(("key" = ["admin"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"drift\",\"rows\":2,\"kinds\":{\"missed_event\":{\"rows\":2}}}`",
            body = Object),
        FindErrors
    )
)]
pub(crate) async fn totals(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    respond_totals(&app, &principal, asked(&app, &request)?).await
}

fn asked(app: &App, request: &HttpRequest) -> Result<ExportRequest, Error> {
    DriftParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}
