//! `/v1/battery/effects/ignored`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::api::battery::effects::Dismissal;
use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::battery::effects::ignored::{self, Ignored, IgnoredKind};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists the ignored prices, products and payment links: those of another product of the same Stripe account.
#[utoipa::path(
    get, path = "/v1/battery/effects/ignored", tag = "battery", params(PageQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "A page", body = Page<Ignored>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    let page = read.take_page("battery_effects_ignored")?;
    let key = |rule: &Ignored| (rule.kind.clone(), rule.id.clone());
    read.list(page, key, |conn, page| ignored::list(conn, page.after.clone(), page.to_fetch())).await
}

/// Ignores a price, product or payment link, because another product of the same Stripe account sells it.
///
/// Its sales do not wait any more, those that wait now included. A sale that buys a plan or a pack here still
/// counts.
#[utoipa::path(
    put, path = "/v1/battery/effects/ignored/{kind}/{id}", tag = "battery",
    params(("kind" = IgnoredKind, Path, description = "`price`, `product` or `payment_link`"),
    ("id" = String, Path, description = "Stripe's id"), IdempotencyKey),
    request_body = Dismissal, security(("key" = ["admin"])),
    responses((status = 200, description = "The rule", body = Ignored), CommandErrors)
)]
pub(crate) async fn put(command: Command, path: web::Path<(String, String)>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let (kind, id) = path.into_inner();
    let (kind, why) = (IgnoredKind::parse(&kind)?, command.read::<Dismissal>()?);
    command
        .run_and_wake(move |conn, now| {
            let rule = ignored::put(conn, kind, &id, &why.reason, now)?;
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "battery_effect.ignore",
                target: format!("{}/{id}", kind.name()),
                detail: json!({ "reason": why.reason }),
            };
            Answer::new(StatusCode::OK, &rule, audit)
        })
        .await
}

/// Stops ignoring a price, product or payment link. Sales that were passed over are checked again.
#[utoipa::path(
    delete, path = "/v1/battery/effects/ignored/{kind}/{id}", tag = "battery",
    params(("kind" = IgnoredKind, Path, description = "`price`, `product` or `payment_link`"),
    ("id" = String, Path, description = "Stripe's id"), IdempotencyKey),
    security(("key" = ["admin"])),
    responses((status = 200, description = "The rule that was", body = Ignored), CommandErrors)
)]
pub(crate) async fn delete(
    command: Command,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let (kind, id) = path.into_inner();
    let kind = IgnoredKind::parse(&kind)?;
    command
        .run_and_wake(move |conn, _| {
            let rule = ignored::remove(conn, kind, &id)?;
            let target = format!("{}/{id}", kind.name());
            let audit =
                AuditEntry { org_id: PLATFORM, action: "battery_effect.heed", target, detail: json!({}) };
            Answer::new(StatusCode::OK, &rule, audit)
        })
        .await
}
