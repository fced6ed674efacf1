//! `/v1/meters`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::error::Error;
use crate::metering::meters::{self, Meter, MeterFilter, MeterHistory, MeterPatch, NewMeter};
use crate::page::{Page, PageQuery};

/// Narrows the list of meters.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only meters that are (true) or are not (false) archived.
    archived: Option<bool>,
}

/// Lists meters by key.
#[utoipa::path(
    get, path = "/v1/meters", tag = "meters", params(ListQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Meter>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (ListQuery { archived }, page) = (read.take()?, read.take_page::<String>("meters")?);
    let key = |meter: &Meter| meter.key.clone();
    read.list(page, key, move |conn, page| {
        let filter = MeterFilter { archived, after: page.after.as_deref(), key: None };
        meters::list(conn, filter, page.to_fetch())
    })
    .await
}

/// Shows a meter with all its versions.
#[utoipa::path(
    get, path = "/v1/meters/{key}", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter")), security(("key" = ["usage:read"])),
    responses((status = 200, description = "The meter and its versions", body = MeterHistory), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, key: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    read.show(move |conn| meters::history(conn, &key)).await
}

/// Makes a meter.
///
/// It counts usage that comes from now on, of every event with its `event_name`. Only meters of kind `sum`
/// and `count` can be priced; these and `level` can be limited.
#[utoipa::path(
    post, path = "/v1/meters", tag = "meters", params(IdempotencyKey), request_body = NewMeter,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The meter", body = Meter), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let new: NewMeter = command.read()?;
    command
        .run(move |conn, now| {
            let meter = meters::create(conn, &new, now)?;
            Answer::new(StatusCode::CREATED, &meter, audit("meter.create", &meter))
        })
        .await
}

/// Changes a meter: gives it a new version.
///
/// The version counts usage that comes from now on; earlier records stay as they are. Aggregation and unit
/// never change.
#[utoipa::path(
    patch, path = "/v1/meters/{key}", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = MeterPatch, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The meter as it is now", body = Meter), CommandErrors)
)]
pub(crate) async fn update(command: Command, key: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let patch: MeterPatch = command.read()?;
    command
        .run(move |conn, now| {
            let meter = meters::update(conn, &key, &patch, now)?;
            Answer::new(StatusCode::OK, &meter, audit("meter.update", &meter))
        })
        .await
}

/// Archives a meter: it does not count any more.
///
/// Its records stay, and can be corrected. From now on, events that no other meter counts are rejected as
/// unknown.
#[utoipa::path(
    delete, path = "/v1/meters/{key}", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is archived"), CommandErrors)
)]
pub(crate) async fn archive(command: Command, key: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    command
        .run(move |conn, now| {
            let meter = meters::archive(conn, &key, now)?;
            Ok(Answer::done(audit("meter.archive", &meter)))
        })
        .await
}

fn audit(action: &'static str, meter: &Meter) -> AuditEntry {
    let detail = json!({
        "version": meter.version, "name": meter.name, "event_name": meter.event_name,
            "aggregation": meter.aggregation,
        "value_field": meter.value_field, "unit": meter.unit, "dimensions": meter.dimensions,
        "allows_negative": meter.allows_negative, "unpriced": meter.unpriced,
            "change_field": meter.change_field,
    });
    AuditEntry { org_id: PLATFORM, action, target: meter.key.clone(), detail }
}
