//! Payments as the API shows them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Payment;
use crate::billing::read::{Belongs, ListFilter, Origin, OwnedRow, Where, resource};

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PaymentFilter {
    /// Only with this status: of the intent (`requires_payment_method`, `processing`, `succeeded`,
    /// `canceled`, …) or of the charge (`failed`, …).
    pub status: Option<String>,
    /// Only of this customer (`cus_…`).
    pub customer: Option<String>,
    /// Only those that pay this invoice (`in_…`).
    pub invoice: Option<String>,
    /// Only that of this charge (`ch_…`, `py_…`).
    pub charge: Option<String>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
}

impl ListFilter for PaymentFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.status.as_deref(), "payments.status = {}");
        rows.when(self.invoice.as_deref(), "payments.invoice_id = {}");
        rows.when(self.charge.as_deref(), "payments.charge_id = {}");
        rows.when(self.currency.as_deref(), "payments.currency = {}");
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }
}

/// A payment as the API shows it. Amounts are minor units of `currency`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PaymentView {
    /// The row.
    #[serde(flatten)]
    pub row: Payment,
    /// Stripe, or our own.
    pub origin: Origin,
    /// Public id of the org that its customer is linked to; null while it is not.
    pub org: Option<String>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    Payment in payments, PaymentView by PaymentFilter,
        name "payment", objects "payment_intent" | "charge" | "invoice_payment", belongs Belongs::LikePayments
}

impl From<OwnedRow<Payment>> for PaymentView {
    fn from(found: OwnedRow<Payment>) -> Self {
        let row = Payment { customer_id: found.customer_id, ..found.row };
        Self { row, origin: Origin::Stripe, org: found.org, raw: found.raw }
    }
}
