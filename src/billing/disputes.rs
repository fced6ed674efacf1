//! Disputes: money claimed back through the customer's bank.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::mirror::mirror;

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
        /// Withdrawn and not reinstated, without fees, in minor units of `funds_currency`; absent when the snapshot
        /// has no list of balance transactions.
        funds_withdrawn: Option<i64>,
        /// Effect on the account's balance with fees, in minor units of `funds_currency`; negative is lost.
        funds_net: Option<i64>,
        /// Currency of settlement, which may differ from `currency`.
        funds_currency: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        metadata: Value,
    }
}
