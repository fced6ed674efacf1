//! Commands on invoices of our own, and the preview of the next one.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use utoipa::IntoParams;

use super::{audit, org_of_invoice};
use crate::api::commands::{Answer, BodilessCommand, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgName;
use crate::documents::content::Document;
use crate::error::{Error, Problem};
use crate::invoicing::commands::{self, DraftPatch, InvoiceBody};
use crate::invoicing::imports::{self, ImportBody};
use crate::invoicing::shown::OwnInvoice;

/// Makes an invoice: a draft, unless `finalize` is set.
#[utoipa::path(
    post, path = "/v1/invoices", tag = "invoices", params(IdempotencyKey), request_body = InvoiceBody,
    security(("key" = ["billing:write"])),
    responses((status = 201, description = "The invoice", body = OwnInvoice), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let body: InvoiceBody = command.read()?;
    let (name, directory) = (OrgName::of_any(body.org.clone(), "org"), command.directory());
    command
        .run_and_wake(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let invoice = commands::create(conn, &org, &body, now)?;
            let detail = json!({ "number": invoice.number, "total": invoice.total,
                "currency": invoice.currency, "renewal": body.renewal });
            Answer::new(StatusCode::CREATED, &invoice, audit(&org, "invoice.create", &invoice.id, detail))
        })
        .await
}

/// Imports an invoice that another system issued, with its number and dates. One that is there already stays
/// as it is (200). Its payments are recorded as any payment, with the time at which they were made.
#[utoipa::path(
    post, path = "/v1/invoices/import", tag = "invoices", params(IdempotencyKey), request_body = ImportBody,
    security(("key" = ["billing:write"])),
    responses(
        (status = 201, description = "The invoice", body = OwnInvoice),
        (status = 200, description = "It was there already", body = OwnInvoice),
        CommandErrors
    )
)]
pub(crate) async fn import(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let body: ImportBody = command.read()?;
    let (name, directory) = (OrgName::of_any(body.org.clone(), "org"), command.directory());
    command
        .run(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let (invoice, is_new) = imports::import(conn, &org, &body, now)?;
            let detail = json!({ "number": body.number, "total": body.total, "issue_date": body.issue_date });
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            Answer::new(status, &invoice, audit(&org, "invoice.import", &invoice.id, detail))
        })
        .await
}

/// Changes a draft. A finalised invoice never changes.
#[utoipa::path(
    patch, path = "/v1/invoices/{id}", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), IdempotencyKey),
    request_body = DraftPatch, security(("key" = ["billing:write"])),
    responses((status = 200, description = "The draft as it is now", body = OwnInvoice), CommandErrors)
)]
pub(crate) async fn update(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, patch): (String, DraftPatch) = (id.into_inner(), command.read()?);
    let directory = command.directory();
    command
        .run(move |conn, now| {
            let org = org_of_invoice(conn, &directory, &id, None)?;
            let invoice = commands::change(conn, &org, &id, &patch, now)?;
            let detail = json!({ "texts": patch.texts, "finalize_at": invoice.finalize_at });
            Answer::new(StatusCode::OK, &invoice, audit(&org, "invoice.update", &id, detail))
        })
        .await
}

/// Deletes a draft. Its items wait for the next one; no number is lost, for a draft has none.
#[utoipa::path(
    delete, path = "/v1/invoices/{id}", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 204, description = "It is gone"), CommandErrors)
)]
pub(crate) async fn delete(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, directory) = (id.into_inner(), command.directory());
    command
        .run(move |conn, now| {
            let org = org_of_invoice(conn, &directory, &id, None)?;
            commands::delete(conn, &id, now)?;
            Ok(Answer::done(audit(&org, "invoice.delete", &id, json!({}))))
        })
        .await
}

/// A command on an invoice that needs nothing but its id.
type InvoiceCommand =
    fn(&mut PgConnection, &Arc<OrgContext>, &str, DateTime<Utc>) -> Result<OwnInvoice, Error>;

async fn run(
    command: Command,
    id: web::Path<String>,
    action: &'static str,
    work: InvoiceCommand,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, directory) = (id.into_inner(), command.directory());
    command
        .run_and_wake(move |conn, now| {
            let org = org_of_invoice(conn, &directory, &id, None)?;
            let invoice = work(conn, &org, &id, now)?;
            let detail = json!({ "number": invoice.number, "total": invoice.total,
                "currency": invoice.currency, "status": invoice.status });
            Answer::new(StatusCode::OK, &invoice, audit(&org, action, &id, detail))
        })
        .await
}

/// Finalises a draft: it gets its number, is booked, and earlier credit pays it.
///
/// From then on it never changes. One that is finalised already stays as it is.
#[utoipa::path(
    post, path = "/v1/invoices/{id}/finalize", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The invoice", body = OwnInvoice), CommandErrors)
)]
pub(crate) async fn finalize(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    run(command, id, "invoice.finalize", commands::finalise).await
}

/// Declares an open invoice void: it asks for nothing and keeps its number.
///
/// Money that was paid for it becomes credit, and its coupons get their uses back.
#[utoipa::path(
    post, path = "/v1/invoices/{id}/void", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The invoice", body = OwnInvoice), CommandErrors)
)]
pub(crate) async fn void(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    run(command, id, "invoice.void", commands::void).await
}

/// Gives up what an open invoice still asks for. When it is paid after all, that is taken back.
#[utoipa::path(
    post, path = "/v1/invoices/{id}/write_off", tag = "invoices",
    params(("id" = String, Path, description = "`inv_…`"), IdempotencyKey),
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "The invoice", body = OwnInvoice), CommandErrors)
)]
pub(crate) async fn write_off(
    BodilessCommand(command): BodilessCommand,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    run(command, id, "invoice.write_off", commands::write_off).await
}

/// Which currency the preview is in.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PreviewQuery {
    /// Three lower-case letters; the currency of the org's billing profile when left out.
    currency: Option<String>,
}

/// Shows what the next invoice of an org says if it is made now: the fee of the next period, usage so far,
/// and the items that wait. Nothing is stored, and no coupon is used.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/invoices/preview", tag = "invoices",
    params(("id" = String, Path, description = "Public or external id of the org"), PreviewQuery),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The document", body = Document),
        (status = 409, description = "Something is missing, such as a billing profile", body = Problem,
            content_type = "application/problem+json"),
        FindErrors
    )
)]
pub(crate) async fn preview(mut read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let PreviewQuery { currency } = read.take()?;
    read.params.done()?;
    let name = OrgName::must(&read.principal, Some(id.into_inner()), "id")?;
    let (directory, now) = (read.directory(), read.app.clock.now());
    let preview = read.run_as_platform(move |conn| {
        let org = name.find(&directory, conn)?;
        commands::preview(conn, &org, currency.clone(), now)
    });
    Ok(HttpResponse::Ok().json(preview.await?))
}
