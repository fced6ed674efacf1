//! The exports of invoices and of their lines.

use super::columns::{
    ACCOUNT, CURRENCY, Column, LIVEMODE, METADATA, ORG_EXTERNAL_ID, ORG_ID, ORG_NAME, ORIGIN,
    REVERSE_CHARGE_OF_LINE, TAX_BEHAVIOR, TAX_PERCENTAGES, TAXABILITY_REASON, TAXABLE_AMOUNT, TAXES, Type,
    amount, boolean, column, integer, major, summed, text, time,
};
use super::{BY_CREATED, Definition, Filters, Kind};

const INVOICE_FILTERS: Filters = Filters {
    statuses: &["draft", "open", "paid", "void", "uncollectible"],
    currency: Some("d.currency"),
    subscription: Some("d.subscription_id"),
    number: Some("d.number"),
    issued: Some("d.finalized_at"),
    paid: Some("d.paid_at"),
    due: Some("d.due_at"),
    overdue: Some("d.status = 'open' AND d.due_at < ?"),
    void: Some("d.status = 'void'"),
    ..Filters::of_customer("d.customer_id")
};

pub(super) static INVOICES: Definition = Definition {
    name: "invoices",
    columns: INVOICE_COLUMNS,
    from: concat!("invoices d", org_of!("d.customer_id")),
    kept: "NOT d.deleted",
    order: BY_CREATED,
    lines_of: None,
    filters: INVOICE_FILTERS,
};

pub(super) static LINES: Definition = Definition {
    name: "lines",
    columns: LINE_COLUMNS,
    from: concat!(
        "invoices d
        JOIN invoice_lines n ON (n.account, n.livemode, n.invoice_id) = (d.account, d.livemode, d.id)",
        taxes_of_line!(),
        org_of!("d.customer_id")
    ),
    kept: "NOT d.deleted",
    order: "d.created, d.id, d.account, d.livemode, n.line_number",
    lines_of: Some(Kind::Invoices),
    filters: Filters {
        // A line of no subscription belongs to that of its invoice.
        subscription: Some("coalesce(n.subscription_id, d.subscription_id)"),
        ..INVOICE_FILTERS
    },
};

