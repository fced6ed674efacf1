//! The exports of payments that were recorded here, and of what went back of them: refunds and reversals.

use std::sync::LazyLock;

use super::{NO_METADATA, Value, columns};
use crate::billing::exports::{BY_CREATED, Definition, Filters, Kind};

pub(super) static PAYMENTS: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::Payments.name(),
    columns: columns(Kind::Payments, PAYMENT_VALUES),
    from: concat!(
        rows_of!("own_payments", "payment_id", ", 'succeeded'::text AS status"),
        invoices_of_payment!("d.payment_id", "HAVING sum(a.amount) <> 0")
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters {
        statuses: Kind::Payments.definition().filters.statuses,
        currency: Some("d.currency"),
        number: Some("ANY (x.numbers)"),
        subscription: Some("ANY (x.subscriptions)"),
        paid: Some("d.paid_at"),
        ..Filters::of_customer("NULL::text")
    },
});

// A refund takes money off the invoice, so it shows what its payment has ever paid.
pub(super) static REFUNDS: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::Refunds.name(),
    columns: columns(Kind::Refunds, REFUND_VALUES),
    from: concat!(
        rows_of!("own_refunds", "refund_id", ", 'succeeded'::text AS status"),
        invoices_of_payment!("d.payment_id", "")
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters {
        statuses: Kind::Refunds.definition().filters.statuses,
        currency: Some("d.currency"),
        number: Some("ANY (x.numbers)"),
        subscription: Some("ANY (x.subscriptions)"),
        ..Filters::of_customer("NULL::text")
    },
});

pub(super) const PAYMENT_VALUES: &[Value] = &[
    ("status", "d.status"),
    ("invoice_id", "x.invoice_id"),
    ("amount", "d.amount"),
    ("amount_received", "d.amount"),
    ("amount_refunded", "d.amount_refunded"),
    ("payment_method_type", "coalesce(d.method, d.processor)"),
    ("disputed", "(d.amount_reversed > 0)"),
    ("outside_stripe", "true"),
    ("created", "d.created"),
    ("paid_at", "d.paid_at"),
    ("description", "concat_ws(' ', d.processor, d.reference)"),
    ("metadata", "d.details::text"),
    ("invoice_number", "x.invoice_number"),
    ("card_brand", "d.card_brand"),
    ("last4", "d.card_last4"),
    ("fee", "d.fee"),
    ("net", "(d.amount - d.fee)"),
    ("net_currency", "CASE WHEN d.fee IS NOT NULL THEN d.currency END"),
];

pub(super) const REFUND_VALUES: &[Value] = &[
    ("status", "d.status"),
    ("invoice_id", "x.invoice_id"),
    ("amount", "d.amount"),
    ("amount_requested", "d.amount"),
    ("reason", "d.reason"),
    ("created", "d.created"),
    ("metadata", NO_METADATA),
    ("invoice_number", "x.invoice_number"),
];
