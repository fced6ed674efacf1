//! `/v1/meters`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
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
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (query, page): (ListQuery, PageQuery) = (params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<String>("meters")?);
    let rows = app
        .db
        .run(principal.rows, move |conn| {
            let filter = MeterFilter { archived: query.archived, after: after.as_deref(), key: None };
            meters::list(conn, filter, limit + 1)
        })
        .await?;
    Ok(HttpResponse::Ok().json(Page::of("meters", rows, limit, |meter| meter.key.clone())?))
}

/// Shows a meter, with all that it was.
#[utoipa::path(
    get, path = "/v1/meters/{key}", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter")), security(("key" = ["usage:read"])),
    responses((status = 200, description = "The meter and its versions", body = MeterHistory), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    key: web::Path<String>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let found = app.db.run(principal.rows, move |conn| meters::history(conn, &key)).await?;
    Ok(HttpResponse::Ok().json(found))
}

/// Makes a meter.
///
/// It counts usage that comes from then on, under every event with its `event_name`. Only meters of `sum` and
/// `count` can be priced; those and `level` can be limited.
#[utoipa::path(
    post, path = "/v1/meters", tag = "meters", params(IdempotencyKey), request_body = NewMeter,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The meter", body = Meter), CommandErrors)
)]
pub async fn create(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let new: NewMeter = commands::parse(&body.0)?;
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let meter = meters::create(conn, &new, now)?;
        Answer::new(StatusCode::CREATED, &meter, audit("meter.create", &meter))
    })
    .await
}

/// Changes a meter: gives it a new version.
///
/// The version counts usage that comes from then on; what was counted stays as it was. Aggregation and unit
/// never change.
#[utoipa::path(
    patch, path = "/v1/meters/{key}", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    request_body = MeterPatch, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The meter as it is now", body = Meter), CommandErrors)
)]
pub async fn update(
    app: web::Data<App>,
    principal: Principal,
    key: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let patch: MeterPatch = commands::parse(&body.0)?;
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let meter = meters::update(conn, &key, &patch, now)?;
        Answer::new(StatusCode::OK, &meter, audit("meter.update", &meter))
    })
    .await
}

/// Archives a meter: it counts no more.
///
/// What it counted stays, and can be corrected. Events that no other meter counts are rejected as unknown
/// from then on.
#[utoipa::path(
    delete, path = "/v1/meters/{key}", tag = "meters",
    params(("key" = String, Path, description = "Key of the meter"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is archived"), CommandErrors)
)]
pub async fn archive(
    app: web::Data<App>,
    principal: Principal,
    key: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let meter = meters::archive(conn, &key, now)?;
        Answer::new(StatusCode::NO_CONTENT, &Value::Null, audit("meter.archive", &meter))
    })
    .await
}

fn audit(action: &'static str, meter: &Meter) -> Audit {
    let detail = json!({
        "version": meter.version, "name": meter.name, "event_name": meter.event_name,
            "aggregation": meter.aggregation,
        "value_field": meter.value_field, "unit": meter.unit, "dimensions": meter.dimensions,
        "allows_negative": meter.allows_negative, "unpriced": meter.unpriced,
            "change_field": meter.change_field,
    });
    Audit { org_id: PLATFORM, action, target: meter.key.clone(), detail }
}
