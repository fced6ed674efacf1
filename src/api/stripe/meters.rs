//! `/v1/stripe/meters`: which way the usage of each meter goes to Stripe.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, IdempotencyKey, ReadErrors};
use crate::api::params::Params;
use crate::api::reads::ReadRequest;
use crate::app::App;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::charging::preview::{self, DryRun};
use crate::charging::stripe_meter::{self, StripeMeter};
use crate::charging::ways::{self, MeterWay, NewWay, Unsent};
use crate::error::Error;

/// Lists the meters whose usage goes to Stripe, by key.
#[utoipa::path(
    get, path = "/v1/stripe/meters", tag = "stripe", security(("key" = ["billing:read"])),
    responses((status = 200, description = "The meters", body = Vec<MeterWay>), ReadErrors)
)]
pub(crate) async fn list(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::BillingRead)?;
    read.show(ways::list).await
}

/// Lets the usage of a meter go to Stripe one way, so that it is charged.
///
/// - `totals`: absolute totals of each UTC hour or day, into a meter at Stripe whose `event_time_window` is
///   hour or day. Repeats, late usage and voids overwrite the total, so this is the best choice for new
///   meters.
/// - `deltas`: what was added, into a meter at Stripe without a window.
/// - `invoice_items`: priced lines, as items on the draft of each billing period.
///
/// A meter goes one way only: another one is 409 until this is removed. Usage from before `since` (now, when
/// left out) is not sent. `POST /v1/stripe/meters/{meter}/dry_run` shows what would be sent.
#[utoipa::path(
    put, path = "/v1/stripe/meters/{meter}", tag = "stripe",
    params(("meter" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = NewWay, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The way", body = MeterWay), CommandErrors)
)]
pub(crate) async fn set(command: Command, meter: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let new: NewWay = command.read()?;
    let at_stripe = read_meter(&command.app, &new).await?;
    let actor = command.actor();
    command
        .run_and_wake(move |conn, now| {
            let way = ways::check(conn, &meter, &new, at_stripe.clone(), &actor, now)?;
            let way = ways::set(conn, &way)?;
            let detail = json!(way);
            let audit =
                AuditEntry { org_id: PLATFORM, action: "stripe_meter.set", target: meter.clone(), detail };
            Answer::new(StatusCode::OK, &way, audit)
        })
        .await
}

/// Shows what a way would send now, and writes nothing.
///
/// The answer has the first 1,000 buckets with their orgs and quantities, or the lines of the running periods
/// with their amounts; and why some would wait.
#[utoipa::path(
    post, path = "/v1/stripe/meters/{meter}/dry_run", tag = "stripe",
    params(("meter" = String, Path, description = "Key of the meter")),
    request_body = NewWay, security(("key" = ["billing:read"])),
    responses((status = 200, description = "What would be sent", body = DryRun), CommandErrors)
)]
pub(crate) async fn dry_run(command: Command, meter: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingRead)?;
    let new: NewWay = command.read()?;
    let at_stripe = read_meter(&command.app, &new).await?;
    let (actor, directory) = (command.actor(), command.directory());
    let (now, livemode) = (command.app.clock.now(), command.app.config.acting_realms().livemode());
    let run =
        command.app.db.run_for_holder(command.principal.holder(), crate::db::Scope::Platform, move |conn| {
            let way = ways::check(conn, &meter, &new, at_stripe.clone(), &actor, now)?;
            preview::dry_run(conn, &directory, livemode, &way, now)
        });
    Ok(HttpResponse::Ok().json(run.await?))
}

/// How a way is removed.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveQuery {
    /// The way was a mistake: usage that was not sent is not charged this way. 409 while charges of the meter
    /// are on their way.
    #[serde(default)]
    discard: bool,
}

/// Ends the way of a meter.
///
/// What was sent stays with Stripe. What was used until now still goes this way, also when it comes late.
/// Another way may be set at once; it begins with the next minute.
#[utoipa::path(
    delete, path = "/v1/stripe/meters/{meter}", tag = "stripe",
    params(("meter" = String, Path, description = "Key of the meter"), RemoveQuery, IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is removed"), CommandErrors)
)]
pub(crate) async fn remove(
    BodilessCommand(command): BodilessCommand,
    meter: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let query: RemoveQuery = Params::parse(request.query_string())?.take()?;
    let unsent = if query.discard { Unsent::Discard } else { Unsent::Send };
    command
        .run_and_wake(move |conn, now| {
            let way = ways::remove(conn, &meter, unsent, now)?;
            let detail = json!(way);
            Ok(Answer::done(AuditEntry {
                org_id: PLATFORM,
                action: "stripe_meter.remove",
                target: meter.clone(),
                detail,
            }))
        })
        .await
}

/// Reads the meter at Stripe that a new way names.
async fn read_meter(app: &App, new: &NewWay) -> Result<Option<StripeMeter>, Error> {
    let Some(id) = new.stripe_meter.clone() else { return Ok(None) };
    let sync = app.stripe.as_ref().ok_or(Error::NotConfigured(
        "Coulomb has no key of Stripe: set STRIPE_SECRET_KEY and start the daemon again",
    ))?;
    let (client, account) = (sync.client().clone(), new.account.clone());
    let read = sync.runtime().spawn(async move { stripe_meter::read(&client, &account, &id).await });
    let read = read.await.map_err(|error| Error::Internal(error.to_string()))?;
    read.map(Some)
}
