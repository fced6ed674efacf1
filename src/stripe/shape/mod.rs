//! Reads the snapshot of a Stripe object into rows, in both generations of Stripe's shapes: before the API
//! version `2025-03-31.basil` and since. The shape itself is looked at, never the version that an event
//! names.

pub(super) mod catalog;
pub(super) mod checkout;
pub(super) mod customers;
mod fields;
pub(super) mod invoices;
pub(super) mod links;
pub(super) mod payments;
pub(super) mod returns;
pub(super) mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::json::Json;
use super::{Realm, kinds};
use crate::billing::MirrorBatch;
use crate::billing::links::Link;
use crate::billing::payments::PaymentKey;
use crate::billing::subscription_periods::SeenPeriod;
pub(super) use fields::ObjectFields;

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
    (kinds::find(object.object).shape)(ObjectFields::new(object, snapshot), batch)?;
    batch.payment_keys.extend(payment_keys(object, snapshot));
    Ok(())
}

/// The payments that this object is a part of. The caller locks them before it writes a batch.
///
/// These are the keys of the snapshot given; [`MirrorBatch::stored_payment_keys`] gives those of the rows it
/// replaces.
pub fn payment_keys(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> BTreeSet<PaymentKey> {
    let ids = (kinds::find(object.object).payments)(ObjectFields::new(object, snapshot));
    let Realm { account, livemode } = object.realm;
    ids.into_iter().map(|id| PaymentKey { account: account.clone(), livemode: *livemode, id }).collect()
}

/// What a customer or a checkout session says of the customer's org.
pub fn link(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> Option<Link> {
    (kinds::find(object.object).link)(ObjectFields::new(object, snapshot))
}

/// Ids of the prices that a snapshot of a subscription shows; of any other object none.
pub fn subscribed_prices(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> Vec<String> {
    if object.object != "subscription" {
        return Vec::new();
    }
    subscriptions::price_ids(ObjectFields::new(object, snapshot))
}

/// The billing periods that a snapshot of a subscription shows, made by an event of `at`: one for each item;
/// of any other object none. A subscription that gave nothing yet, or is not paid for, has none.
pub fn billing_periods(object: &ObjectRef<'_>, snapshot: &Json<'_>, at: DateTime<Utc>) -> Vec<SeenPeriod> {
    if object.object != "subscription" {
        return Vec::new();
    }
    subscriptions::periods(ObjectFields::new(object, snapshot), at)
}
