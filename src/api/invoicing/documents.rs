//! `/v1/invoices/{id}/document` and `/v1/credit_notes/{id}/document`: what the customer sees, in every form.

use std::time::Duration;

use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use actix_web::{HttpResponse, web};
use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::described::FindErrors;
use crate::api::reads::ReadRequest;
use crate::app::App;
use crate::auth::Scope;
use crate::documents::content::Document;
use crate::documents::html::{self, Template};
use crate::documents::{Error as DocumentError, pdf, xml};
use crate::error::{Error, Problem};
use crate::invoicing::{commands, credit_notes, invoices};
use crate::panics;

/// How long a request waits for its turn to have a document made.
const WAIT: Duration = Duration::from_secs(20);

/// A form of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DocumentFormat)]
pub enum Format {
    /// A page for a browser.
    #[default]
    Html,
    /// PDF/A-3.
    Pdf,
    /// The content as it is stored.
    Json,
    /// An e-invoice in UBL 2.1.
    Ubl,
    /// An e-invoice in UN/CEFACT CII.
    Cii,
    /// Factur-X 1.0, which is ZUGFeRD 2: a PDF with CII in it.
    Facturx,
}

impl Format {
    /// Its content type, and how the names of its files end.
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Html => ("text/html; charset=utf-8", "html"),
            Self::Pdf | Self::Facturx => ("application/pdf", "pdf"),
            Self::Json => ("application/json", "json"),
            Self::Ubl | Self::Cii => ("application/xml", "xml"),
        }
    }
}

/// The set of rules that an e-invoice follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EInvoiceProfile)]
pub enum Profile {
    /// The European standard alone.
    En16931,
    /// Germany's authorities.
    XRechnung,
    /// The Peppol network.
    Peppol,
}

/// How to show a document.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DocumentQuery {
    /// The form; `html` when left out.
    #[serde(default)]
    #[param(required = false)]
    format: Format,
    /// Language: en, de, fr, es or id. That of the document when left out.
    language: Option<String>,
    /// Rules of the e-invoice, for `ubl` and `cii`; `en16931` when left out.
    profile: Option<Profile>,
}

impl DocumentQuery {
    fn check(&self) -> Result<(), Error> {
        if self.profile.is_some() && !matches!(self.format, Format::Ubl | Format::Cii) {
            return Err(Error::invalid("profile", "is for the formats ubl and cii: leave it out"));
        }
        Ok(())
    }
}

/// Finds the org of a document. The number: the only org that the caller may see.
type Owner = fn(&mut PgConnection, &str, Option<i64>) -> Result<i64, Error>;

/// Finds the document and answers with the form that is asked for.
async fn answer(mut read: ReadRequest, id: web::Path<String>, owner: Owner) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let query: DocumentQuery = read.take()?;
    read.params.done()?;
    query.check()?;
    let (own, directory, now) = (read.principal.own_org_id(), read.directory(), read.app.clock.now());
    let named = id.clone();
    let found = read.run_as_platform(move |conn| {
        let org_id = owner(conn, &id, own)?;
        let org = directory.find(conn, org_id)?;
        Ok((org_id, commands::document(conn, &org, &id, now)?))
    });
    let (org_id, mut document) = found.await?;
    read.note("document.read", &named, move |_| Ok(org_id)).await?;
    if let Some(language) = &query.language {
        document.language.clone_from(language);
    }
    // A page takes a processor for a while, so few are made at once, and none on a thread that answers.
    let turn = read.app.pages.wait(read.principal.holder(), WAIT).await;
    let turn = turn.ok_or(Error::Busy("too many documents are being made: ask again in a second"))?;
    let (app, format, file) = (read.app.clone(), query.format, file_name(&document, query.format));
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        panics::catch_as_error(|| write(&app, &document, &query))
    });
    let body = made.await.map_err(|error| Error::Internal(error.to_string()))??;
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, format.file().0));
    response.insert_header((CONTENT_DISPOSITION, format!("inline; filename=\"{file}\"")));
    if format == Format::Html {
        // The page needs nothing from elsewhere.
        let policy = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; img-src data:; sandbox";
        response.insert_header((CONTENT_SECURITY_POLICY, policy));
    }
    Ok(response.body(body))
}

/// `INV-2026-000001.pdf`. A character of the number that file systems or headers could read as their own
/// becomes `_`.
fn file_name(document: &Document, format: Format) -> String {
    let number = document.number.as_deref().unwrap_or("draft");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = number.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    format!("{name}.{}", format.file().1)
}

/// The document in a form. Every form is made of the content alone.
fn write(app: &App, document: &Document, query: &DocumentQuery) -> Result<Vec<u8>, Error> {
    let template: &Template = &app.template;
    let profile = match query.profile {
        None | Some(Profile::En16931) => xml::Profile::En16931,
        Some(Profile::XRechnung) => xml::Profile::XRechnung,
        Some(Profile::Peppol) => xml::Profile::Peppol,
    };
    let made = match query.format {
        Format::Html => html::html(document, template).map(String::into_bytes),
        Format::Pdf => pdf::pdf(document, template),
        Format::Json => {
            return serde_json::to_vec(document).map_err(|error| Error::Internal(error.to_string()));
        }
        Format::Ubl => xml::ubl(document, profile).map(String::into_bytes),
        Format::Cii => xml::cii(document, profile).map(String::into_bytes),
        Format::Facturx => xml::facturx(document, template),
    };
    made.map_err(|error| match error {
        DocumentError::UnknownLanguage(_) => Error::invalid("language", error.to_string()),
        DocumentError::EInvoice { .. } => Error::conflict("no_e_invoice", error.to_string()),
        DocumentError::MissingSign(_) => Error::conflict("no_sign_for_character", error.to_string()),
        DocumentError::Template { .. } | DocumentError::Pdf(_) => Error::Internal(error.to_string()),
    })
}

/// Shows the document of an invoice of our own: as it was issued, or of a draft as it would be now.
#[utoipa::path(
    get, path = "/v1/invoices/{id}/document", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), DocumentQuery),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The document", content(
            (String = "text/html"), (Vec<u8> = "application/pdf"), (Document = "application/json"),
            (String = "application/xml")
        )),
        (status = 409, description = "Something is missing for this form, or the draft waits for something",
            body = Problem, content_type = "application/problem+json"),
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
    responses(
        (status = 200, description = "The document", content(
            (String = "text/html"), (Vec<u8> = "application/pdf"), (Document = "application/json"),
            (String = "application/xml")
        )),
        (status = 409, description = "Something is missing for this form", body = Problem,
            content_type = "application/problem+json"),
        FindErrors
    )
)]
pub(crate) async fn of_credit_note(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    answer(read, id, credit_notes::org_of).await
}
