//! Refunds, disputes and credit notes.

use super::{ObjectFields, ShapeError, taxes};
use crate::billing::credit_notes::{CreditNote, CreditNoteLine, CreditNoteWithLines};
use crate::billing::disputes::Dispute;
use crate::billing::payments::Charge;
use crate::billing::refunds::{FROM_CHARGE, FROM_REFUND, Refund};

pub(in crate::stripe) fn refund(from: ObjectFields<'_>) -> Result<Refund, ShapeError> {
    one_refund(from, from.object.id.to_owned(), FROM_REFUND)
}

/// The refunds in a charge's list, which API versions before 2022-11-15 send.
pub(super) fn embedded_refunds(from: ObjectFields<'_>, charge: &Charge) -> Result<Vec<Refund>, ShapeError> {
    let mut refunds = Vec::new();
    for entry in from.list("refunds") {
        let Some(id) = entry.own_id() else { continue };
        let mut refund = one_refund(entry, id, FROM_CHARGE)?;
        refund.charge_id = Some(charge.id.clone());
        refund.payment_intent_id = refund.payment_intent_id.or_else(|| charge.payment_intent_id.clone());
        refunds.push(refund);
    }
    Ok(refunds)
}

fn one_refund(from: ObjectFields<'_>, id: String, source: &str) -> Result<Refund, ShapeError> {
    Ok(Refund {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id,
        source: source.to_owned(),
        charge_id: from.id("charge"),
        payment_intent_id: from.id("payment_intent"),
        amount: from.money("amount")?,
        currency: from.text("currency"),
        status: from.text("status"),
        reason: from.text("reason"),
        failure_reason: from.text("failure_reason"),
        created: from.time("created"),
        metadata: from.metadata(),
    })
}

pub(in crate::stripe) fn dispute(from: ObjectFields<'_>) -> Result<Dispute, ShapeError> {
    let moved = from.money_sum("balance_transactions", "amount")?;
    let funds_currency = from.list("balance_transactions").first().and_then(|entry| entry.text("currency"));
    Ok(Dispute {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        charge_id: from.id("charge"),
        payment_intent_id: from.id("payment_intent"),
        amount: from.money("amount")?,
        currency: from.text("currency"),
        status: from.text("status"),
        reason: from.text("reason"),
        evidence_due_by: from.at("evidence_details").time("due_by"),
        is_charge_refundable: from.flag("is_charge_refundable"),
        funds_withdrawn: moved.map(i64::saturating_neg),
        funds_net: from.money_sum("balance_transactions", "net")?,
        funds_currency,
        created: from.time("created"),
        metadata: from.metadata(),
        funds_reinstated: reinstated(from)?,
    })
}

/// What came back of the money withdrawn for a dispute; `None` if there is no list, or an entry has no
/// amount.
fn reinstated(from: ObjectFields<'_>) -> Result<Option<i64>, ShapeError> {
    if !from.has("balance_transactions") {
        return Ok(None);
    }
    let mut sum = 0_i64;
    for entry in from.list("balance_transactions") {
        let Some(amount) = entry.money("amount")? else { return Ok(None) };
        sum = sum.saturating_add(amount.max(0));
    }
    Ok(Some(sum))
}

pub(in crate::stripe) fn credit_note(from: ObjectFields<'_>) -> Result<CreditNoteWithLines, ShapeError> {
    let lines = (0..)
        .zip(from.list("lines"))
        .map(|(number, entry)| credit_note_line(entry, number))
        .collect::<Result<_, _>>()?;
    let parts = CreditNoteParts::read(from)?;
    // Since 2025-03-31 several refunds can belong to one note.
    let mut refund_ids: Vec<String> =
        from.list("refunds").iter().filter_map(|entry| entry.id("refund")).collect();
    if refund_ids.is_empty() {
        refund_ids.extend(from.id("refund"));
    }
    let credit_note = CreditNote {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        invoice_id: from.id("invoice"),
        customer_id: from.id("customer"),
        number: from.text("number"),
        status: from.text("status"),
        type_: from.text("type"),
        reason: from.text("reason"),
        memo: from.text("memo"),
        currency: from.text("currency"),
        amount: from.money("amount")?,
        subtotal: from.money("subtotal")?,
        discount_total: match from.money("discount_amount")? {
            Some(amount) => Some(amount),
            None => from.money_sum("discount_amounts", "amount")?,
        },
        tax_total: tax(from, "total_taxes")?,
        total: from.money("total")?,
        out_of_band_amount: from.money("out_of_band_amount")?,
        refund_ids: refund_ids.into(),
        pdf: from.text("pdf"),
        effective_at: from.time("effective_at"),
        voided_at: from.time("voided_at"),
        lines_complete: from.list_complete("lines"),
        created: from.time("created"),
        metadata: from.metadata(),
        pre_payment_amount: parts.before,
        post_payment_amount: parts.after,
        refund_amount: parts.refund,
        balance_amount: parts.balance,
    };
    Ok(CreditNoteWithLines { credit_note, lines })
}

