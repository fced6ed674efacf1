//! The exports of payments and refunds.

use super::columns::{
    ACCOUNT, CURRENCY, Column, LIVEMODE, METADATA, ORG_EXTERNAL_ID, ORG_ID, ORG_NAME, amount, boolean, major,
    summed, text, time,
};
use super::{BY_CREATED, Definition, Filters};

pub(super) static PAYMENTS: Definition = Definition {
    name: "payments",
    columns: PAYMENT_COLUMNS,
    from: "payments d
        LEFT JOIN stripe_customer_links k
            ON (k.account, k.livemode, k.customer_id) = (d.account, d.livemode, d.customer_id)
        LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id",
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
        paid: Some("d.paid_at"),
        ..Filters::of_customer("d.customer_id")
    },
};

pub(super) static REFUNDS: Definition = Definition {
    name: "refunds",
    columns: REFUND_COLUMNS,
    from: "refunds d
        LEFT JOIN payments p
            ON (p.account, p.livemode, p.id)
                = (d.account, d.livemode, coalesce(d.payment_intent_id, d.charge_id))
        LEFT JOIN stripe_customer_links k
            ON (k.account, k.livemode, k.customer_id) = (p.account, p.livemode, p.customer_id)
        LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id",
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters {
        statuses: &["pending", "requires_action", "succeeded", "failed", "canceled"],
        currency: Some("d.currency"),
        ..Filters::of_customer("p.customer_id")
    },
};

const PAYMENT_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Id of the payment intent, else of the charge, else of the invoice payment"),
    text("status", "d.status", "succeeded once money moved, else the status at Stripe"),
    text("customer_id", "d.customer_id", "Stripe customer who pays"),
    text("invoice_id", "d.invoice_id", "Invoice paid"),
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
    text("payment_method_type", "d.payment_method_type", "card, sepa_debit, …"),
    boolean("disputed", "d.disputed", "Whether the payer disputes it, or did"),
    boolean("outside_stripe", "d.outside_stripe", "Whether the money moved outside Stripe"),
    text("failure_code", "d.failure_code", "Why it failed, for programs"),
    text("failure_message", "d.failure_message", "Why it failed, for people"),
    time("created", "d.created", "When it was begun"),
    time("paid_at", "d.paid_at", "When money moved"),
    text("description", "d.description", "Text given with it"),
    METADATA,
    ORG_NAME,
];

/// SQL: the amount of a refund; 0 if it failed or was canceled, because Stripe then returns the money to the
/// account (<https://docs.stripe.com/refunds#failed-refunds>).
const RETURNED: &str = "CASE WHEN d.status IN ('failed', 'canceled') THEN 0 ELSE d.amount END";

const REFUND_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`re_…`, `pyr_…`)"),
    text("status", "d.status", "pending, requires_action, succeeded, failed or canceled"),
    text("customer_id", "p.customer_id", "Stripe customer of the payment"),
    text("invoice_id", "p.invoice_id", "Invoice of the payment"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent refunded"),
    text("charge_id", "d.charge_id", "Charge refunded"),
    CURRENCY,
    summed("amount", RETURNED, "Amount given back: 0 of a refund that failed or was canceled"),
    amount("amount_requested", "d.amount", "Amount of the refund, whatever became of it"),
    major("amount_major", RETURNED, "`amount`"),
    text("reason", "d.reason", "duplicate, fraudulent, requested_by_customer or expired_uncaptured_charge"),
    text("failure_reason", "d.failure_reason", "Why it failed"),
    time("created", "d.created", "When it was made"),
    METADATA,
    ORG_NAME,
];
