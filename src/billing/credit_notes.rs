//! Credit notes and their lines.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde_json::Value;

use super::mirror::{self, mirror};

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
        metadata: Value,
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
        unit_amount_decimal: Option<Decimal>,
        /// Sum of the discounts on the line.
        discount_amount: Option<i64>,
        /// Sum of the taxes on the line.
        tax_amount: Option<i64>,
    }
}

/// A credit note and all lines of its snapshot, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct CreditNoteWithLines {
    /// The credit note.
    pub credit_note: CreditNote,
    /// Its lines; they replace those stored.
    pub lines: Vec<CreditNoteLine>,
}

/// Stores credit notes and replaces their lines.
pub(super) fn write(conn: &mut PgConnection, rows: &[&CreditNoteWithLines]) -> QueryResult<()> {
    mirror::upsert(conn, rows.iter().map(|row| &row.credit_note))?;
    let parents: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                &*row.credit_note.account,
                row.credit_note.livemode,
                &*row.credit_note.id,
                row.lines.len() as i32,
            )
        })
        .collect();
    mirror::trim::<CreditNoteLine>(conn, &parents)?;
    mirror::upsert(conn, rows.iter().flat_map(|row| &row.lines))
}
