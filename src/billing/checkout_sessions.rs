//! Checkout sessions.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::mirror::mirror;

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
    }
}
