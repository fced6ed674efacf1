//! Customers, their tax ids and their discounts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::mirror::mirror;
use super::read::{Belongs, ListFilter, OwnedRow, Where, resource};

mirror! {
    /// A Stripe customer.
    Customer in customers, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `cus_…`
        id: String,
        /// Full name or business name.
        name: Option<String>,
        /// E-mail address.
        email: Option<String>,
        /// Free text of the account's staff.
        description: Option<String>,
        /// Phone number.
        phone: Option<String>,
        /// Currency the customer is charged in, lower case.
        currency: Option<String>,
        /// Balance in minor units; negative is credit for the next invoice.
        balance: Option<i64>,
        /// Whether the latest charge or invoice failed.
        delinquent: Option<bool>,
        /// `none`, `exempt` or `reverse`.
        tax_exempt: Option<String>,
        /// Two-letter country of the address.
        country: Option<String>,
        /// The address as Stripe gives it.
        #[schema(value_type = Option<Object>)]
        address: Option<Value>,
        /// Payment method for invoices.
        default_payment_method_id: Option<String>,
        /// Payment source of the older kind.
        default_source_id: Option<String>,
        /// Prefix of the customer's invoice numbers.
        invoice_prefix: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Deleted at Stripe.
        deleted: bool,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
    }
}

mirror! {
    /// A tax id of a customer.
    CustomerTaxId in customer_tax_ids, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `txi_…`
        id: String,
        /// Customer it belongs to.
        customer_id: Option<String>,
        /// Kind, such as `eu_vat`.
        #[serde(rename = "type")]
        type_: Option<String>,
        value: Option<String>,
        /// Two-letter country.
        country: Option<String>,
        /// `pending`, `verified`, `unverified` or `unavailable`.
        verification_status: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Deleted at Stripe.
        deleted: bool,
    }
}

mirror! {
    /// A coupon applied to a customer, a subscription or an invoice.
    Discount in discounts, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `di_…`
        id: String,
        /// Customer it applies to.
        customer_id: Option<String>,
        /// Subscription it is limited to.
        subscription_id: Option<String>,
        /// Invoice it is limited to.
        invoice_id: Option<String>,
        coupon_id: Option<String>,
        /// Promotion code that brought the coupon.
        promotion_code_id: Option<String>,
        /// From when it counts.
        starts_at: Option<DateTime<Utc>>,
        /// Until when it counts.
        ends_at: Option<DateTime<Utc>>,
        deleted: bool,
    }
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CustomerFilter {
    /// Only with this e-mail address, as it is written at Stripe.
    pub email: Option<String>,
    /// Only those charged in this currency, three lower-case letters.
    pub currency: Option<String>,
    /// Only those whose latest charge or invoice failed (true) or did not (false).
    pub delinquent: Option<bool>,
    /// True: only what was deleted at Stripe. Otherwise only what was not.
    pub deleted: Option<bool>,
}

impl ListFilter for CustomerFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.email.as_deref(), "customers.email = {}");
        rows.when(self.currency.as_deref(), "customers.currency = {}");
        rows.when(self.delinquent, "customers.delinquent = {}");
        rows.when(Some(self.deleted.unwrap_or(false)), "customers.deleted = {}");
    }
}

/// A customer as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CustomerView {
    /// The row.
    #[serde(flatten)]
    pub row: Customer,
    /// Public id of the org that it is linked to; null while it is not.
    pub org: Option<String>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    Customer in customers, CustomerView by CustomerFilter,
        name "customer", objects "customer", belongs Belongs::By("id")
}

impl From<OwnedRow<Customer>> for CustomerView {
    fn from(found: OwnedRow<Customer>) -> Self {
        Self { row: found.row, org: found.org, raw: found.raw }
    }
}
