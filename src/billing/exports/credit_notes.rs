//! The exports of credit notes and of their lines.

use super::columns::{
    ACCOUNT, CURRENCY, Column, LIVEMODE, METADATA, ORG_EXTERNAL_ID, ORG_ID, ORG_NAME, ORIGIN,
    REVERSE_CHARGE_OF_LINE, TAX_BEHAVIOR, TAX_PERCENTAGES, TAXABILITY_REASON, TAXABLE_AMOUNT, TAXES, Type,
    boolean, column, integer, major, summed, text, time,
};
use super::{BY_CREATED, Definition, Filters, Kind};

const CREDIT_NOTE_FILTERS: Filters = Filters {
    statuses: &["issued", "void"],
    currency: Some("d.currency"),
    subscription: Some("i.subscription_id"),
    number: Some("d.number"),
    // The date on the document may be another than the day on which it was made.
    issued: Some("coalesce(d.effective_at, d.created)"),
    void: Some("d.status = 'void'"),
    ..Filters::of_customer("d.customer_id")
};

pub(super) static CREDIT_NOTES: Definition = Definition {
    name: "credit_notes",
    columns: CREDIT_NOTE_COLUMNS,
    from: concat!(
        "credit_notes d
        LEFT JOIN invoices i ON (i.account, i.livemode, i.id) = (d.account, d.livemode, d.invoice_id)",
        org_of!("d.customer_id")
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: CREDIT_NOTE_FILTERS,
};

pub(super) static CREDIT_NOTE_LINES: Definition = Definition {
    name: "credit_note_lines",
    columns: CREDIT_NOTE_LINE_COLUMNS,
    from: concat!(
        "credit_notes d
        JOIN credit_note_lines n
            ON (n.account, n.livemode, n.credit_note_id) = (d.account, d.livemode, d.id)
        LEFT JOIN invoices i ON (i.account, i.livemode, i.id) = (d.account, d.livemode, d.invoice_id)",
        taxes_of_line!(),
        org_of!("d.customer_id")
    ),
    kept: "true",
    order: "d.created, d.id, d.account, d.livemode, n.line_number",
    lines_of: Some(Kind::CreditNotes),
    filters: CREDIT_NOTE_FILTERS,
};

const CREDIT_NOTE_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ORG_NAME,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`cn_…`), or that of our own (`cn_…`)"),
    text("number", "d.number", "Number shown to the customer"),
    text("status", "d.status", "issued or void"),
    text("type", "d.type", "pre_payment, post_payment or mixed"),
    text(
        "reason",
        "d.reason",
        "duplicate, fraudulent, order_change or product_unsatisfactory; of our own any text",
    ),
    text("invoice_id", "d.invoice_id", "Invoice that it reduces"),
    text("invoice_number", "i.number", "Number of that invoice"),
    text("customer_id", "d.customer_id", "Stripe customer credited"),
    CURRENCY,
    summed("subtotal", "d.subtotal", "Sum of the lines before discounts and exclusive tax"),
    summed("discount_total", "d.discount_total", "Sum of the discounts"),
    summed("tax_total", "d.tax_total", "Sum of the taxes, inclusive and exclusive"),
    summed("total", "d.total", "Total after discounts and tax"),
    summed("pre_payment_amount", "d.pre_payment_amount", "What it takes off the amount that was still due"),
    summed("post_payment_amount", "d.post_payment_amount", "What it gives back of what was paid"),
    summed(
        "refund_amount",
        "d.refund_amount",
        "Of that, by refunds at Stripe; empty where Stripe has not told it",
    ),
    summed(
        "balance_amount",
        "d.balance_amount",
        "Of that, to the customer's balance; empty as `refund_amount` is",
    ),
    summed("out_of_band_amount", "d.out_of_band_amount", "Of that, outside Stripe"),
    major("total_major", "d.total", "`total`"),
    major("pre_payment_amount_major", "d.pre_payment_amount", "`pre_payment_amount`"),
    major("post_payment_amount_major", "d.post_payment_amount", "`post_payment_amount`"),
    text(
        "refund_ids",
        "(SELECT string_agg(t.id, '; ' ORDER BY t.place) \
             FROM jsonb_array_elements_text(d.refund_ids) WITH ORDINALITY t (id, place))",
        "Refunds at Stripe that it names, separated by semicolons",
    ),
    time("created", "d.created", "When it was made"),
    time("effective_at", "d.effective_at", "Date on the document"),
    time("voided_at", "d.voided_at", "When it was voided"),
    boolean("lines_complete", "d.lines_complete", "False when Stripe sent only some of its lines"),
    text("pdf", "d.pdf", "Link to the document"),
    text("memo", "d.memo", "Text shown to the customer"),
    METADATA,
    ORIGIN,
];

const CREDIT_NOTE_LINE_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ORG_NAME,
    ACCOUNT,
    LIVEMODE,
    text("credit_note_id", "n.credit_note_id", "Credit note that it belongs to"),
    integer("line_number", "n.line_number::bigint", "Place in the credit note, from 0"),
    text("id", "n.id", "Stripe's id (`cnli_…`)"),
    text("credit_note_number", "d.number", "Number of the credit note"),
    text("credit_note_status", "d.status", "Status of the credit note"),
    text("invoice_id", "d.invoice_id", "Invoice that the credit note reduces"),
    text("invoice_number", "i.number", "Number of that invoice"),
    text("invoice_line_id", "n.invoice_line_id", "Line of the invoice that it reduces"),
    text("customer_id", "d.customer_id", "Stripe customer credited"),
    text("type", "n.type", "invoice_line_item or custom_line_item"),
    text("description", "n.description", "Text of the line"),
    CURRENCY,
    integer("quantity", "n.quantity", "How many"),
    column(
        Type::Decimal,
        "unit_amount_decimal",
        "n.unit_amount_decimal::text",
        "Price of one, in minor units with up to 12 decimal places",
    ),
    summed("amount", "n.amount", "Amount before discounts on the line and exclusive tax"),
    summed("discount_amount", "n.discount_amount", "Sum of the discounts on the line"),
    summed("tax_amount", "n.tax_amount", "Sum of the taxes on the line"),
    major("amount_major", "n.amount", "`amount`"),
    TAX_PERCENTAGES,
    TAXABLE_AMOUNT,
    TAX_BEHAVIOR,
    TAXABILITY_REASON,
    REVERSE_CHARGE_OF_LINE,
    TAXES,
    time("credit_note_created", "d.created", "When the credit note was made"),
    time("credit_note_effective_at", "d.effective_at", "Date on the credit note"),
    ORIGIN,
];