/// The amounts of a credit note, in minor units.
///
/// The part after the payment is the sum of refunds, credit to the balance, and what was given back outside
/// Stripe (<https://docs.stripe.com/changelog/2019-12-03/post-payment-credit-note-requirement>). Since
/// 2025-05-28 a note of type `mixed` has a part before the payment, too; other notes have only one part.
struct CreditNoteParts {
    /// Takes off the amount that was still due.
    before: Option<i64>,
    /// Gives back of the amount that was paid.
    after: Option<i64>,
    /// Of `after`, by refunds at Stripe.
    refund: Option<i64>,
    /// Of `after`, to the customer's credit balance.
    balance: Option<i64>,
}

impl CreditNoteParts {
    fn read(from: ObjectFields<'_>) -> Result<Self, ShapeError> {
        let whole = from.money("total")?.or(from.money("amount")?);
        let of_type = |type_: &str| match from.text("type").as_deref() {
            Some("mixed") | None => None,
            Some(own) => Some(if own == type_ { whole? } else { 0 }),
        };
        let before = from.money("pre_payment_amount")?.or_else(|| of_type("pre_payment"));
        let after = from.money("post_payment_amount")?.or_else(|| of_type("post_payment"));
        let (mut refund, mut elsewhere) = (Some(0_i64), 0_i64);
        for entry in from.list("refunds") {
            match (entry.money("amount_refunded")?, entry.id("refund")) {
                (Some(amount), Some(_)) => refund = refund.and_then(|sum| sum.checked_add(amount)),
                // It gives back a payment that was made outside Stripe.
                (Some(amount), None) => elsewhere = elsewhere.saturating_add(amount),
                (None, _) => refund = None,
            }
        }
        if from.list("refunds").is_empty() && from.has("refund") {
            refund = from.at("refund").money("amount")?;
        }
        let outside = from.money("out_of_band_amount")?.unwrap_or(0).saturating_add(elsewhere);
        let rest =
            after.zip(refund).map(|(after, refund)| after.saturating_sub(refund.saturating_add(outside)));
        Ok(Self { before, after, refund, balance: rest.map(|rest| rest.max(0)) })
    }
}

/// The sum of taxes, from the field with the `newer` name if the snapshot has it.
fn tax(from: ObjectFields<'_>, newer: &'static str) -> Result<Option<i64>, ShapeError> {
    from.money_sum(if from.has(newer) { newer } else { "tax_amounts" }, "amount")
}

fn credit_note_line(from: ObjectFields<'_>, line_number: i32) -> Result<CreditNoteLine, ShapeError> {
    Ok(CreditNoteLine {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        credit_note_id: from.object.id.to_owned(),
        line_number,
        id: from.own_id(),
        type_: from.text("type"),
        invoice_line_id: from.id("invoice_line_item"),
        amount: from.money("amount")?,
        quantity: from.integer("quantity"),
        description: from.text("description"),
        unit_amount_decimal: from.money_decimal("unit_amount_decimal")?,
        discount_amount: match from.money("discount_amount")? {
            Some(amount) => Some(amount),
            None => from.money_sum("discount_amounts", "amount")?,
        },
        tax_amount: tax(from, "taxes")?,
        taxes: taxes::of_line(from)?,
    })
}
