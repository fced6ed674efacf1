//! What is sold: products, prices, coupons, promotion codes and tax rates.

pub mod read;
pub mod sold;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;

use super::mirror::mirror;

mirror! {
    /// A product.
    Product in products, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `prod_…` or an id of the account's choice.
        id: String,
        /// Name shown to customers.
        name: Option<String>,
        /// Description shown to customers.
        description: Option<String>,
        /// Whether it can be bought.
        active: Option<bool>,
        /// What one unit is called.
        unit_label: Option<String>,
        /// Tax code.
        tax_code: Option<String>,
        /// Default price.
        default_price_id: Option<String>,
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
    /// A price of a product.
    Price in prices, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `price_…` or an older plan's id.
        id: String,
        /// Product it prices.
        product_id: Option<String>,
        /// Whether it can be bought.
        active: Option<bool>,
        /// `one_time` or `recurring`.
        #[serde(rename = "type")]
        type_: Option<String>,
        /// `per_unit` or `tiered`.
        billing_scheme: Option<String>,
        /// Currency, lower case.
        currency: Option<String>,
        /// Price of one in minor units, when it is whole.
        unit_amount: Option<i64>,
        /// Price of one in minor units, with up to 12 decimal places.
        #[schema(value_type = Option<String>)]
        unit_amount_decimal: Option<Decimal>,
        /// `day`, `week`, `month` or `year`.
        recurring_interval: Option<String>,
        /// How many intervals between two bills.
        recurring_interval_count: Option<i32>,
        /// `licensed` or `metered`.
        recurring_usage_type: Option<String>,
        /// `graduated` or `volume`.
        tiers_mode: Option<String>,
        /// `inclusive`, `exclusive` or `unspecified`.
        tax_behavior: Option<String>,
        /// Key of the account's choice.
        lookup_key: Option<String>,
        /// Name for the account's staff.
        nickname: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Deleted at Stripe.
        deleted: bool,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
        /// Of a metered price: Stripe's meter whose usage it charges.
        stripe_meter_id: Option<String>,
        /// Stripe divides the quantity by this and charges whole packages (`transform_quantity`).
        transform_divide_by: Option<i64>,
    }
}

mirror! {
    /// A coupon: a percentage or an amount off.
    Coupon in coupons, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// Id, often of the account's choice.
        id: String,
        /// Name shown to customers.
        name: Option<String>,
        /// Percentage off.
        #[schema(value_type = Option<String>)]
        percent_off: Option<Decimal>,
        /// Amount off, in minor units of `currency`.
        amount_off: Option<i64>,
        /// Currency of `amount_off`, lower case.
        currency: Option<String>,
        /// `once`, `repeating` or `forever`.
        duration: Option<String>,
        /// Months, for `repeating`.
        duration_in_months: Option<i32>,
        /// How often it may be used.
        max_redemptions: Option<i64>,
        /// How often it was used.
        times_redeemed: Option<i64>,
        /// Until when it may be used.
        redeem_by: Option<DateTime<Utc>>,
        /// Whether it can be used now.
        valid: Option<bool>,
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
    /// A code that customers type to get a coupon.
    PromotionCode in promotion_codes, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `promo_…`
        id: String,
        /// What the customer types.
        code: Option<String>,
        coupon_id: Option<String>,
        /// The only customer who may use it.
        customer_id: Option<String>,
        /// Whether it can be used.
        active: Option<bool>,
        /// How often it may be used.
        max_redemptions: Option<i64>,
        /// How often it was used.
        times_redeemed: Option<i64>,
        /// Until when it may be used.
        expires_at: Option<DateTime<Utc>>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
    }
}

mirror! {
    /// A tax rate.
    TaxRate in tax_rates, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `txr_…`
        id: String,
        /// Name shown to customers.
        display_name: Option<String>,
        /// Text for the account's staff.
        description: Option<String>,
        /// Percentage.
        #[schema(value_type = Option<String>)]
        percentage: Option<Decimal>,
        /// Whether amounts already contain the tax.
        inclusive: Option<bool>,
        /// Whether it can be used.
        active: Option<bool>,
        /// Two-letter country.
        country: Option<String>,
        state: Option<String>,
        /// Jurisdiction shown to customers.
        jurisdiction: Option<String>,
        /// `vat`, `sales_tax`, …
        tax_type: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
    }
}
