//! `/v1/battery/effects/waiting`: effects of Stripe's payments that cannot be applied yet.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::battery::effects::waiting::{self, Assignment, WaitingEffect};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only effects that wait for this reason: `no_org`, `unknown_price`, `unknown_pack`, `unknown_quantity`,
    /// `unknown_subscription`, `unknown_period`, `no_grant`, `incomplete_lines`, `already_granted`,
    /// `no_subscription` or `failed`.
    reason: Option<String>,
}

/// Why something is dismissed or ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dismissal {
    /// The reason, for people.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
}

/// Lists effects of Stripe's payments on batteries that cannot be applied yet, oldest first.
#[utoipa::path(
    get, path = "/v1/battery/effects/waiting", tag = "battery", params(ListQuery, PageQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "A page", body = Page<WaitingEffect>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    let (ListQuery { reason }, page) = (read.take()?, read.take_page("battery_effects_waiting")?);
    let key = |effect: &WaitingEffect| effect.id;
    read.list(page, key, move |conn, page| {
        waiting::list(conn, reason.as_deref(), page.after, page.to_fetch())
    })
    .await
}

/// Dismisses a waiting effect: it will never be applied.
#[utoipa::path(
    post, path = "/v1/battery/effects/waiting/{id}/dismiss", tag = "battery",
    params(("id" = i64, Path, description = "Its number"), IdempotencyKey),
    request_body = Dismissal, security(("key" = ["admin"])),
    responses((status = 200, description = "What waited", body = WaitingEffect), CommandErrors)
)]
pub(crate) async fn dismiss(command: Command, id: web::Path<i64>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let (id, dismissal): (i64, Dismissal) = (id.into_inner(), command.read()?);
    command
        .run(move |conn, now| {
            let effect = waiting::dismiss(conn, id, &dismissal.reason, now)?;
            let detail = json!({ "reason": dismissal.reason, "object": effect.object,
            "object_id": effect.object_id, "line": effect.line });
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "battery_effect.dismiss",
                target: id.to_string(),
                detail,
            };
            Answer::new(StatusCode::OK, &effect, audit)
        })
        .await
}

/// Says which org or pack a waiting effect is for, and tries it again. With an empty object it is only tried
/// again.
#[utoipa::path(
    post, path = "/v1/battery/effects/waiting/{id}/assign", tag = "battery",
    params(("id" = i64, Path, description = "Its number"), IdempotencyKey),
    request_body = Assignment, security(("key" = ["admin"])),
    responses((status = 202, description = "It is tried again", body = WaitingEffect), CommandErrors)
)]
pub(crate) async fn assign(command: Command, id: web::Path<i64>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let (id, to): (i64, Assignment) = (id.into_inner(), command.read()?);
    let org = to.org.clone().map(|org| OrgName::of_any(org, "org"));
    command.run_and_wake(move |conn, _| {
        let org_id = org.as_ref().map(|org| org.row_id(conn)).transpose()?;
        let effect = waiting::assign(conn, id, org_id, to.pack.as_deref(), to.quantity)?;
        let detail = json!({ "org": to.org, "pack": to.pack, "quantity": to.quantity, "object": effect.object,
            "object_id": effect.object_id, "line": effect.line });
        let audit = AuditEntry {
            org_id: org_id.unwrap_or(PLATFORM),
            action: "battery_effect.assign",
            target: id.to_string(),
            detail,
        };
        Answer::new(StatusCode::ACCEPTED, &effect, audit)
    }).await
}
