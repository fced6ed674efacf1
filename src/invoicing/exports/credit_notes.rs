//! The exports of our own credit notes and of their lines.

use std::sync::LazyLock;

use super::{NO_METADATA, Value, columns};
use crate::billing::exports::{BY_CREATED, Definition, Filters, Kind};

const FILTERS: Filters = Filters {
    statuses: &["issued", "void"],
    currency: Some("d.currency"),
    subscription: Some("i.subscription_id"),
    number: Some("d.number"),
    // The date on the document is a day of the seller. This is the instant on that day.
    issued: Some("d.created"),
    void: Some("d.status = 'void'"),
    ..Filters::of_customer("NULL::text")
};

/// SQL: the date on the document, in UTC, as lists show it.
const EFFECTIVE_AT: &str = "(d.issue_date::timestamp AT TIME ZONE 'UTC')";

/// SQL: rows of credit notes, the invoice `i` of each, and what each takes off it: `x.pays`.
macro_rules! notes {
    () => {
        concat!(
            rows_of!("own_credit_notes", "credit_note_id", ", 'issued'::text AS status"),
            "
            LEFT JOIN own_invoices i ON (i.org_id, i.invoice_id) = (d.org_id, d.invoice_id)"
        )
    };
}

pub(super) static CREDIT_NOTES: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::CreditNotes.name(),
    columns: columns(Kind::CreditNotes, VALUES),
    from: concat!(
        notes!(),
        "
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(a.amount), 0)::bigint AS pays
            FROM account_entries c
            JOIN account_allocations a
                ON (a.org_id, a.currency, a.credit_sequence) = (c.org_id, c.currency, c.sequence)
            JOIN account_entries e
                ON (e.org_id, e.currency, e.sequence) = (a.org_id, a.currency, a.debit_sequence)
            WHERE (c.org_id, c.document_id) = (d.org_id, d.id) AND c.kind = 'credit_note'
                AND e.kind = 'invoice' AND e.document_id = d.invoice_id
        ) x"
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: FILTERS,
});

pub(super) static CREDIT_NOTE_LINES: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::CreditNoteLines.name(),
    columns: columns(Kind::CreditNoteLines, LINE_VALUES),
    from: concat!(
        notes!(),
        "
        JOIN own_credit_note_lines n ON (n.org_id, n.credit_note_id) = (d.org_id, d.id)
        JOIN own_invoice_lines l
            ON (l.org_id, l.invoice_id, l.line_number) = (n.org_id, n.invoice_id, n.line_number)"
    ),
    kept: "true",
    order: "d.created, d.id, d.account, d.livemode, (n.line_number - 1)",
    lines_of: Some(Kind::CreditNotes),
    filters: FILTERS,
});

pub(super) const VALUES: &[Value] = &[
    ("number", "d.number"),
    ("status", "d.status"),
    (
        "type",
        "CASE WHEN x.pays = d.total THEN 'pre_payment' WHEN x.pays = 0 THEN 'post_payment'
             ELSE 'mixed' END",
    ),
    ("reason", "d.reason"),
    ("invoice_id", "d.invoice_id"),
    ("invoice_number", "i.number"),
    ("subtotal", "d.net_total"),
    ("discount_total", "0::bigint"),
    ("tax_total", "d.tax_total"),
    ("total", "d.total"),
    ("pre_payment_amount", "x.pays"),
    ("post_payment_amount", "(d.total - x.pays)"),
    // What does not reduce the invoice is credit on the org's account. Giving that back is a refund.
    ("refund_amount", "0::bigint"),
    ("balance_amount", "(d.total - x.pays)"),
    ("out_of_band_amount", "0::bigint"),
    ("created", "d.created"),
    ("effective_at", EFFECTIVE_AT),
    ("lines_complete", "true"),
    ("memo", "d.reason"),
    ("metadata", NO_METADATA),
];

// The amount of a line is without tax and after discounts.
pub(super) const LINE_VALUES: &[Value] = &[
    ("credit_note_id", "d.id"),
    ("line_number", "(n.line_number - 1)::bigint"),
    // A line has no id of its own.
    ("id", "NULL::text"),
    ("credit_note_number", "d.number"),
    ("credit_note_status", "d.status"),
    ("invoice_id", "d.invoice_id"),
    ("invoice_number", "i.number"),
    ("type", "'invoice_line_item'::text"),
    ("description", "l.description"),
    ("amount", "n.net"),
    ("discount_amount", "0::bigint"),
    ("tax_amount", "n.tax"),
    ("tax_percentages", "trim_scale(l.tax_percent)::text"),
    ("taxable_amount", "n.net"),
    ("tax_behavior", "'exclusive'::text"),
    ("taxability_reason", reason_of!("l.tax_category")),
    ("reverse_charge", "(l.tax_category = 'AE')"),
    (
        "taxes",
        concat!(
            "jsonb_build_array(jsonb_build_object('amount', n.tax, 'taxable_amount', n.net, \
                 'inclusive', false, 'reason', ",
            reason_of!("l.tax_category"),
            ", 'rate_id', l.tax_rate_id, 'percentage', trim_scale(l.tax_percent)::text))::text"
        ),
    ),
    ("credit_note_created", "d.created"),
    ("credit_note_effective_at", EFFECTIVE_AT),
];
