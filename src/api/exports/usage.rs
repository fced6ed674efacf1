//! `/v1/usage/export` and `/v1/usage/export/totals`.

use actix_web::{HttpRequest, HttpResponse, web};

use super::download::{respond, respond_totals};
use crate::api::described::{ExportFile, FindErrors};
use crate::api::params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::export::{ExportRequest, UsageParams};

/// Costs belong to usage and to billing, so either scope may export them.
fn require(principal: &Principal) -> Result<(), Error> {
    principal.require(Scope::BillingRead).or_else(|_| principal.require(Scope::UsageRead))
}

/// Exports usage by day or month, meter, member and dimensions as a file: of all orgs, or of the key's.
///
/// `dimension.<name>=<value>` keeps only usage with that value; of several such parameters all must hold.
/// Rows are ordered by org, day, meter, member, dimensions. Days are those of each org's time zone.
/// `Coulomb-Control-Totals` sums costs by currency, and quantities by meter. `columns=focus` has the columns
/// of FOCUS 1.2 (<https://focus.finops.org/focus-specification/v1-2/>), which FinOps tools read.
#[utoipa::path(
    get, path = "/v1/usage/export", tag = "exports", params(UsageParams),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses(ExportFile, FindErrors)
)]
pub(crate) async fn export(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    respond(&app, &principal, &request, asked(&app, &request)?).await
}

/// Counts and sums the rows of an export with the same parameters: costs by currency, quantities by meter.
#[utoipa::path(
    get, path = "/v1/usage/export/totals", tag = "exports", params(UsageParams),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"usage\",\"rows\":2,\"currencies\":{\"eur\":{\"rows\":2,\"cost\":\"12.5\"}},\
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
    require(&principal)?;
    respond_totals(&app, &principal, asked(&app, &request)?).await
}

fn asked(app: &App, request: &HttpRequest) -> Result<ExportRequest, Error> {
    UsageParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}
