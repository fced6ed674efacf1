//! Invoices and their lines.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde_json::Value;

use super::mirror::{self, mirror};

mirror! {
    /// A Stripe invoice. Amounts are minor units of `currency`.
    Invoice in invoices, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `in_…`
        id: String,
        /// Who is billed.
        customer_id: Option<String>,
        /// Subscription it bills.
        subscription_id: Option<String>,
        /// Number shown to the customer; drafts have none.
        number: Option<String>,
        /// `draft`, `open`, `paid`, `void` or `uncollectible`.
        status: Option<String>,
        /// Why it was made: `subscription_cycle`, `manual`, …
        billing_reason: Option<String>,
        /// `charge_automatically` or `send_invoice`.
        collection_method: Option<String>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Sum of the lines before discounts on the invoice and exclusive tax.
        subtotal: Option<i64>,
        /// Sum of the discounts.
        discount_total: Option<i64>,
        /// Sum of the taxes, inclusive and exclusive.
        tax_total: Option<i64>,
        /// Total after discounts and tax.
        total: Option<i64>,
        /// Due after the customer's balance was applied.
        amount_due: Option<i64>,
        /// Paid so far.
        amount_paid: Option<i64>,
        /// Still to be paid.
        amount_remaining: Option<i64>,
        /// The customer's balance before the invoice.
        starting_balance: Option<i64>,
        /// The customer's balance after the invoice was finalized.
        ending_balance: Option<i64>,
        /// Credit notes issued before it was paid.
        pre_payment_credit_notes_amount: Option<i64>,
        /// Credit notes issued after it was paid.
        post_payment_credit_notes_amount: Option<i64>,
        /// Start of the period that invoice items were collected in.
        period_start: Option<DateTime<Utc>>,
        /// End of that period.
        period_end: Option<DateTime<Utc>>,
        /// When it was issued.
        finalized_at: Option<DateTime<Utc>>,
        /// When payment is due.
        due_at: Option<DateTime<Utc>>,
        /// When it was paid.
        paid_at: Option<DateTime<Utc>>,
        /// When it was voided.
        voided_at: Option<DateTime<Utc>>,
        /// When it was given up.
        marked_uncollectible_at: Option<DateTime<Utc>>,
        /// When Stripe tries to charge next.
        next_payment_attempt: Option<DateTime<Utc>>,
        /// How often Stripe tried to charge.
        attempt_count: Option<i32>,
        /// Payment intent, in older shapes.
        payment_intent_id: Option<String>,
        /// Latest charge, in older shapes.
        charge_id: Option<String>,
        /// Marked as paid outside Stripe, in older shapes.
        paid_out_of_band: Option<bool>,
        /// Page for the customer.
        hosted_invoice_url: Option<String>,
        /// Link to the document.
        invoice_pdf: Option<String>,
        /// Memo shown to the customer.
        description: Option<String>,
        /// Name of the customer when it was issued.
        customer_name: Option<String>,
        /// E-mail address of the customer when it was issued.
        customer_email: Option<String>,
        /// False when the snapshot held only some of the lines.
        lines_complete: bool,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// A draft deleted at Stripe.
        deleted: bool,
        /// Metadata, an object.
        metadata: Value,
    }
}

mirror! {
    /// A line of an invoice. Amounts are minor units of `currency`.
    InvoiceLine in invoice_lines, key (account, livemode, invoice_id, line_number) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// Invoice it belongs to.
        invoice_id: String,
        /// Place in the invoice, from 0.
        line_number: i32,
        /// `il_…`; older shapes may give the subscription or invoice item here.
        id: Option<String>,
        /// `subscription` or `invoiceitem`, in both generations.
        type_: Option<String>,
        /// Amount before discounts on the line and exclusive tax.
        amount: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// How many.
        quantity: Option<i64>,
        /// Text of the line.
        description: Option<String>,
        /// Start of the period billed.
        period_start: Option<DateTime<Utc>>,
        /// End of the period billed.
        period_end: Option<DateTime<Utc>>,
        /// Price, or plan in older shapes.
        price_id: Option<String>,
        /// Product of the price.
        product_id: Option<String>,
        /// Price of one, in minor units with up to 12 decimal places.
        unit_amount_decimal: Option<Decimal>,
        /// Subscription billed.
        subscription_id: Option<String>,
        /// Subscription item billed.
        subscription_item_id: Option<String>,
        /// Invoice item billed.
        invoice_item_id: Option<String>,
        /// Whether it prorates an earlier line.
        proration: Option<bool>,
        /// Sum of the discounts on the line.
        discount_amount: Option<i64>,
        /// Sum of the taxes on the line.
        tax_amount: Option<i64>,
        /// Metadata, an object.
        metadata: Value,
    }
}

/// An invoice and all lines of its snapshot, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct InvoiceWithLines {
    /// The invoice.
    pub invoice: Invoice,
    /// Its lines; they replace those stored.
    pub lines: Vec<InvoiceLine>,
}

/// Stores invoices and replaces their lines.
pub(super) fn write(conn: &mut PgConnection, rows: &[&InvoiceWithLines]) -> QueryResult<()> {
    mirror::upsert(conn, rows.iter().map(|row| &row.invoice))?;
    let parents: Vec<_> = rows
        .iter()
        .map(|row| (&*row.invoice.account, row.invoice.livemode, &*row.invoice.id, row.lines.len() as i32))
        .collect();
    mirror::trim::<InvoiceLine>(conn, &parents)?;
    mirror::upsert(conn, rows.iter().flat_map(|row| &row.lines))
}
