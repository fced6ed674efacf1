//! `/v1/messages`.

use actix_web::{HttpResponse, web};

use crate::api::described::ReadErrors;
use crate::api::params::Params;
use crate::api::quotas::limits::own;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::outbox::{self, Message};
use crate::page::{Page, PageQuery};

/// Lists messages, newest first. They can be read here; nothing sends them out yet.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages", params(PageQuery), security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Message>), ReadErrors)
)]
pub async fn list(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let page: PageQuery = params.take()?;
    params.done()?;
    let (limit, before, own) = (page.limit()?, page.after::<String>("messages")?, own(principal.rows));
    let rows = app.db.run(principal.rows, move |conn| outbox::list(conn, own, before.as_deref(), limit + 1));
    Ok(HttpResponse::Ok().json(Page::of("messages", rows.await?, limit, |message| message.id.clone())?))
}
