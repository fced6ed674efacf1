//! Checkout sessions and their line items.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;

use super::mirror::{self, Mirror, mirror};
use super::{MirrorBatch, MirrorRows};

mirror! {
    /// A visit to Stripe's checkout page. Amounts are minor units of `currency`.
    CheckoutSession in checkout_sessions, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `cs_…`
        id: String,
        /// `payment`, `setup` or `subscription`.
        mode: Option<String>,
        /// `open`, `complete` or `expired`.
        status: Option<String>,
        /// `paid`, `unpaid` or `no_payment_required`.
        payment_status: Option<String>,
        /// Customer who checked out.
        customer_id: Option<String>,
        customer_email: Option<String>,
        /// Our reference, given when the session was made.
        client_reference_id: Option<String>,
        payment_intent_id: Option<String>,
        subscription_id: Option<String>,
        invoice_id: Option<String>,
        /// Payment link that led here.
        payment_link_id: Option<String>,
        /// Sum before discounts and tax.
        amount_subtotal: Option<i64>,
        /// Sum of the discounts.
        amount_discount: Option<i64>,
        /// Sum of the taxes.
        amount_tax: Option<i64>,
        /// Sum after discounts and tax.
        amount_total: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        expires_at: Option<DateTime<Utc>>,
        /// When it was created; older shapes leave it out.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
        /// False while its line items are not known: Stripe's events leave them out.
        line_items_complete: bool,
    }
}

mirror! {
    /// What a checkout session sold. Amounts are minor units of `currency`.
    CheckoutLineItem in checkout_line_items, key (account, livemode, session_id, line_number) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// Session it belongs to.
        session_id: String,
        /// Place in the session, from 0.
        line_number: i32,
        /// `li_…`
        id: Option<String>,
        /// Price that was bought.
        price_id: Option<String>,
        /// Product of the price.
        product_id: Option<String>,
        /// How many.
        quantity: Option<i64>,
        /// Amount before discounts and tax.
        amount_subtotal: Option<i64>,
        /// Sum of the discounts.
        amount_discount: Option<i64>,
        /// Sum of the taxes.
        amount_tax: Option<i64>,
        /// Amount after discounts and tax.
        amount_total: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Text shown to the buyer.
        description: Option<String>,
    }
}

/// A session and all line items that were read of it, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionWithItems {
    pub session: CheckoutSession,
    /// Its line items; they replace those stored.
    pub items: Vec<CheckoutLineItem>,
}

impl MirrorRows for SessionWithItems {
    const TABLES: &'static [&'static str] = &[CheckoutSession::TABLE, CheckoutLineItem::TABLE];

    fn write(conn: &mut PgConnection, rows: &[Self], _: &MirrorBatch, replaces: bool) -> QueryResult<()> {
        mirror::upsert_with(conn, rows.iter().map(|row| (&row.session, &*row.items)), replaces)
    }
}
