//! The export of our own invoices.

use std::sync::LazyLock;

use super::{NO_METADATA, Value, columns};
use crate::billing::exports::{BY_CREATED, Definition, Filters, Kind};

/// SQL: the end of the day on which an invoice is due, in UTC, as lists show it.
macro_rules! due_at {
    () => {
        "((d.due_date + 1)::timestamp AT TIME ZONE 'UTC')"
    };
}

pub(super) const FILTERS: Filters = Filters {
    statuses: &["draft", "open", "paid", "void", "uncollectible"],
    currency: Some("d.currency"),
    subscription: Some("d.subscription_id"),
    number: Some("d.number"),
    issued: Some("d.finalized_at"),
    paid: Some("d.paid_at"),
    due: Some(due_at!()),
    overdue: Some(concat!("d.status = 'open' AND ", due_at!(), " < ?")),
    void: Some("d.status = 'void'"),
    ..Filters::of_customer("NULL::text")
};

pub(super) static INVOICES: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::Invoices.name(),
    columns: columns(Kind::Invoices, VALUES),
    // The fence lets PostgreSQL read a document's text once, not once a column. A draft shows the billing
    // profile of now.
    from: concat!(
        rows_of!("own_invoices", "invoice_id", ""),
        "
        LEFT JOIN own_documents w ON (w.org_id, w.document_id) = (d.org_id, d.id)
        LEFT JOIN billing_profiles b ON b.org_id = d.org_id
        CROSS JOIN LATERAL (
            SELECT coalesce(c.content -> 'buyer', b.party) AS party,
                coalesce(c.content ->> 'note', d.draft ->> 'note') AS note
            FROM (SELECT w.content::jsonb AS content OFFSET 0) c OFFSET 0
        ) x"
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: FILTERS,
});

pub(super) const VALUES: &[Value] = &[
    ("number", "d.number"),
    ("status", "d.status"),
    ("customer_name", "(x.party ->> 'name')"),
    ("customer_email", "(x.party ->> 'email')"),
    ("subscription_id", "d.subscription_id"),
    ("billing_reason", "d.reason"),
    ("collection_method", "'send_invoice'::text"),
    ("subtotal", "d.subtotal"),
    ("discount_total", "d.discount_total"),
    ("tax_total", "d.tax_total"),
    ("total", "d.total"),
    ("amount_due", "(d.total - d.amount_credited)"),
    ("amount_paid", "d.amount_paid"),
    (
        "amount_remaining",
        "CASE WHEN d.status IN ('open', 'draft')
             THEN d.total - d.amount_paid - d.amount_credited - d.amount_written_off ELSE 0 END",
    ),
    ("pre_payment_credit_notes_amount", "d.amount_credited"),
    (
        "post_payment_credit_notes_amount",
        "((SELECT coalesce(sum(n.total), 0)::bigint FROM own_credit_notes n
           WHERE (n.org_id, n.invoice_id) = (d.org_id, d.id)) - d.amount_credited)",
    ),
    ("created", "d.created"),
    ("finalized_at", "d.finalized_at"),
    ("due_at", due_at!()),
    ("paid_at", "d.paid_at"),
    ("voided_at", "d.voided_at"),
    (
        "marked_uncollectible_at",
        "(SELECT max(e.occurred_at) FROM account_entries e WHERE e.kind = 'write_off'
              AND d.amount_written_off > 0 AND (e.org_id, e.document_id) = (d.org_id, d.id))",
    ),
    ("period_start", "d.period_start"),
    ("period_end", "d.period_end"),
    ("lines_complete", "true"),
    ("description", "x.note"),
    ("metadata", NO_METADATA),
    ("customer_country", "(x.party -> 'address' ->> 'country')"),
    (
        "customer_tax_exempt",
        "(SELECT CASE WHEN bool_or(n.tax_category = 'AE') THEN 'reverse'
              WHEN bool_and(n.tax_category = 'E') THEN 'exempt' ELSE 'none' END
          FROM own_invoice_lines n WHERE (n.org_id, n.invoice_id) = (d.org_id, d.id))",
    ),
    (
        "customer_tax_ids",
        concat!(
            "(SELECT string_agg(concat_ws(' ', t.type, t.value), '; ' ORDER BY t.place) FROM ",
            tax_numbers!("x.party"),
            ")"
        ),
    ),
    (
        "reverse_charge",
        "EXISTS (SELECT FROM own_invoice_lines n
             WHERE (n.org_id, n.invoice_id) = (d.org_id, d.id) AND n.tax_category = 'AE')",
    ),
];
