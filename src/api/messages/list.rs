//! `/v1/messages` and `/v1/message_kinds`.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::described::{FindErrors, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::error::Error;
use crate::messages::kinds::{self, KindView};
use crate::messages::{self, Message, MessageFilter};
use crate::page::{Page, PageQuery};

/// Chooses messages.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MessageQuery {
    /// Id of a message: lists, oldest first, what came after it; `start`: from the oldest. Messages are in
    /// the order in which they were assigned to endpoints, so none appears later before one that was listed.
    after: Option<String>,
    /// Only messages of this kind.
    r#type: Option<String>,
}

/// Lists messages, newest first; with `after` oldest first, to catch up.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages", params(MessageQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Message>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let query: MessageQuery = read.take()?;
    let name = if query.after.is_some() { "messages_after" } else { "messages" };
    let page = read.take_page::<String>(name)?;
    let filter = MessageFilter {
        org_id: read.principal.own_org_id(),
        kind: query.r#type,
        oldest_first: query.after.is_some(),
    };
    let first = query.after.filter(|after| after != "start");
    let key = |message: &Message| message.id.clone();
    read.list(page, key, move |conn, page| {
        let after = page.after.as_deref().or(first.as_deref());
        messages::list(conn, &filter, after, page.to_fetch())
    })
    .await
}

/// Shows a message.
#[utoipa::path(
    get, path = "/v1/messages/{id}", tag = "messages",
    params(("id" = String, Path, description = "`msg_…`")), security(("key" = ["usage:read"])),
    responses((status = 200, description = "The message", body = Message), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let own = read.principal.own_org_id();
    read.show(move |conn| messages::find(conn, own, &id)).await
}

/// All kinds of messages.
#[derive(Serialize, ToSchema)]
pub struct KindList {
    /// By name.
    pub data: Vec<KindView>,
}

/// Lists the kinds of messages, each with its meaning and an example.
#[utoipa::path(
    get, path = "/v1/message_kinds", tag = "messages", security(("key" = ["usage:read"])),
    responses((status = 200, description = "All kinds", body = KindList), ReadErrors)
)]
pub(crate) async fn kinds(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    Ok(HttpResponse::Ok().json(KindList { data: kinds::shown() }))
}
