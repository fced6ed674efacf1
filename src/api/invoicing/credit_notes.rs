//! `POST /v1/credit_notes`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde_json::json;

use super::{audit, org_of_invoice};
use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey};
use crate::auth::Scope;
use crate::error::Error;
use crate::invoicing::credit_notes::{self, CreditNoteBody, OwnCreditNote};

/// Makes a credit note, which takes back all or part of an invoice.
///
/// It lowers what its invoice asks for. What the invoice does not ask for any more, because it is paid,
/// becomes credit: the next invoice uses it, or a refund pays it out.
#[utoipa::path(
    post, path = "/v1/credit_notes", tag = "credit_notes", params(IdempotencyKey),
    request_body = CreditNoteBody, security(("key" = ["billing:write"])),
    responses((status = 201, description = "The credit note", body = OwnCreditNote), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let body: CreditNoteBody = command.read()?;
    let directory = command.directory();
    command
        .run_and_wake(move |conn, now| {
            let found = org_of_invoice(conn, &directory, &body.invoice, None);
            let org = found.map_err(|error| match error {
                Error::NotFound(_) => Error::invalid("invoice", "must be the id of an invoice (`inv_…`)"),
                error => error,
            })?;
            let note = credit_notes::make(conn, &org, &body, now)?;
            let detail = json!({ "number": note.number, "invoice": note.invoice, "total": note.total,
                "currency": note.currency, "reason": note.reason });
            Answer::new(StatusCode::CREATED, &note, audit(&org, "credit_note.create", &note.id, detail))
        })
        .await
}
