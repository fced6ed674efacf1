//! Reads the snapshot of a Stripe object into rows, in both generations of Stripe's shapes: before the API
//! version `2025-03-31.basil` and since. The shape itself is looked at, never the version that an event
//! names.

mod catalog;
mod checkout;
mod customers;
mod fields;
mod invoices;
mod links;
mod payments;
mod returns;
mod subscriptions;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};

use super::Realm;
use super::json::Json;
use crate::billing::MirrorBatch;
use crate::billing::links::Link;
use crate::billing::payments::PaymentKey;
use crate::billing::subscription_periods::SeenPeriod;
use fields::ObjectFields;

/// Which object a snapshot shows.
#[derive(Clone, Copy, Debug)]
pub struct ObjectRef<'a> {
    /// Account and mode it lives in.
    pub realm: &'a Realm,
    /// Its kind, as its field `object` says: `invoice`, `checkout.session`, …
    pub object: &'a str,
    pub id: &'a str,
    /// The snapshot comes from the event of its deletion.
    pub deleted: bool,
}

/// A snapshot holds an amount that cannot be read. Nothing of the object is stored then: a guess would be
/// worse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{object} {id}: the field `{field}` must be {expected} but is {found}; fetch the object from Stripe again"
)]
pub struct ShapeError {
    /// Kind of the object.
    pub object: String,
    pub id: String,
    /// The field, with the list or object that it lies in.
    pub field: String,
    /// What could have been read.
    pub expected: &'static str,
    /// What was found, shortened.
    pub found: String,
}

/// Reads a snapshot and adds its rows, and the payments it takes part in, to the batch. Kinds that have no
/// mirror add nothing.
///
/// # Errors
/// An amount that is not a whole number within 64 bits; the batch is left as it was.
pub fn read(object: &ObjectRef<'_>, snapshot: &Json<'_>, batch: &mut MirrorBatch) -> Result<(), ShapeError> {
    let from = ObjectFields::of(object, snapshot);
    match object.object {
        "customer" => batch.customers.push(customers::customer(from)?),
        "tax_id" => batch.customer_tax_ids.push(customers::tax_id(from)),
        "discount" => batch.discounts.push(customers::discount(from)),
        "subscription" => batch.subscriptions.push(subscriptions::subscription(from)),
        "invoice" => batch.invoices.push(invoices::invoice(from)?),
        "payment_intent" => batch.payment_intents.push(payments::payment_intent(from)?),
        "charge" => {
            let charge = payments::charge(from)?;
            batch.refunds.extend(returns::embedded_refunds(from, &charge)?);
            batch.charges.push(charge);
        }
        "invoice_payment" => batch.invoice_payments.push(payments::invoice_payment(from)?),
        "refund" => batch.refunds.push(returns::refund(from)?),
        "dispute" => batch.disputes.push(returns::dispute(from)?),
        "credit_note" => batch.credit_notes.push(returns::credit_note(from)?),
        "checkout.session" => batch.checkout_sessions.push(checkout::session(from)?),
        "product" => batch.products.push(catalog::product(from)),
        "price" => batch.prices.push(catalog::price(from)?),
        "coupon" => batch.coupons.push(catalog::coupon(from)?),
        "promotion_code" => batch.promotion_codes.push(catalog::promotion_code(from)),
        "tax_rate" => batch.tax_rates.push(catalog::tax_rate(from)?),
        _ => {}
    }
    batch.payment_keys.extend(payment_keys(object, snapshot));
    Ok(())
}

/// Keys of the payments that this object takes part in. The caller locks them before it writes a batch.
///
/// These are the keys of the snapshot given; [`MirrorBatch::stored_payment_keys`] gives those of the rows it
/// replaces.
pub fn payment_keys(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> Vec<PaymentKey> {
    payments::keys(ObjectFields::of(object, snapshot))
}

/// What a customer or a checkout session says of the customer's org.
pub fn link(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> Option<Link> {
    links::link(ObjectFields::of(object, snapshot))
}

/// Ids of the prices that a snapshot of a subscription shows; of any other object none.
pub fn subscribed_prices(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> Vec<String> {
    if object.object != "subscription" {
        return Vec::new();
    }
    subscriptions::price_ids(ObjectFields::of(object, snapshot))
}

/// The billing periods that a snapshot of a subscription shows, made by an event of `at`: one for each item;
/// of any other object none. A subscription that gave nothing yet, or is not paid for, has none.
pub fn billing_periods(object: &ObjectRef<'_>, snapshot: &Json<'_>, at: DateTime<Utc>) -> Vec<SeenPeriod> {
    if object.object != "subscription" {
        return Vec::new();
    }
    subscriptions::periods(ObjectFields::of(object, snapshot), at)
}
