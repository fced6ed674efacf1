//! Payments of any processor: `POST /v1/payments`, and what goes back of them.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::json;

use super::audit;
use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey};
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::invoicing::payments::{self, OwnPayment, OwnRefund, PaymentBody, RefundBody, RefundKind};

/// Records a payment that came in, of any processor.
///
/// It pays the invoices that it names, else the oldest debts; what is left is credit for the next invoice. A
/// processor's reference is recorded once: a repeat with the same org, amount and currency answers 200 with
/// the payment that is there, and changes nothing.
#[utoipa::path(
    post, path = "/v1/payments", tag = "payments", params(IdempotencyKey), request_body = PaymentBody,
    security(("key" = ["billing:write"])),
    responses(
        (status = 200, description = "The payment was there already", body = OwnPayment),
        (status = 201, description = "The payment", body = OwnPayment),
        CommandErrors
    )
)]
pub(crate) async fn record(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let body: PaymentBody = command.read()?;
    let (name, directory) = (OrgName::of_any(body.org.clone(), "org"), command.directory());
    command
        .run_and_wake(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let (payment, is_new) = payments::record(conn, &org, &body, now)?;
            let detail = json!({ "processor": payment.processor, "reference": payment.reference,
                "amount": payment.amount, "currency": payment.currency, "new": is_new });
            let audit = audit(&org, "payment.record", &payment.id, detail);
            Answer::new(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &payment, audit)
        })
        .await
}

async fn run(
    command: Command,
    id: web::Path<String>,
    action: &'static str,
    kind: RefundKind,
) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (id, body): (String, RefundBody) = (id.into_inner(), command.read()?);
    let directory = command.directory();
    command
        .run(move |conn, now| {
            let org_id = payments::org_of(conn, &id, None)?;
            let org = directory.find(conn, org_id)?;
            let (refund, is_new) = payments::give_back(conn, &org, (&id, kind), &body, now)?;
            let detail = json!({ "payment": id, "amount": refund.amount, "currency": refund.currency,
                "reason": refund.reason, "reference": refund.reference, "new": is_new });
            let audit = audit(&org, action, &refund.id, detail);
            Answer::new(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &refund, audit)
        })
        .await
}

/// Records that money of a payment was given back.
///
/// It takes first what the payment pays nothing with, then the credit of credit notes. Only then an invoice
/// that the payment paid asks for the money again.
#[utoipa::path(
    post, path = "/v1/payments/{id}/refund", tag = "payments",
    params(("id" = String, Path, description = "`pay_…`"), IdempotencyKey),
    request_body = RefundBody, security(("key" = ["billing:write"])),
    responses(
        (status = 200, description = "The refund was there already", body = OwnRefund),
        (status = 201, description = "The refund", body = OwnRefund),
        CommandErrors
    )
)]
pub(crate) async fn refund(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    run(command, id, "payment.refund", RefundKind::Refund).await
}

/// Records that money of a payment was taken back: a bounced debit, a chargeback.
///
/// What the payment paid asks for the money again.
#[utoipa::path(
    post, path = "/v1/payments/{id}/reverse", tag = "payments",
    params(("id" = String, Path, description = "`pay_…`"), IdempotencyKey),
    request_body = RefundBody, security(("key" = ["billing:write"])),
    responses(
        (status = 200, description = "The reversal was there already", body = OwnRefund),
        (status = 201, description = "The reversal", body = OwnRefund),
        CommandErrors
    )
)]
pub(crate) async fn reverse(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    run(command, id, "payment.reverse", RefundKind::Reversal).await
}
