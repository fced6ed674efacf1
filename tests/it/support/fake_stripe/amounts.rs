//! What the lines of an invoice come to.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::{Value, json};

/// The line of an item. `_usage` tells that it is for usage, and does not get out.
pub fn line(subscription: &Value, item: &Value, quantity: Decimal, is_usage: bool) -> Value {
    let price = &item["price"];
    let details = json!({ "subscription": subscription["id"], "subscription_item": item["id"],
        "invoice_item": null, "proration": false, "proration_details": null });
    json!({ "_usage": is_usage, "amount": amount(price, quantity), "currency": price["currency"],
        "description": price["nickname"], "quantity": quantity_json(quantity),
        "period": { "start": item["current_period_start"], "end": item["current_period_end"] },
        "pricing": { "type": "price_details", "unit_amount_decimal": price["unit_amount_decimal"],
            "price_details": { "price": price["id"], "product": price["product"] } },
        "parent": { "type": "subscription_item_details", "invoice_item_details": null,
            "subscription_item_details": details } })
}

/// A quantity as an invoice shows it: whole units.
pub fn quantity_json(quantity: Decimal) -> Value {
    json!(quantity.trunc().to_i64())
}

/// The packages that a usage fills, of a price that charges by the package.
pub fn packages(price: &Value, usage: Decimal) -> Decimal {
    let Some(size) = price["transform_quantity"]["divide_by"].as_i64() else { return usage };
    let filled = usage / Decimal::from(size);
    if price["transform_quantity"]["round"] == "up" { filled.ceil() } else { filled.floor() }
}

/// What a quantity costs, in minor units, rounded half up: with one price, or with tiers.
pub fn amount(price: &Value, quantity: Decimal) -> i64 {
    let decimal = |value: &Value| -> Decimal {
        value
            .as_str()
            .and_then(|text| text.parse().ok())
            .or(value.as_i64().map(Decimal::from))
            .unwrap_or_default()
    };
    let unit = |part: &Value| {
        let exact = &part["unit_amount_decimal"];
        decimal(if exact.is_null() { &part["unit_amount"] } else { exact })
    };
    let Some(tiers) = price["tiers"].as_array() else {
        let sum = unit(price) * quantity;
        return rounded(sum);
    };
    let mut sum = Decimal::ZERO;
    let mut from = Decimal::ZERO;
    for tier in tiers {
        let to = if tier["up_to"].is_null() || tier["up_to"] == "inf" {
            Decimal::MAX
        } else {
            decimal(&tier["up_to"])
        };
        let inside = quantity.min(to) - from;
        if inside > Decimal::ZERO {
            let part = if price["tiers_mode"] == "volume" { quantity } else { inside };
            let cost = unit(tier) * part + decimal(&tier["flat_amount"]);
            sum = if price["tiers_mode"] == "volume" { cost } else { sum + cost };
        }
        from = to;
    }
    rounded(sum)
}

fn rounded(sum: Decimal) -> i64 {
    let strategy = rust_decimal::RoundingStrategy::MidpointAwayFromZero;
    sum.round_dp_with_strategy(0, strategy).to_i64().unwrap_or_default()
}
