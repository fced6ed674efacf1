//! `/v1/stripe/charges`: usage that is charged through Stripe, and what the next invoice will hold.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, BodilessCommand};
use crate::api::described::{CommandErrors, ExportFile, FindErrors, IdempotencyKey};
use crate::api::exports::download::{respond, respond_totals};
use crate::api::params;
use crate::api::reads::ReadRequest;
use crate::app::App;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::charging::charges::{self, Charge, ChargeFilter, ChargePosition, ChargeState};
use crate::charging::preview::{self, InvoicePreview};
use crate::error::Error;
use crate::export::{ChargeParams, ExportRequest};
use crate::page::{Page, PageQuery};

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ChargesQuery {
    /// Only of this org, by public or external id.
    org: Option<String>,
    /// Only in this state.
    #[param(inline)]
    state: Option<ChargeState>,
    /// Only of the meter with this key.
    meter: Option<String>,
}

/// Lists charges of usage through Stripe, the newest period first.
#[utoipa::path(
    get, path = "/v1/stripe/charges", tag = "stripe", params(ChargesQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Charge>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (query, page): (ChargesQuery, _) =
        (read.take()?, read.take_page::<ChargePosition>("stripe_charges")?);
    let org = OrgName::of(&read.principal, query.org, "org")?;
    let (state, meter) = (query.state, query.meter);
    read.list(page, Charge::position, move |conn, page| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        let filter = ChargeFilter { org_id, state, meter: meter.clone() };
        charges::list(conn, &filter, page.after.as_ref(), page.to_fetch())
    })
    .await
}

/// Exports charges of usage through Stripe as a file.
///
/// Rows are ordered by org and charge; the same state gives the same bytes. `Coulomb-Control-Totals` counts
/// and sums the rows by meter. A download that fails half-way breaks off; `after` continues it.
#[utoipa::path(
    get, path = "/v1/stripe/charges/export", tag = "exports", params(ChargeParams),
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

/// Counts and sums the rows of an export with the same parameters, by meter.
#[utoipa::path(
    get, path = "/v1/stripe/charges/export/totals", tag = "exports", params(ChargeParams),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200,
            description = "Control totals: `{\"of\":\"stripe_charges\",\"rows\":1,\"meters\":{\"tokens\":\
                {\"rows\":1,\"quantity\":\"5\",\"moved\":\"0\",\"carried\":\"0\",\"delivered\":\"5\",\
                \"discarded\":\"0\"}}}`",
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
    ChargeParams::from_pairs(params::pairs(request.query_string())?)?.check(app.clock.now())
}

/// The number of charges to try again.
#[derive(Serialize, ToSchema)]
pub struct RetriedCharges {
    /// Charges.
    retried: usize,
}

/// Has one failed charge tried again, after its reason was mended.
#[utoipa::path(
    post, path = "/v1/stripe/charges/{id}/retry", tag = "stripe",
    params(("id" = String, Path, description = "Its id (`chg_…`)"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 202, description = "It is planned", body = RetriedCharges), CommandErrors)
)]
pub(crate) async fn retry(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    command
        .run_and_wake(move |conn, now| {
            let org_id = charges::retry(conn, &id, now)?;
            let audit =
                AuditEntry { org_id, action: "stripe_charge.retry", target: id.clone(), detail: json!({}) };
            Answer::new(StatusCode::ACCEPTED, &RetriedCharges { retried: 1 }, audit)
        })
        .await
}

/// Has all failed charges tried again.
#[utoipa::path(
    post, path = "/v1/stripe/charges/retry", tag = "stripe", params(IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 202, description = "They are planned", body = RetriedCharges), CommandErrors)
)]
pub(crate) async fn retry_all(BodilessCommand(command): BodilessCommand) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    command
        .run_and_wake(|conn, now| {
            let retried = charges::retry_all(conn, now)?;
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "stripe_charge.retry_all",
                target: "failed".to_owned(),
                detail: json!({ "charges": retried }),
            };
            Answer::new(StatusCode::ACCEPTED, &RetriedCharges { retried }, audit)
        })
        .await
}

/// The org whose next invoice is shown.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PreviewQuery {
    /// The org, by public or external id. A key of an org means its own.
    org: Option<String>,
    /// `acct_…` of a connected account that the settings name; our own when left out.
    account: Option<String>,
}

/// Shows what the next Stripe invoice of an org will hold by our books: licensed prices, usage that Stripe
/// sums and how much of it was sent, priced lines, and lines that are frozen already.
#[utoipa::path(
    get, path = "/v1/stripe/preview", tag = "stripe", params(PreviewQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The preview", body = InvoicePreview), FindErrors)
)]
pub(crate) async fn preview(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let query: PreviewQuery = read.take()?;
    read.params.done()?;
    let (org, directory) = (OrgName::must(&read.principal, query.org, "org")?, read.directory());
    let realm = read.app.config.acting_realms().of_account(query.account.unwrap_or_default())?;
    let now = read.app.clock.now();
    let shown = read.run_as_platform(move |conn| {
        let org = org.find(&directory, conn)?;
        preview::of_org(conn, &org, &realm, now)
    });
    Ok(HttpResponse::Ok().json(shown.await?))
}
