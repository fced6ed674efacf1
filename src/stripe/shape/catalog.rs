//! Products, prices, coupons, promotion codes, tax rates.

use super::invoices::meter;
use super::{ObjectFields, ShapeError};
use crate::billing::catalog::{Coupon, Price, Product, PromotionCode, TaxRate};

pub(in crate::stripe) fn product(from: ObjectFields<'_>) -> Product {
    Product {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        name: from.text("name"),
        description: from.text("description"),
        active: from.flag("active"),
        unit_label: from.text("unit_label"),
        tax_code: from.id("tax_code"),
        default_price_id: from.id("default_price"),
        created: from.time("created"),
        deleted: from.object.deleted,
        metadata: from.metadata(),
    }
}

pub(in crate::stripe) fn price(from: ObjectFields<'_>) -> Result<Price, ShapeError> {
    let recurring = from.at("recurring");
    Ok(Price {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        product_id: from.id("product"),
        active: from.flag("active"),
        type_: from.text("type"),
        billing_scheme: from.text("billing_scheme"),
        currency: from.text("currency"),
        unit_amount: from.money("unit_amount")?,
        unit_amount_decimal: from.money_decimal("unit_amount_decimal")?,
        recurring_interval: recurring.text("interval"),
        recurring_interval_count: recurring.small("interval_count"),
        recurring_usage_type: recurring.text("usage_type"),
        tiers_mode: from.text("tiers_mode"),
        tax_behavior: from.text("tax_behavior"),
        lookup_key: from.text("lookup_key"),
        nickname: from.text("nickname"),
        created: from.time("created"),
        deleted: from.object.deleted,
        metadata: from.metadata(),
        stripe_meter_id: meter(from),
        transform_divide_by: from.at("transform_quantity").integer("divide_by"),
    })
}

pub(in crate::stripe) fn coupon(from: ObjectFields<'_>) -> Result<Coupon, ShapeError> {
    Ok(Coupon {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        name: from.text("name"),
        percent_off: from.percent("percent_off")?,
        amount_off: from.money("amount_off")?,
        currency: from.text("currency"),
        duration: from.text("duration"),
        duration_in_months: from.small("duration_in_months"),
        max_redemptions: from.integer("max_redemptions"),
        times_redeemed: from.integer("times_redeemed"),
        redeem_by: from.time("redeem_by"),
        valid: from.flag("valid"),
        created: from.time("created"),
        deleted: from.object.deleted,
        metadata: from.metadata(),
    })
}

pub(in crate::stripe) fn promotion_code(from: ObjectFields<'_>) -> PromotionCode {
    PromotionCode {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        code: from.text("code"),
        // Since 2025-09-30 the coupon is in `promotion`.
        coupon_id: from.id("coupon").or_else(|| from.at("promotion").id("coupon")),
        customer_id: from.id("customer"),
        active: from.flag("active"),
        max_redemptions: from.integer("max_redemptions"),
        times_redeemed: from.integer("times_redeemed"),
        expires_at: from.time("expires_at"),
        created: from.time("created"),
        metadata: from.metadata(),
    }
}

pub(in crate::stripe) fn tax_rate(from: ObjectFields<'_>) -> Result<TaxRate, ShapeError> {
    Ok(TaxRate {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        display_name: from.text("display_name"),
        description: from.text("description"),
        percentage: from.percent("percentage")?,
        inclusive: from.flag("inclusive"),
        active: from.flag("active"),
        country: from.text("country"),
        state: from.text("state"),
        jurisdiction: from.text("jurisdiction"),
        tax_type: from.text("tax_type"),
        created: from.time("created"),
        metadata: from.metadata(),
    })
}
