//! `/v1/plans`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::plans::{self, Plan, PlanBody};
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::commands::{self, Answer, Audit};
use crate::error::Error;
use crate::http::Body;
use crate::openapi::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::page::{Page, PageQuery};

/// Narrows the list of plans.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only plans that are (true) or are no longer (false) offered.
    active: Option<bool>,
}

/// Lists plans by id.
#[utoipa::path(
    get, path = "/v1/plans", tag = "plans", params(ListQuery, PageQuery), security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<Plan>), ReadErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    query: web::Query<ListQuery>,
    page: web::Query<PageQuery>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let (active, limit, after) = (query.active, page.limit()?, page.after::<String>()?);
    let rows = app
        .db
        .run(principal.rows, move |conn| plans::list(conn, active, after.as_deref(), limit + 1))
        .await?;
    Ok(HttpResponse::Ok().json(Page::of(rows, limit, |plan| plan.id.clone())?))
}

/// Shows a plan.
#[utoipa::path(
    get, path = "/v1/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Key of the plan")), security(("key" = ["billing:read"])),
    responses((status = 200, description = "The plan", body = Plan), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    let id = id.into_inner();
    if id.contains('\0') {
        return Err(Error::NotFound("plan"));
    }
    Ok(HttpResponse::Ok().json(app.db.run(principal.rows, move |conn| plans::find(conn, &id)).await?))
}

/// Makes a plan or replaces it, with the Stripe prices that buy it.
#[utoipa::path(
    put, path = "/v1/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Key of the plan: a-z, 0-9, `-`, `_`, `.`"), IdempotencyKey),
    request_body = PlanBody, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The plan as it is now", body = Plan), CommandErrors)
)]
pub async fn put(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::BillingWrite)?;
    let (id, plan): (String, PlanBody) = (id.into_inner(), commands::parse(&body.0)?);
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        plans::put(conn, &id, &plan, now)?;
        let detail = json!({ "name": plan.name, "active": plan.active, "stripe_prices": plan.stripe_prices });
        let audit = Audit { org_id: PLATFORM, action: "plan.put", target: id.clone(), detail };
        Answer::new(StatusCode::OK, &plans::find(conn, &id)?, audit)
    })
    .await
}
