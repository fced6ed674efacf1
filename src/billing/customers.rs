//! Customers, their tax ids and their discounts.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::mirror::mirror;

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
        type_: Option<String>,
        /// The number itself.
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
        /// Coupon applied.
        coupon_id: Option<String>,
        /// Promotion code that brought the coupon.
        promotion_code_id: Option<String>,
        /// From when it counts.
        starts_at: Option<DateTime<Utc>>,
        /// Until when it counts.
        ends_at: Option<DateTime<Utc>>,
        /// Removed at Stripe.
        deleted: bool,
    }
}
