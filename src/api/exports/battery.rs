//! `/v1/battery/export` and `/v1/battery/export/totals`.

use actix_web::{HttpRequest, HttpResponse, web};

use super::download::{respond, respond_totals};
use crate::api::described::{ExportFile, FindErrors};
use crate::api::params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::battery::upkeep;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::export::{BatteryParams, ExportRequest};

/// Batches of due entries that an export waits for at most.
const BATCHES: usize = 1_000;

/// Exports the entries of batteries' ledgers as a file.
///
/// Rows are ordered by org and sequence; the same state gives the same bytes. `Coulomb-Control-Totals` counts
/// and sums the rows by kind of entry. A download that fails half-way breaks off; `after` continues it.
#[utoipa::path(
    get, path = "/v1/battery/export", tag = "exports", params(BatteryParams),
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
    post_due(&app).await?;
    respond(&app, &principal, &request, wanted).await
}

/// Counts and sums the rows of an export with the same parameters, by kind of entry.
#[utoipa::path(
    get, path = "/v1/battery/export/totals", tag = "exports", params(BatteryParams),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"battery\",\"rows\":2,\"kinds\":{\"bonus\":{\"rows\":2,\"amount\":\"12.5\"}}}`",
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
    post_due(&app).await?;
    respond_totals(&app, &principal, wanted).await
}

fn asked(app: &App, request: &HttpRequest) -> Result<ExportRequest, Error> {
    BatteryParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}

/// Writes the entries that have become due, so that the file has them.
async fn post_due(app: &web::Data<App>) -> Result<(), Error> {
    let now = app.clock.now();
    for _ in 0..BATCHES {
        if app.db.run(RowScope::Platform, move |conn| upkeep::post_due(conn, now)).await? == 0 {
            break;
        }
    }
    Ok(())
}
