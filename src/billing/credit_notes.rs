//! Credit notes and their lines.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::mirror::{self, Mirror, mirror};
use super::read::{self, Belongs, ListFilter, ListPart, Origin, OwnedRow, Where, resource};
use super::{MirrorBatch, MirrorRows};
use crate::error::Error;

mirror! {
    /// A document that reduces an invoice. Amounts are minor units of `currency`.
    CreditNote in credit_notes, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `cn_…`
        id: String,
        /// Invoice it reduces.
        invoice_id: Option<String>,
        /// Who is credited.
        customer_id: Option<String>,
        /// Number shown to the customer.
        number: Option<String>,
        /// `issued` or `void`.
        status: Option<String>,
        /// `pre_payment`, `post_payment` or `mixed`.
        #[serde(rename = "type")]
        type_: Option<String>,
        /// `duplicate`, `fraudulent`, `order_change` or `product_unsatisfactory`.
        reason: Option<String>,
        /// Text shown to the customer.
        memo: Option<String>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Amount of the note.
        amount: Option<i64>,
        /// Sum of the lines before discounts and exclusive tax.
        subtotal: Option<i64>,
        /// Sum of the discounts.
        discount_total: Option<i64>,
        /// Sum of the taxes.
        tax_total: Option<i64>,
        /// Total after discounts and tax.
        total: Option<i64>,
        /// Returned outside Stripe.
        out_of_band_amount: Option<i64>,
        /// Ids of the refunds it names, an array of strings.
        #[schema(value_type = Vec<String>)]
        refund_ids: Value,
        /// Link to the document.
        pdf: Option<String>,
        /// Date on the document.
        effective_at: Option<DateTime<Utc>>,
        /// When it was voided.
        voided_at: Option<DateTime<Utc>>,
        /// False when the snapshot held only some of the lines.
        lines_complete: bool,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
        /// What it takes off the amount that was still due.
        pre_payment_amount: Option<i64>,
        /// What it gives back of the amount that was settled: `refund_amount` + `balance_amount` +
        /// `out_of_band_amount`.
        post_payment_amount: Option<i64>,
        /// Of that, by refunds at Stripe; null where it names a refund without saying its amount.
        refund_amount: Option<i64>,
        /// Of that, to the customer's credit balance; null as `refund_amount` is.
        balance_amount: Option<i64>,
    }
}

mirror! {
    /// A line of a credit note. Amounts are minor units of the note's currency.
    CreditNoteLine in credit_note_lines, key (account, livemode, credit_note_id, line_number) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// Credit note it belongs to.
        credit_note_id: String,
        /// Place in the note, from 0.
        line_number: i32,
        /// `cnli_…`
        id: Option<String>,
        /// `invoice_line_item` or `custom_line_item`.
        #[serde(rename = "type")]
        type_: Option<String>,
        /// Invoice line it reduces.
        invoice_line_id: Option<String>,
        /// Amount before discounts and exclusive tax.
        amount: Option<i64>,
        /// How many.
        quantity: Option<i64>,
        /// Text of the line.
        description: Option<String>,
        /// Price of one, in minor units with up to 12 decimal places.
        #[schema(value_type = Option<String>)]
        unit_amount_decimal: Option<Decimal>,
        /// Sum of the discounts on the line.
        discount_amount: Option<i64>,
        /// Sum of the taxes on the line.
        tax_amount: Option<i64>,
        /// The taxes, a list of `{amount, taxable_amount, inclusive, reason, rate_id, percentage}`; null
        /// where the snapshot says nothing of taxes. `percentage` is null where it names the rate alone.
        #[schema(value_type = Option<Vec<Object>>)]
        taxes: Option<Value>,
    }
}

/// A credit note and all lines of its snapshot, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct CreditNoteWithLines {
    pub credit_note: CreditNote,
    /// Its lines; they replace those stored.
    pub lines: Vec<CreditNoteLine>,
}

impl MirrorRows for CreditNoteWithLines {
    const TABLES: &'static [&'static str] = &[CreditNote::TABLE, CreditNoteLine::TABLE];

    fn write(conn: &mut PgConnection, rows: &[Self], _: &MirrorBatch, replaces: bool) -> QueryResult<()> {
        mirror::upsert_with(conn, rows.iter().map(|row| (&row.credit_note, &*row.lines)), replaces)
    }
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CreditNoteFilter {
    /// Only with this status: `issued` or `void`.
    pub status: Option<String>,
    /// Only of this customer (`cus_…`).
    pub customer: Option<String>,
    /// Only those that reduce this invoice (`in_…`).
    pub invoice: Option<String>,
    /// Only with this number, as the customer sees it.
    pub number: Option<String>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
    /// What to show inside the rows, separated by commas; pages then have at most 100 rows.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub expand: Vec<ListPart>,
}

impl ListFilter for CreditNoteFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.status.as_deref(), "credit_notes.status = {}");
        rows.when(self.invoice.as_deref(), "credit_notes.invoice_id = {}");
        rows.when(self.number.as_deref(), "credit_notes.number = {}");
        rows.when(self.currency.as_deref(), "credit_notes.currency = {}");
    }

    fn expands_lines(&self) -> bool {
        !self.expand.is_empty()
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }
}

/// A credit note as the API shows it. Amounts are minor units of `currency`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CreditNoteView {
    /// The row.
    #[serde(flatten)]
    pub row: CreditNote,
    /// Stripe, or our own.
    pub origin: Origin,
    /// Public id of the org that its customer is linked to; null while it is not.
    pub org: Option<String>,
    /// Its lines; null unless they are asked for.
    pub lines: Option<Vec<CreditNoteLine>>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    CreditNote in credit_notes, CreditNoteView by CreditNoteFilter,
        name "credit note", objects "credit_note", belongs Belongs::By("customer_id"),
        lines true, views views
}

fn views(
    conn: &mut PgConnection,
    found: Vec<OwnedRow<CreditNote>>,
    with_lines: bool,
) -> Result<Vec<CreditNoteView>, Error> {
    let mut lines =
        if with_lines { Some(read::children::<CreditNote, CreditNoteLine>(conn, &found)?) } else { None };
    let view = |found: OwnedRow<CreditNote>| {
        let lines = lines.as_mut().map(|lines| lines.next().unwrap_or_default());
        CreditNoteView { row: found.row, origin: Origin::Stripe, org: found.org, lines, raw: found.raw }
    };
    Ok(found.into_iter().map(view).collect())
}
