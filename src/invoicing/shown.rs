//! Invoices of our own as the API shows them after a command.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::{own_invoice_lines as l, own_invoices as t};

/// An invoice of our own. Amounts are minor units of `currency`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnInvoice {
    /// `inv_…`
    pub id: String,
    /// `own`: made here, not mirrored from Stripe.
    pub origin: &'static str,
    /// The org, by public id.
    pub org: String,
    /// Key of the seller.
    pub seller: String,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`.
    pub status: String,
    /// Why a draft cannot be finalised: `usage_unpriced`, `usage_without_currency`, `total_below_zero`,
    /// `plan_has_no_price`, `no_tax_rate`, another code with which finalising answers, such as `number_taken`
    /// or `invoice_is_empty`, or `failed` (the log says why); null: nothing is missing.
    pub waits: Option<String>,
    /// Its number; null for a draft.
    pub number: Option<String>,
    /// ISO 4217, lower case.
    pub currency: String,
    /// The local subscription that it bills.
    pub subscription: Option<String>,
    /// Why it was made: `subscription`, `manual`, `late_usage` or `import`.
    pub reason: String,
    /// Sum of the lines before discounts; with tax if prices include it.
    pub subtotal: i64,
    /// Sum of the discounts.
    pub discount_total: i64,
    /// Without tax, after discounts.
    pub net_total: i64,
    /// Sum of the taxes.
    pub tax_total: i64,
    /// With tax.
    pub total: i64,
    /// Paid by payments and earlier credit.
    pub amount_paid: i64,
    /// Taken back by credit notes.
    pub amount_credited: i64,
    /// Given up.
    pub amount_written_off: i64,
    /// What it still asks for.
    pub amount_remaining: i64,
    /// The day of issue, in the seller's zone.
    pub issue_date: Option<NaiveDate>,
    /// The day until which it is to be paid.
    pub due_date: Option<NaiveDate>,
    /// Start of what it charges for.
    pub period_start: Option<DateTime<Utc>>,
    /// End of what it charges for.
    pub period_end: Option<DateTime<Utc>>,
    /// When the clock finalises the draft; null: it does not.
    pub finalize_at: Option<DateTime<Utc>>,
    /// When it was finalised.
    pub finalized_at: Option<DateTime<Utc>>,
    /// When it was paid.
    pub paid_at: Option<DateTime<Utc>>,
    /// When it was declared void.
    pub voided_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Its lines.
    pub lines: Vec<OwnInvoiceLine>,
}

/// A line of an invoice of our own.
#[derive(Clone, Debug, Serialize, Queryable, Selectable, ToSchema)]
#[diesel(table_name = l)]
pub struct OwnInvoiceLine {
    /// From 1 on.
    #[diesel(column_name = line_number)]
    pub number: i32,
    /// `fee`, `usage`, `minimum`, `proration` or `item`.
    pub kind: String,
    /// What it is.
    pub description: String,
    /// How many.
    #[schema(value_type = String)]
    pub quantity: Decimal,
    /// What is counted.
    pub unit: Option<String>,
    /// Price of `base_quantity` units, in major units.
    #[schema(value_type = String)]
    pub unit_price: Decimal,
    /// For how many units the price is.
    #[schema(value_type = String)]
    pub base_quantity: Decimal,
    /// Quantity × price, before discounts; with tax if prices include it.
    pub amount: i64,
    /// Its part of the discounts.
    pub discount: i64,
    /// `amount` without tax.
    pub net: i64,
    /// Its part of the tax.
    pub tax: i64,
    /// Key of the tax rate.
    pub tax_rate_id: String,
    /// Category of tax.
    pub tax_category: String,
    /// Rate in percent.
    #[schema(value_type = String)]
    pub tax_percent: Decimal,
    /// Start of what it charges for.
    pub period_start: Option<DateTime<Utc>>,
    /// End of what it charges for.
    pub period_end: Option<DateTime<Utc>>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = t)]
struct ShownRow {
    invoice_id: String,
    seller_id: String,
    status: String,
    waits: Option<String>,
    number: Option<String>,
    currency: String,
    subscription_id: Option<String>,
    reason: String,
    subtotal: i64,
    discount_total: i64,
    net_total: i64,
    tax_total: i64,
    total: i64,
    amount_paid: i64,
    amount_credited: i64,
    amount_written_off: i64,
    issue_date: Option<NaiveDate>,
    due_date: Option<NaiveDate>,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    finalize_at: Option<DateTime<Utc>>,
    finalized_at: Option<DateTime<Utc>>,
    paid_at: Option<DateTime<Utc>>,
    voided_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

/// Shows an invoice of an org.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such invoice.
pub fn show(conn: &mut PgConnection, (org_id, org): (i64, &str), invoice: &str) -> Result<OwnInvoice, Error> {
    let row: Option<ShownRow> =
        t::table.find((org_id, invoice)).select(ShownRow::as_select()).first(conn).optional()?;
    let row = row.ok_or(Error::NotFound("invoice"))?;
    let lines = lines_of(conn, org_id, invoice)?;
    let asked = row.total - row.amount_paid - row.amount_credited - row.amount_written_off;
    Ok(OwnInvoice {
        amount_remaining: if row.status == "open" || row.status == "draft" { asked } else { 0 },
        id: row.invoice_id,
        origin: "own",
        org: org.to_owned(),
        seller: row.seller_id,
        status: row.status,
        waits: row.waits,
        number: row.number,
        currency: row.currency,
        subscription: row.subscription_id,
        reason: row.reason,
        subtotal: row.subtotal,
        discount_total: row.discount_total,
        net_total: row.net_total,
        tax_total: row.tax_total,
        total: row.total,
        amount_paid: row.amount_paid,
        amount_credited: row.amount_credited,
        amount_written_off: row.amount_written_off,
        issue_date: row.issue_date,
        due_date: row.due_date,
        period_start: row.period_start,
        period_end: row.period_end,
        finalize_at: row.finalize_at,
        finalized_at: row.finalized_at,
        paid_at: row.paid_at,
        voided_at: row.voided_at,
        created_at: row.created_at,
        lines,
    })
}

/// The invoice as messages bring it.
///
/// # Errors
/// As [`show`].
pub(super) fn object(
    conn: &mut PgConnection,
    org: (i64, &str),
    invoice: &str,
) -> Result<Option<serde_json::Value>, Error> {
    Ok(serde_json::to_value(show(conn, org, invoice)?).ok())
}

/// The lines of an invoice, in order.
pub fn lines_of(conn: &mut PgConnection, org_id: i64, invoice: &str) -> QueryResult<Vec<OwnInvoiceLine>> {
    let own = l::table.filter(l::org_id.eq(org_id).and(l::invoice_id.eq(invoice)));
    let mut lines: Vec<OwnInvoiceLine> =
        own.order(l::line_number).select(OwnInvoiceLine::as_select()).load(conn)?;
    for line in &mut lines {
        line.quantity = line.quantity.normalize();
        line.unit_price = line.unit_price.normalize();
        line.base_quantity = line.base_quantity.normalize();
        line.tax_percent = line.tax_percent.normalize();
    }
    Ok(lines)
}
