//! `/v1/invoices/{id}/document` and `/v1/credit_notes/{id}/document`: what the customer sees, in every form.

use actix_web::{HttpResponse, web};
use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::described::FindErrors;
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::documents::content::Document;
use crate::error::{Error, Problem};
use crate::invoicing::{commands, credit_notes, invoices};

/// A form of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DocumentFormat)]
pub enum Format {
    /// The content as it is stored.
    #[default]
    Json,
}

/// How to show a document.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DocumentQuery {
    /// The form; `json` when left out.
    #[serde(default)]
    #[param(required = false)]
    format: Format,
}

/// Finds the org of a document. The number: the only org that the caller may see.
type Owner = fn(&mut PgConnection, &str, Option<i64>) -> Result<i64, Error>;

/// Finds the document and writes it in the form that is asked for.
async fn answer(mut read: ReadRequest, id: web::Path<String>, owner: Owner) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let query: DocumentQuery = read.take()?;
    read.params.done()?;
    let (own, directory, now) = (read.principal.own_org_id(), read.directory(), read.app.clock.now());
    let found = read.run_as_platform(move |conn| {
        let org_id = owner(conn, &id, own)?;
        let org = directory.find(conn, org_id)?;
        commands::document(conn, &org, &id, now)
    });
    write(&found.await?, query)
}

/// The document in a form. Every form is made of the content alone.
fn write(document: &Document, query: DocumentQuery) -> Result<HttpResponse, Error> {
    match query.format {
        Format::Json => Ok(HttpResponse::Ok().json(document)),
    }
}

/// Shows the document of an invoice of our own: as it was issued, or of a draft as it would be now.
#[utoipa::path(
    get, path = "/v1/invoices/{id}/document", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), DocumentQuery),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The document", body = Document),
        (status = 409, description = "It is a draft, and something is missing", body = Problem,
            content_type = "application/problem+json"),
        FindErrors
    )
)]
pub(crate) async fn of_invoice(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    answer(read, id, |conn, id, own| Ok(invoices::place(conn, id, own)?.0)).await
}

/// Shows the document of a credit note of our own, as it was issued.
#[utoipa::path(
    get, path = "/v1/credit_notes/{id}/document", tag = "credit_notes",
    params(("id" = String, Path, description = "`cn_…`"), DocumentQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The document", body = Document), FindErrors)
)]
pub(crate) async fn of_credit_note(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    answer(read, id, credit_notes::org_of).await
}
