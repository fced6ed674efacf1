//! Disputes: money claimed back through the customer's bank.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::mirror::mirror;
use super::read::{Belongs, ListFilter, OwnedRow, Where, resource};

mirror! {
    /// A dispute of a charge.
    Dispute in disputes, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `du_…` or `dp_…`
        id: String,
        /// Charge disputed.
        charge_id: Option<String>,
        /// Payment intent disputed.
        payment_intent_id: Option<String>,
        /// Amount disputed, in minor units of `currency`.
        amount: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// `warning_*` for inquiries, `needs_response`, `under_review`, `won`, `lost`, …
        status: Option<String>,
        /// Reason given by the cardholder's bank.
        reason: Option<String>,
        /// Until when evidence counts.
        evidence_due_by: Option<DateTime<Utc>>,
        /// Whether the charge can still be refunded.
        is_charge_refundable: Option<bool>,
        /// Withdrawn and not reinstated, without fees, in minor units of `funds_currency`; absent when the
        /// snapshot has no list of balance transactions.
        funds_withdrawn: Option<i64>,
        /// Effect on the account's balance with fees, in minor units of `funds_currency`; negative is lost.
        funds_net: Option<i64>,
        /// Currency of settlement, which may differ from `currency`.
        funds_currency: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
        /// Withdrawn and reinstated, in minor units of `funds_currency`; absent as `funds_withdrawn` is.
        funds_reinstated: Option<i64>,
    }
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DisputeFilter {
    /// Only with this status: `needs_response`, `under_review`, `won`, `lost`, …; `warning_…` for inquiries.
    pub status: Option<String>,
    /// Only of this customer (`cus_…`).
    pub customer: Option<String>,
    /// Only those whose payment pays this invoice (`in_…`).
    pub invoice: Option<String>,
    /// Only of this payment intent (`pi_…`).
    pub payment_intent: Option<String>,
    /// Only of this charge (`ch_…`, `py_…`).
    pub charge: Option<String>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
}

impl ListFilter for DisputeFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.status.as_deref(), "disputes.status = {}");
        rows.when(self.payment_intent.as_deref(), "disputes.payment_intent_id = {}");
        rows.when(self.charge.as_deref(), "disputes.charge_id = {}");
        rows.when(self.currency.as_deref(), "disputes.currency = {}");
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }

    fn invoice_of_payment(&self) -> Option<&str> {
        self.invoice.as_deref()
    }
}

/// A dispute as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DisputeView {
    /// The row.
    #[serde(flatten)]
    pub row: Dispute,
    /// Customer whose payment it was; null while the payment is not known.
    pub customer_id: Option<String>,
    /// Public id of the org that its customer is linked to; null while it is not.
    pub org: Option<String>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    Dispute in disputes, DisputeView by DisputeFilter,
        name "dispute", objects "dispute", belongs Belongs::ThroughPayment
}

impl From<OwnedRow<Dispute>> for DisputeView {
    fn from(found: OwnedRow<Dispute>) -> Self {
        Self { row: found.row, org: found.org, customer_id: found.customer_id, raw: found.raw }
    }
}
