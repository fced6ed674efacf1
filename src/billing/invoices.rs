//! Invoices and their lines.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::directory::Change;
use super::mirror::{self, Mirror, mirror};
use super::read::{self, Belongs, ListFilter, ListPart, Origin, OwnedRow, Where, resource};
use super::{MirrorBatch, MirrorRows};
use crate::error::Error;
use crate::time::Moment;

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
        /// Paid outside Stripe: as older shapes say, or as the record of such a payment does.
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
        #[schema(value_type = Object)]
        metadata: Value,
        /// The customer's address when it was issued, as Stripe gives it.
        #[schema(value_type = Option<Object>)]
        customer_address: Option<Value>,
        /// `none`, `exempt` or `reverse`, when it was issued.
        customer_tax_exempt: Option<String>,
        /// The customer's tax ids when it was issued, a list of `{type, value}`.
        #[schema(value_type = Option<Vec<Object>>)]
        customer_tax_ids: Option<Value>,
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
        #[serde(rename = "type")]
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
        #[schema(value_type = Option<String>)]
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
        #[schema(value_type = Object)]
        metadata: Value,
        /// `licensed` or `metered`, where the snapshot holds the price; newer ones name it alone.
        usage_type: Option<String>,
        /// The taxes, a list of `{amount, taxable_amount, inclusive, reason, rate_id, percentage}`; null
        /// where the snapshot says nothing of taxes. `percentage` is null where it names the rate alone.
        #[schema(value_type = Option<Vec<Object>>)]
        taxes: Option<Value>,
    }
}

impl Invoice {
    /// The change that this invoice means for its subscription: unpaid invoices decide how long `past_due`
    /// keeps the plan. A draft means none.
    pub(super) fn change(&self) -> Option<Change> {
        let subscription_id =
            self.subscription_id.clone().filter(|_| self.status.as_deref() != Some("draft"))?;
        Some(Change::Subscription(self.account.clone(), self.livemode, subscription_id))
    }
}

/// An invoice and all lines of its snapshot, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct InvoiceWithLines {
    pub invoice: Invoice,
    /// Its lines; they replace those stored.
    pub lines: Vec<InvoiceLine>,
}

impl MirrorRows for InvoiceWithLines {
    const TABLES: &'static [&'static str] = &[Invoice::TABLE, InvoiceLine::TABLE];

    fn write(conn: &mut PgConnection, rows: &[Self], _: &MirrorBatch, replaces: bool) -> QueryResult<()> {
        mirror::upsert_with(conn, rows.iter().map(|row| (&row.invoice, &*row.lines)), replaces)
    }
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InvoiceFilter {
    /// Only with this status: `draft`, `open`, `paid`, `void` or `uncollectible`.
    pub status: Option<String>,
    /// Only of this customer (`cus_…`).
    pub customer: Option<String>,
    /// Only those that bill this subscription (`sub_…`).
    pub subscription: Option<String>,
    /// Only with this number, as the customer sees it.
    pub number: Option<String>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
    /// Issued (finalized) at or after.
    pub issued_from: Option<Moment>,
    /// Issued (finalized) before.
    pub issued_before: Option<Moment>,
    /// Paid at or after.
    pub paid_from: Option<Moment>,
    /// Paid before.
    pub paid_before: Option<Moment>,
    /// Whose period begins at or after.
    pub period_from: Option<Moment>,
    /// Whose period begins before.
    pub period_before: Option<Moment>,
    /// True: only what was deleted at Stripe. Otherwise only what was not.
    pub deleted: Option<bool>,
    /// What to show inside the rows, separated by commas; pages then have at most 100 rows.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub expand: Vec<ListPart>,
}

impl ListFilter for InvoiceFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.status.as_deref(), "invoices.status = {}");
        rows.when(self.subscription.as_deref(), "invoices.subscription_id = {}");
        rows.when(self.number.as_deref(), "invoices.number = {}");
        rows.when(self.currency.as_deref(), "invoices.currency = {}");
        rows.when(self.issued_from, "invoices.finalized_at >= {}");
        rows.when(self.issued_before, "invoices.finalized_at < {}");
        rows.when(self.paid_from, "invoices.paid_at >= {}");
        rows.when(self.paid_before, "invoices.paid_at < {}");
        rows.when(self.period_from, "invoices.period_start >= {}");
        rows.when(self.period_before, "invoices.period_start < {}");
        rows.when(Some(self.deleted.unwrap_or(false)), "invoices.deleted = {}");
    }

    fn selects_few(&self) -> bool {
        (self.issued_from.is_some() && self.issued_before.is_some())
            || (self.paid_from.is_some() && self.paid_before.is_some())
    }

    fn expands_lines(&self) -> bool {
        !self.expand.is_empty()
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }
}

/// An invoice as the API shows it. Amounts are minor units of `currency`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InvoiceView {
    /// The row.
    #[serde(flatten)]
    pub row: Invoice,
    /// Stripe, or our own.
    pub origin: Origin,
    /// Public id of the org that its customer is linked to; null while it is not.
    pub org: Option<String>,
    /// Its lines; null unless they are asked for.
    pub lines: Option<Vec<InvoiceLine>>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    Invoice in invoices, InvoiceView by InvoiceFilter,
        name "invoice", objects "invoice", belongs Belongs::By("customer_id"),
        lines true, views views
}

fn views(
    conn: &mut PgConnection,
    found: Vec<OwnedRow<Invoice>>,
    with_lines: bool,
) -> Result<Vec<InvoiceView>, Error> {
    let mut lines =
        if with_lines { Some(read::children::<Invoice, InvoiceLine>(conn, &found)?) } else { None };
    let recorded = paid_by_record(conn, &found)?;
    let view = |found: OwnedRow<Invoice>| {
        let lines = lines.as_mut().map(|lines| lines.next().unwrap_or_default());
        let mut row = found.row;
        if row.paid_out_of_band.is_none()
            && recorded.contains(&(row.account.clone(), row.livemode, row.id.clone()))
        {
            row.paid_out_of_band = Some(true);
        }
        InvoiceView { row, origin: Origin::Stripe, org: found.org, lines, raw: found.raw }
    };
    Ok(found.into_iter().map(view).collect())
}

/// The invoices with a payment, of all or a part, that was made outside Stripe and recorded there. Newer
/// shapes of an invoice do not say so
/// (<https://docs.stripe.com/changelog/dahlia/2026-05-27/invoice-object-amount-paid-off-stripe-property>).
fn paid_by_record(
    conn: &mut PgConnection,
    found: &[OwnedRow<Invoice>],
) -> QueryResult<BTreeSet<(String, bool, String)>> {
    use crate::schema::invoice_payments as p;
    let ids: Vec<&str> = found.iter().map(|found| found.row.id.as_str()).collect();
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows: Vec<(String, bool, Option<String>)> = p::table
        .filter(p::invoice_id.eq_any(ids).and(p::status.eq("paid")).and(p::payment_record_id.is_not_null()))
        .select((p::account, p::livemode, p::invoice_id))
        .load(conn)?;
    Ok(rows.into_iter().filter_map(|(account, livemode, id)| Some((account, livemode, id?))).collect())
}
