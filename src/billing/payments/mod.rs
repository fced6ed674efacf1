//! Payments: one row per money movement, and the Stripe objects it is computed from.

mod combine;
pub mod read;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::mirror::mirror;
pub(super) use combine::{combine, of_charges, stored_keys};

/// Names a money movement. It is computed from several Stripe objects. Whoever writes one of them locks this
/// key, so that nobody recomputes the payment from half of a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentKey {
    /// Connected account, empty for the platform's own.
    pub account: String,
    /// Live or test mode.
    pub livemode: bool,
    /// Id of the payment intent, else of the charge, else of the payment record, else of the invoice payment.
    pub id: String,
}

mirror! {
    /// Stripe's intent to collect a payment. Amounts are minor units of `currency`.
    PaymentIntent in payment_intents, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `pi_…`
        id: String,
        customer_id: Option<String>,
        /// Invoice it pays, in older shapes.
        invoice_id: Option<String>,
        latest_charge_id: Option<String>,
        /// `requires_payment_method`, `processing`, `requires_capture`, `succeeded`, `canceled`, …
        status: Option<String>,
        amount: Option<i64>,
        amount_received: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Kind of payment method, where the snapshot leaves no choice.
        payment_method_type: Option<String>,
        /// Code of the last error.
        failure_code: Option<String>,
        /// Message of the last error.
        failure_message: Option<String>,
        description: Option<String>,
        /// When it was canceled.
        canceled_at: Option<DateTime<Utc>>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
    }
}

mirror! {
    /// One attempt to move money. Amounts are minor units of `currency`.
    Charge in charges, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `ch_…` or `py_…`
        id: String,
        /// Intent it belongs to.
        payment_intent_id: Option<String>,
        customer_id: Option<String>,
        /// Invoice it pays, in older shapes.
        invoice_id: Option<String>,
        /// `pending`, `succeeded` or `failed`.
        status: Option<String>,
        amount: Option<i64>,
        /// Amount captured; older shapes leave it out.
        amount_captured: Option<i64>,
        amount_refunded: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Whether the money was taken, not only reserved.
        captured: Option<bool>,
        /// Whether all of it was given back.
        refunded: Option<bool>,
        /// Whether it is or was disputed.
        disputed: Option<bool>,
        /// Kind of payment method: `card`, `sepa_debit`, …
        payment_method_type: Option<String>,
        /// Why it failed.
        failure_code: Option<String>,
        /// Why it failed, for people.
        failure_message: Option<String>,
        /// Receipt for the customer.
        receipt_url: Option<String>,
        description: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
        /// Brand of the card, as Stripe writes it.
        card_brand: Option<String>,
        /// Last four digits of the card or bank account.
        last4: Option<String>,
        /// Entry of the balance at Stripe, `txn_…`.
        balance_transaction_id: Option<String>,
        /// Stripe's fee, in minor units of `net_currency`; absent when the snapshot has only the entry's id.
        fee: Option<i64>,
        /// What remains after the fee, in minor units of `net_currency`; absent as the fee is.
        net: Option<i64>,
        /// Currency of settlement, which may differ from `currency`.
        net_currency: Option<String>,
    }
}

mirror! {
    /// What ties a payment to an invoice, in newer shapes. Amounts are minor units of `currency`.
    InvoicePayment in invoice_payments, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `inpay_…`
        id: String,
        invoice_id: Option<String>,
        /// `payment_intent`, `charge`, `payment_record`, …
        #[serde(rename = "type")]
        type_: Option<String>,
        /// Payment intent that pays.
        payment_intent_id: Option<String>,
        /// Charge that pays, where there is no intent.
        charge_id: Option<String>,
        /// Record of a payment made outside Stripe.
        payment_record_id: Option<String>,
        /// `open`, `paid` or `canceled`.
        status: Option<String>,
        amount_requested: Option<i64>,
        amount_paid: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Whether it is the invoice's default payment.
        is_default: Option<bool>,
        /// When it was paid.
        paid_at: Option<DateTime<Utc>>,
        /// When it was canceled.
        canceled_at: Option<DateTime<Utc>>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
    }
}

impl PaymentIntent {
    /// Id of the payment: every intent is one.
    pub fn payment_id(&self) -> &str {
        &self.id
    }
}

impl Charge {
    /// Id of the payment that the charge belongs to.
    pub fn payment_id(&self) -> &str {
        self.payment_intent_id.as_deref().unwrap_or(&self.id)
    }
}

impl InvoicePayment {
    /// Id of the payment that this object ties to an invoice.
    pub fn payment_id(&self) -> &str {
        let named = [&self.payment_intent_id, &self.charge_id, &self.payment_record_id];
        named.into_iter().find_map(|id| id.as_deref()).unwrap_or(&self.id)
    }
}

/// One money movement, computed from intent, charge, invoice payment and invoice, whichever are known.
/// Amounts are minor units of `currency`.
#[derive(Clone, Debug, PartialEq, diesel::Queryable, diesel::Selectable, Serialize, ToSchema)]
#[diesel(table_name = crate::schema::payments)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Payment {
    /// Connected account, empty for the platform's own.
    pub account: String,
    /// Live or test mode.
    pub livemode: bool,
    /// See [`PaymentKey::id`].
    pub id: String,
    /// Payment intent.
    pub payment_intent_id: Option<String>,
    /// The charge that succeeded, else the latest.
    pub charge_id: Option<String>,
    /// The invoice payment that was paid, else the oldest.
    pub invoice_payment_id: Option<String>,
    /// Invoice it pays.
    pub invoice_id: Option<String>,
    /// Who pays; absent when only an invoice payment is known: then the invoice tells.
    pub customer_id: Option<String>,
    /// Status of the intent; without one `succeeded`, `requires_capture`, `pending`, `failed` or `canceled`.
    pub status: Option<String>,
    /// Amount to collect.
    pub amount: Option<i64>,
    /// Amount collected.
    pub amount_received: i64,
    /// Amount given back: by refunds that neither failed nor were canceled, and what the charge tells beyond
    /// those.
    pub amount_refunded: i64,
    /// Currency, lower case.
    pub currency: Option<String>,
    /// Kind of payment method.
    pub payment_method_type: Option<String>,
    /// Why it failed; empty once it succeeded.
    pub failure_code: Option<String>,
    /// Why it failed, for people; empty once it succeeded.
    pub failure_message: Option<String>,
    /// Whether it is or was disputed; an inquiry alone is none.
    pub disputed: bool,
    /// When it was begun.
    pub created: Option<DateTime<Utc>>,
    /// When the money moved, as far as known: invoice payment, else charge, else the begin of the intent.
    pub paid_at: Option<DateTime<Utc>>,
    /// Description.
    pub description: Option<String>,
    /// Metadata of the intent, else of the charge.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// Whether the money moved outside Stripe: a payment record alone tells of it.
    pub outside_stripe: bool,
}
