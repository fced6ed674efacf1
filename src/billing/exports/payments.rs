//! The export of payments.

use super::columns::{
    ACCOUNT, CURRENCY, Column, LIVEMODE, METADATA, ORG_EXTERNAL_ID, ORG_ID, ORG_NAME, ORIGIN, amount,
    boolean, major, summed, text, time,
};
use super::{BY_CREATED, Definition, Filters};

pub(super) static PAYMENTS: Definition = Definition {
    name: "payments",
    columns: PAYMENT_COLUMNS,
    from: concat!(
        "payments d
        LEFT JOIN invoices i ON (i.account, i.livemode, i.id) = (d.account, d.livemode, d.invoice_id)
        LEFT JOIN charges c ON (c.account, c.livemode, c.id) = (d.account, d.livemode, d.charge_id)",
        // Where only an invoice payment is known, the invoice tells who pays.
        org_of!("coalesce(d.customer_id, i.customer_id)")
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters {
        // A payment has the status of its payment intent, charge or invoice payment.
        statuses: &[
            "requires_payment_method",
            "requires_confirmation",
            "requires_action",
            "processing",
            "requires_capture",
            "canceled",
            "succeeded",
            "pending",
            "failed",
        ],
        currency: Some("d.currency"),
        number: Some("i.number"),
        subscription: Some("i.subscription_id"),
        paid: Some("d.paid_at"),
        ..Filters::of_customer("coalesce(d.customer_id, i.customer_id)")
    },
};

const PAYMENT_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text(
        "id",
        "d.id",
        "Id of the payment intent, else of the charge, else of the invoice payment; of our own `pay_…`",
    ),
    text("status", "d.status", "succeeded once money moved, else the status at Stripe"),
    text("customer_id", "coalesce(d.customer_id, i.customer_id)", "Stripe customer who pays, or is billed"),
    text("invoice_id", "d.invoice_id", "Invoice paid; empty if the payment pays several"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent"),
    text("charge_id", "d.charge_id", "Charge that counts: the one that succeeded, else the latest"),
    CURRENCY,
    summed("amount", "d.amount", "Amount asked for"),
    summed("amount_received", "d.amount_received", "Amount received, before fees"),
    summed(
        "amount_refunded",
        "d.amount_refunded",
        "Amount given back, without refunds that failed or were canceled",
    ),
    major("amount_major", "d.amount", "`amount`"),
    major("amount_received_major", "d.amount_received", "`amount_received`"),
    major("amount_refunded_major", "d.amount_refunded", "`amount_refunded`"),
    text(
        "payment_method_type",
        "d.payment_method_type",
        "card, sepa_debit, …; of our own the method, else the processor",
    ),
    boolean("disputed", "d.disputed", "Whether the payer disputes it, or did"),
    boolean("outside_stripe", "d.outside_stripe", "Whether the money moved outside Stripe"),
    text("failure_code", "d.failure_code", "Why it failed, for programs"),
    text("failure_message", "d.failure_message", "Why it failed, for people"),
    time("created", "d.created", "When it was begun"),
    time("paid_at", "d.paid_at", "When money moved"),
    text("description", "d.description", "Text given with it; of our own the processor and its reference"),
    METADATA,
    ORG_NAME,
    text("invoice_number", "i.number", "Number of the invoice paid; several are separated by semicolons"),
    text("card_brand", "c.card_brand", "Brand of the card, as Stripe writes it: visa, …"),
    text("last4", "c.last4", "Last four digits of the card or bank account"),
    text("balance_transaction_id", "c.balance_transaction_id", "Entry of the balance at Stripe (`txn_…`)"),
    amount("fee", "c.fee", "Stripe's fee, in `net_currency`; empty where Stripe has not told it"),
    amount("net", "c.net", "What remains after the fee, in `net_currency`; empty as `fee` is"),
    text("net_currency", "c.net_currency", "Currency that Stripe pays out in"),
    ORIGIN,
];
