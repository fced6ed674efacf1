//! `/v1/credit_notes`.

use actix_web::{HttpResponse, web};

use crate::api::billing::read::{self as lists, ExpandWithLines};
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::billing::credit_notes::{CreditNote, CreditNoteFilter, CreditNoteView};
use crate::billing::read::{Basics, Owners, RealmQuery};
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// Lists credit notes, newest first.
#[utoipa::path(
    get, path = "/v1/credit_notes", tag = "credit_notes", params(CreditNoteFilter, Owners, Basics, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<CreditNoteView>), FindErrors)
)]
pub async fn list(app: web::Data<App>, principal: Principal, params: Params) -> Result<HttpResponse, Error> {
    lists::list::<CreditNote>(&app, principal, params).await
}

/// Shows a credit note.
#[utoipa::path(
    get, path = "/v1/credit_notes/{id}", tag = "credit_notes",
    params(("id" = String, Path, description = "Stripe's id"), ExpandWithLines, RealmQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The credit note", body = CreditNoteView), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    params: Params,
) -> Result<HttpResponse, Error> {
    lists::show::<CreditNote>(&app, principal, id.into_inner(), params).await
}
