//! `/v1/messages`.

use actix_web::HttpResponse;

use crate::api::described::ReadErrors;
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::error::Error;
use crate::outbox::{self, Message};
use crate::page::{Page, PageQuery};

/// Lists messages, newest first. They can only be read here; nothing sends them yet.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages", params(PageQuery), security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Message>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (page, own) = (read.take_page::<String>("messages")?, read.principal.own_org_id());
    let key = |message: &Message| message.id.clone();
    read.list(page, key, move |conn, page| outbox::list(conn, own, page.after.as_deref(), page.to_fetch()))
        .await
}
