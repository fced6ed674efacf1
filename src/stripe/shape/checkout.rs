//! Checkout sessions and their line items.

use super::{ObjectFields, ShapeError};
use crate::billing::checkout_sessions::{CheckoutLineItem, CheckoutSession, SessionWithItems};

pub(in crate::stripe) fn session(from: ObjectFields<'_>) -> Result<SessionWithItems, ShapeError> {
    let totals = from.at("total_details");
    let given = from.at("customer_details");
    let items = (0..)
        .zip(from.list("line_items"))
        .map(|(number, entry)| line_item(entry, number))
        .collect::<Result<_, _>>()?;
    let session = CheckoutSession {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        mode: from.text("mode"),
        status: from.text("status"),
        payment_status: from.text("payment_status"),
        customer_id: from.id("customer"),
        customer_email: given.text("email").or_else(|| from.text("customer_email")),
        client_reference_id: from.text("client_reference_id"),
        payment_intent_id: from.id("payment_intent"),
        subscription_id: from.id("subscription"),
        invoice_id: from.id("invoice"),
        payment_link_id: from.id("payment_link"),
        amount_subtotal: from.money("amount_subtotal")?,
        amount_discount: totals.money("amount_discount")?,
        amount_tax: totals.money("amount_tax")?,
        amount_total: from.money("amount_total")?,
        currency: from.text("currency"),
        expires_at: from.time("expires_at"),
        created: from.time("created"),
        metadata: from.metadata(),
        line_items_complete: from.list_complete("line_items"),
    };
    Ok(SessionWithItems { session, items })
}

fn line_item(from: ObjectFields<'_>, line_number: i32) -> Result<CheckoutLineItem, ShapeError> {
    Ok(CheckoutLineItem {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        session_id: from.object.id.to_owned(),
        line_number,
        id: from.own_id(),
        price_id: from.id("price"),
        product_id: from.at("price").id("product"),
        quantity: from.integer("quantity"),
        amount_subtotal: from.money("amount_subtotal")?,
        amount_discount: from.money("amount_discount")?,
        amount_tax: from.money("amount_tax")?,
        amount_total: from.money("amount_total")?,
        currency: from.text("currency"),
        description: from.text("description"),
    })
}
