//! The exports of money that goes back: refunds and disputes.

use super::columns::{
    ACCOUNT, CURRENCY, Column, LIVEMODE, METADATA, ORG_EXTERNAL_ID, ORG_ID, ORG_NAME, ORIGIN, amount,
    boolean, major, summed, text, time,
};
use super::{BY_CREATED, Definition, Filters};

pub(super) static REFUNDS: Definition = Definition {
    name: "refunds",
    columns: REFUND_COLUMNS,
    from: concat!("refunds d", payment_and_org!()),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters {
        statuses: &["pending", "requires_action", "succeeded", "failed", "canceled"],
        currency: Some("d.currency"),
        number: Some("i.number"),
        subscription: Some("i.subscription_id"),
        ..Filters::of_customer("coalesce(p.customer_id, i.customer_id)")
    },
};

pub(super) static DISPUTES: Definition = Definition {
    name: "disputes",
    columns: DISPUTE_COLUMNS,
    from: concat!("disputes d", payment_and_org!()),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters {
        statuses: &[
            "warning_needs_response",
            "warning_under_review",
            "warning_closed",
            "needs_response",
            "under_review",
            "won",
            "lost",
            "prevented",
            "charge_refunded",
            "appeal_needs_response",
            "appeal_under_review",
        ],
        currency: Some("d.currency"),
        number: Some("i.number"),
        subscription: Some("i.subscription_id"),
        due: Some("d.evidence_due_by"),
        ..Filters::of_customer("coalesce(p.customer_id, i.customer_id)")
    },
};

/// SQL: the amount of a refund; 0 if it failed or was canceled, because Stripe then returns the money to the
/// account (<https://docs.stripe.com/refunds#failed-refunds>).
const RETURNED: &str = "CASE WHEN d.status IN ('failed', 'canceled') THEN 0 ELSE d.amount END";

const REFUND_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`re_…`, `pyr_…`), or that of our own (`rfd_…`)"),
    text("status", "d.status", "pending, requires_action, succeeded, failed or canceled"),
    text("customer_id", "coalesce(p.customer_id, i.customer_id)", "Stripe customer of the payment"),
    text("invoice_id", "p.invoice_id", "Invoice of the payment"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent refunded"),
    text("charge_id", "d.charge_id", "Charge refunded"),
    CURRENCY,
    summed("amount", RETURNED, "Amount given back: 0 of a refund that failed or was canceled"),
    amount("amount_requested", "d.amount", "Amount of the refund, whatever became of it"),
    major("amount_major", RETURNED, "`amount`"),
    text(
        "reason",
        "d.reason",
        "duplicate, fraudulent, requested_by_customer or expired_uncaptured_charge; of our own any text",
    ),
    text("failure_reason", "d.failure_reason", "Why it failed"),
    time("created", "d.created", "When it was made"),
    METADATA,
    ORG_NAME,
    text("invoice_number", "i.number", "Number of the invoice of the payment"),
    ORIGIN,
];

const DISPUTE_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ORG_NAME,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`du_…`, `dp_…`)"),
    text("status", "d.status", "needs_response, under_review, won, lost, …; `warning_…` for inquiries"),
    text("reason", "d.reason", "Reason of the cardholder's bank: fraudulent, product_not_received, …"),
    text("customer_id", "coalesce(p.customer_id, i.customer_id)", "Stripe customer of the payment"),
    text("invoice_id", "p.invoice_id", "Invoice of the payment"),
    text("invoice_number", "i.number", "Number of that invoice"),
    text("payment_id", "p.id", "Payment disputed, as the export of payments names it"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent disputed"),
    text("charge_id", "d.charge_id", "Charge disputed"),
    CURRENCY,
    summed("amount", "d.amount", "Amount disputed"),
    major("amount_major", "d.amount", "`amount`"),
    time("evidence_due_by", "d.evidence_due_by", "Until when evidence counts"),
    boolean("is_charge_refundable", "d.is_charge_refundable", "Whether the charge can still be refunded"),
    amount(
        "funds_withdrawn",
        "d.funds_withdrawn",
        "Withdrawn and not reinstated, without fees, in `funds_currency`; empty where Stripe has not told it",
    ),
    amount("funds_reinstated", "d.funds_reinstated", "Withdrawn and reinstated, in `funds_currency`"),
    amount(
        "fee",
        "(- d.funds_withdrawn - d.funds_net)",
        "Stripe's fees for it, in `funds_currency`; empty where Stripe has not told it",
    ),
    amount(
        "funds_net",
        "d.funds_net",
        "Effect on the balance with fees, in `funds_currency`; below zero: lost",
    ),
    text("funds_currency", "d.funds_currency", "Currency that Stripe pays out in"),
    time("created", "d.created", "When it was made"),
    METADATA,
];
