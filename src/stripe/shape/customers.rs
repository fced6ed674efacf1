//! Customers, tax ids, discounts.

use super::{ObjectFields, ShapeError};
use crate::billing::customers::{Customer, CustomerTaxId, Discount};

pub(in crate::stripe) fn customer(from: ObjectFields<'_>) -> Result<Customer, ShapeError> {
    // `balance` was called `account_balance` before 2019-10-17.
    let balance = if from.has("balance") { "balance" } else { "account_balance" };
    Ok(Customer {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        name: from.text("name"),
        email: from.text("email"),
        description: from.text("description"),
        phone: from.text("phone"),
        currency: from.text("currency"),
        balance: from.money(balance)?,
        delinquent: from.flag("delinquent"),
        tax_exempt: from.text("tax_exempt"),
        country: from.at("address").text("country"),
        address: from.json("address"),
        default_payment_method_id: from.at("invoice_settings").id("default_payment_method"),
        default_source_id: from.id("default_source"),
        invoice_prefix: from.text("invoice_prefix"),
        created: from.time("created"),
        deleted: from.object.deleted,
        metadata: from.metadata(),
    })
}

pub(in crate::stripe) fn tax_id(from: ObjectFields<'_>) -> CustomerTaxId {
    CustomerTaxId {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        customer_id: from.id("customer").or_else(|| from.at("owner").id("customer")),
        type_: from.text("type"),
        value: from.text("value"),
        country: from.text("country"),
        verification_status: from.at("verification").text("status"),
        created: from.time("created"),
        deleted: from.object.deleted,
    }
}

pub(in crate::stripe) fn discount(from: ObjectFields<'_>) -> Discount {
    Discount {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        customer_id: from.id("customer"),
        subscription_id: from.id("subscription"),
        invoice_id: from.id("invoice"),
        // Since 2025-09-30 the coupon is in `source`.
        coupon_id: from.id("coupon").or_else(|| from.at("source").id("coupon")),
        promotion_code_id: from.id("promotion_code"),
        starts_at: from.time("start"),
        ends_at: from.time("end"),
        deleted: from.object.deleted,
    }
}
