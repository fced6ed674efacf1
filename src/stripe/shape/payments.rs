//! Payment intents, charges and invoice payments.

use super::returns::embedded_refunds;
use super::{ObjectFields, ShapeError};
use crate::billing::MirrorBatch;
use crate::billing::payments::{Charge, InvoicePayment, PaymentIntent};

/// The id of an intent is the id of its payment.
pub(in crate::stripe) fn ids_in_intent(from: ObjectFields<'_>) -> Vec<String> {
    vec![from.object.id.to_owned()]
}

/// The payment of the charge's intent, and the charge's own id: refunds and disputes may name only the
/// charge, so a writer of the charge must lock this id, too.
pub(in crate::stripe) fn ids_in_charge(from: ObjectFields<'_>) -> Vec<String> {
    from.id("payment_intent").into_iter().chain([from.object.id.to_owned()]).collect()
}

/// Only the older shapes of an invoice name its payment.
pub(in crate::stripe) fn ids_in_invoice(from: ObjectFields<'_>) -> Vec<String> {
    from.id("payment_intent").or_else(|| from.id("charge")).into_iter().collect()
}

pub(in crate::stripe) fn ids_in_invoice_payment(from: ObjectFields<'_>) -> Vec<String> {
    let payment = from.at("payment");
    let kinds = ["payment_intent", "charge", "payment_record"];
    let named = kinds.into_iter().find_map(|kind| payment.id(kind));
    vec![named.unwrap_or_else(|| from.object.id.to_owned())]
}

/// The payment that a refund or dispute gives back.
pub(in crate::stripe) fn ids_in_return(from: ObjectFields<'_>) -> Vec<String> {
    from.id("payment_intent").or_else(|| from.id("charge")).into_iter().collect()
}

/// A charge, with the refunds that older shapes list in it.
pub(in crate::stripe) fn add_charge(
    from: ObjectFields<'_>,
    batch: &mut MirrorBatch,
) -> Result<(), ShapeError> {
    let charge = charge(from)?;
    batch.refunds.extend(embedded_refunds(from, &charge)?);
    batch.charges.push(charge);
    Ok(())
}

pub(in crate::stripe) fn payment_intent(from: ObjectFields<'_>) -> Result<PaymentIntent, ShapeError> {
    let error = from.at("last_payment_error");
    // Before 2022-11-15 the intent lists its charges, the newest first.
    let newest_charge = || from.list("charges").first().and_then(ObjectFields::own_id);
    Ok(PaymentIntent {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        customer_id: from.id("customer"),
        invoice_id: from.id("invoice"),
        latest_charge_id: from.id("latest_charge").or_else(newest_charge),
        status: from.text("status"),
        amount: from.money("amount")?,
        amount_received: from.money("amount_received")?,
        currency: from.text("currency"),
        payment_method_type: intent_method(from),
        failure_code: error.text("code"),
        failure_message: error.text("message"),
        description: from.text("description"),
        canceled_at: from.time("canceled_at"),
        created: from.time("created"),
        metadata: from.metadata(),
    })
}

/// The kind of payment method, if the intent leaves no choice.
fn intent_method(from: ObjectFields<'_>) -> Option<String> {
    let chosen = from.at("payment_method").text("type");
    let only = || match &*from.list("payment_method_types") {
        [only] => only.own_id(),
        _ => None,
    };
    chosen.or_else(only)
}

/// The kinds of payment method that show last digits, and the field that has them
/// (<https://docs.stripe.com/api/charges/object#charge_object-payment_method_details>).
const LAST4: [(&str, &str); 14] = [
    ("card", "last4"),
    ("card_present", "last4"),
    ("interac_present", "last4"),
    ("sepa_debit", "last4"),
    ("us_bank_account", "last4"),
    ("ach_debit", "last4"),
    ("acss_debit", "last4"),
    ("au_becs_debit", "last4"),
    ("bacs_debit", "last4"),
    ("nz_bank_account", "last4"),
    ("kr_card", "last4"),
    ("bancontact", "iban_last4"),
    ("ideal", "iban_last4"),
    ("sofort", "iban_last4"),
];

/// Brand and last digits of the card or account. Before 2018 the charge has the card as its source.
fn brand_and_last4(from: ObjectFields<'_>) -> (Option<String>, Option<String>) {
    let details = from.at("payment_method_details");
    let source = from.at("source");
    match LAST4.iter().find(|(kind, _)| details.has(kind)) {
        Some((kind, last4)) => (details.at(kind).text("brand"), details.at(kind).text(last4)),
        None => (source.text("brand"), source.text("last4")),
    }
}

fn charge(from: ObjectFields<'_>) -> Result<Charge, ShapeError> {
    let source = from.at("source");
    let (card_brand, last4) = brand_and_last4(from);
    // Mostly only an id, since webhooks expand nothing.
    let settled = from.at("balance_transaction");
    Ok(Charge {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        payment_intent_id: from.id("payment_intent"),
        customer_id: from.id("customer"),
        invoice_id: from.id("invoice"),
        status: from.text("status"),
        amount: from.money("amount")?,
        amount_captured: from.money("amount_captured")?,
        amount_refunded: from.money("amount_refunded")?,
        currency: from.text("currency"),
        captured: from.flag("captured"),
        refunded: from.flag("refunded"),
        // Older shapes have no flag; they name the dispute.
        disputed: from.flag("disputed").or_else(|| from.has("dispute").then_some(true)),
        payment_method_type: from.at("payment_method_details").text("type").or_else(|| source.text("object")),
        failure_code: from.text("failure_code"),
        failure_message: from.text("failure_message"),
        receipt_url: from.text("receipt_url"),
        description: from.text("description"),
        created: from.time("created"),
        metadata: from.metadata(),
        card_brand,
        last4,
        balance_transaction_id: from.id("balance_transaction"),
        fee: settled.money("fee")?,
        net: settled.money("net")?,
        net_currency: settled.text("currency"),
    })
}

pub(in crate::stripe) fn invoice_payment(from: ObjectFields<'_>) -> Result<InvoicePayment, ShapeError> {
    let payment = from.at("payment");
    let transitions = from.at("status_transitions");
    Ok(InvoicePayment {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        invoice_id: from.id("invoice"),
        type_: payment.text("type"),
        payment_intent_id: payment.id("payment_intent"),
        charge_id: payment.id("charge"),
        payment_record_id: payment.id("payment_record"),
        status: from.text("status"),
        amount_requested: from.money("amount_requested")?,
        amount_paid: from.money("amount_paid")?,
        currency: from.text("currency"),
        is_default: from.flag("is_default"),
        paid_at: transitions.time("paid_at"),
        canceled_at: transitions.time("canceled_at"),
        created: from.time("created"),
    })
}