const INVOICE_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`in_…`), or that of our own (`inv_…`)"),
    text("number", "d.number", "Number shown to the customer; drafts have none"),
    text("status", "d.status", "draft, open, paid, void or uncollectible"),
    text("customer_id", "d.customer_id", "Stripe customer billed"),
    text("customer_name", "d.customer_name", "Name of the customer when it was issued"),
    text("customer_email", "d.customer_email", "E-mail address of the customer when it was issued"),
    text("subscription_id", "d.subscription_id", "Subscription billed"),
    text("billing_reason", "d.billing_reason", "Why it was made: subscription_cycle, manual, …"),
    text("collection_method", "d.collection_method", "charge_automatically or send_invoice"),
    CURRENCY,
    summed("subtotal", "d.subtotal", "Sum of the lines before discounts on the invoice and exclusive tax"),
    summed("discount_total", "d.discount_total", "Sum of the discounts"),
    summed("tax_total", "d.tax_total", "Sum of the taxes, inclusive and exclusive"),
    summed("total", "d.total", "Total after discounts and tax"),
    summed("amount_due", "d.amount_due", "Due after the customer's balance was applied"),
    summed("amount_paid", "d.amount_paid", "Paid so far"),
    summed("amount_remaining", "d.amount_remaining", "Still to be paid"),
    major("total_major", "d.total", "`total`"),
    major("amount_due_major", "d.amount_due", "`amount_due`"),
    major("amount_paid_major", "d.amount_paid", "`amount_paid`"),
    major("amount_remaining_major", "d.amount_remaining", "`amount_remaining`"),
    amount(
        "starting_balance",
        "d.starting_balance",
        "The customer's balance before the invoice; negative: credit",
    ),
    amount("ending_balance", "d.ending_balance", "The customer's balance after it was issued"),
    amount(
        "pre_payment_credit_notes_amount",
        "d.pre_payment_credit_notes_amount",
        "Credit notes issued before it was paid",
    ),
    amount(
        "post_payment_credit_notes_amount",
        "d.post_payment_credit_notes_amount",
        "Credit notes issued after it was paid",
    ),
    time("created", "d.created", "When it was made"),
    time("finalized_at", "d.finalized_at", "When it was issued"),
    time("due_at", "d.due_at", "When payment is due"),
    time("paid_at", "d.paid_at", "When it was paid"),
    time("voided_at", "d.voided_at", "When it was voided"),
    time("marked_uncollectible_at", "d.marked_uncollectible_at", "When it was given up"),
    time("period_start", "d.period_start", "Start of the period that items were collected in"),
    time("period_end", "d.period_end", "End of that period, not included"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent, in older Stripe versions"),
    text("charge_id", "d.charge_id", "Latest charge, in older Stripe versions"),
    boolean(
        "paid_out_of_band",
        "coalesce(d.paid_out_of_band, \
             EXISTS (SELECT FROM invoice_payments y \
                 WHERE y.invoice_id = d.id AND y.account = d.account AND y.livemode = d.livemode \
                 AND y.status = 'paid' AND y.payment_record_id IS NOT NULL))",
        "Paid outside Stripe, as it says itself or a record of that payment does",
    ),
    boolean("lines_complete", "d.lines_complete", "False when Stripe sent only some of its lines"),
    text("hosted_invoice_url", "d.hosted_invoice_url", "Page for the customer"),
    text("invoice_pdf", "d.invoice_pdf", "Link to the document"),
    text("description", "d.description", "Memo shown to the customer"),
    METADATA,
    ORG_NAME,
    text("customer_country", "(d.customer_address ->> 'country')", "Country of the address on the invoice"),
    text("customer_tax_exempt", "d.customer_tax_exempt", "none, exempt or reverse, when it was issued"),
    text(
        "customer_tax_ids",
        "(SELECT string_agg(concat_ws(' ', t.tax ->> 'type', t.tax ->> 'value'), '; ' ORDER BY t.place) \
             FROM jsonb_array_elements(d.customer_tax_ids) WITH ORDINALITY t (tax, place))",
        "Tax ids on the invoice, each with its type: `eu_vat DE123456789; …`",
    ),
    boolean(
        "reverse_charge",
        "(d.customer_tax_exempt = 'reverse' \
             OR EXISTS (SELECT FROM invoice_lines n \
                 WHERE (n.account, n.livemode, n.invoice_id) = (d.account, d.livemode, d.id) \
                 AND n.taxes @> '[{\"reason\": \"reverse_charge\"}]'))",
        "Whether the customer owes the tax: by `customer_tax_exempt`, or by the taxes of a line",
    ),
    ORIGIN,
];

const LINE_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("invoice_id", "d.id", "Invoice that it belongs to"),
    integer("line_number", "n.line_number::bigint", "Place in the invoice, from 0"),
    text("id", "n.id", "Stripe's id; older Stripe versions may give the subscription or invoice item"),
    text("invoice_number", "d.number", "Number of the invoice"),
    text("invoice_status", "d.status", "Status of the invoice"),
    text("customer_id", "d.customer_id", "Stripe customer billed"),
    text("type", "n.type", "subscription or invoiceitem"),
    text("description", "n.description", "Text of the line"),
    text(
        "currency",
        "coalesce(n.currency, d.currency)",
        "ISO 4217 code, lower case, of the amounts in this row",
    ),
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
    time("period_start", "n.period_start", "Start of the period billed"),
    time("period_end", "n.period_end", "End of the period billed, not included"),
    text("price_id", "n.price_id", "Price, or plan in older Stripe versions"),
    text("product_id", "n.product_id", "Product of the price"),
    text("subscription_id", "n.subscription_id", "Subscription billed"),
    text("subscription_item_id", "n.subscription_item_id", "Subscription item billed"),
    text("invoice_item_id", "n.invoice_item_id", "Invoice item billed"),
    boolean("proration", "n.proration", "Whether it prorates an earlier line"),
    time("invoice_created", "d.created", "When the invoice was made"),
    time("invoice_finalized_at", "d.finalized_at", "When the invoice was issued"),
    time("invoice_paid_at", "d.paid_at", "When the invoice was paid"),
    boolean(
        "invoice_lines_complete",
        "d.lines_complete",
        "False when Stripe sent only some lines of the invoice",
    ),
    column(Type::Json, "metadata", "n.metadata::text", "Metadata of the line at Stripe, an object of texts"),
    ORG_NAME,
    TAX_PERCENTAGES,
    TAXABLE_AMOUNT,
    TAX_BEHAVIOR,
    TAXABILITY_REASON,
    REVERSE_CHARGE_OF_LINE,
    TAXES,
    ORIGIN,
];
