//! `/v1/battery/effects/ignored`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::api::battery::effects::Dismissal;
use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, IdempotencyKey, ReadErrors};
use crate::api::http::Body;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::battery::effects::ignored::{self, Ignored, IgnoredKind};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists what is ignored: what another product of the same Stripe account sells.
#[utoipa::path(
    get, path = "/v1/battery/effects/ignored", tag = "battery", params(PageQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "A page", body = Page<Ignored>), ReadErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let page: PageQuery = params.take()?;
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<(String, String)>("battery_effects_ignored")?);
    let rows = app.db.run(principal.rows, move |conn| ignored::list(conn, after.clone(), limit + 1)).await?;
    let place = |rule: &Ignored| (rule.kind.clone(), rule.id.clone());
    Ok(HttpResponse::Ok().json(Page::of("battery_effects_ignored", rows, limit, place)?))
}

/// Lets nothing wait that is sold by this price, product or payment link, unless it buys a plan or a pack
/// here: another product of the same Stripe account sells it. What waits of it already waits no more.
#[utoipa::path(
    put, path = "/v1/battery/effects/ignored/{kind}/{id}", tag = "battery",
    params(("kind" = IgnoredKind, Path, description = "`price`, `product` or `payment_link`"),
    ("id" = String, Path, description = "Stripe's id"), IdempotencyKey),
    request_body = Dismissal, security(("key" = ["admin"])),
    responses((status = 200, description = "The rule", body = Ignored), CommandErrors)
)]
pub async fn put(
    app: web::Data<App>,
    principal: Principal,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let (kind, id) = path.into_inner();
    let (kind, why) = (IgnoredKind::parse(&kind)?, commands::parse::<Dismissal>(&body.0)?);
    let done = commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let rule = ignored::put(conn, kind, &id, &why.reason, now)?;
        let audit = Audit {
            org_id: PLATFORM,
            action: "battery_effect.ignore",
            target: format!("{}/{id}", kind.name()),
            detail: json!({ "reason": why.reason }),
        };
        Answer::new(StatusCode::OK, &rule, audit)
    });
    let answer = done.await?;
    app.wake.all();
    Ok(answer)
}

/// Ignores a price, product or payment link no more; what was passed over meanwhile is looked at again.
#[utoipa::path(
    delete, path = "/v1/battery/effects/ignored/{kind}/{id}", tag = "battery",
    params(("kind" = IgnoredKind, Path, description = "`price`, `product` or `payment_link`"),
    ("id" = String, Path, description = "Stripe's id"), IdempotencyKey),
    security(("key" = ["admin"])),
    responses((status = 200, description = "The rule that was", body = Ignored), CommandErrors)
)]
pub async fn delete(
    app: web::Data<App>,
    principal: Principal,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let (kind, id) = path.into_inner();
    let kind = IgnoredKind::parse(&kind)?;
    let done = commands::run(&app, &principal, &request, &body.0, move |conn, _| {
        let rule = ignored::remove(conn, kind, &id)?;
        let target = format!("{}/{id}", kind.name());
        let audit = Audit { org_id: PLATFORM, action: "battery_effect.heed", target, detail: json!({}) };
        Answer::new(StatusCode::OK, &rule, audit)
    });
    let answer = done.await?;
    app.wake.all();
    Ok(answer)
}
