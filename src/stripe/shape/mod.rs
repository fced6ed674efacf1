//! Reads the snapshot of a Stripe object into rows. It knows both generations of Stripe's shapes: before the
//! API version `2025-03-31.basil`, and since. It looks at the fields themselves, never at the version that an
//! event names.

pub(super) mod catalog;
pub(super) mod checkout;
pub(super) mod customers;
mod fields;
pub(super) mod invoices;
pub(super) mod links;
pub(super) mod payments;
pub(super) mod returns;
pub(super) mod subscriptions;
mod taxes;
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

/// The object that a snapshot shows.
#[derive(Clone, Copy, Debug)]
pub struct ObjectRef<'a> {
    pub realm: &'a Realm,
    /// Its kind, as in its field `object`: `invoice`, `checkout.session`, …
    pub object: &'a str,
    pub id: &'a str,
    /// The snapshot comes from the event of its deletion.
    pub deleted: bool,
    /// Further entries of its lists, by the name of the list, which Stripe gave separately.
    pub more: Option<&'a Json<'a>>,
}

/// A snapshot has an amount that cannot be read. Then nothing of the object is stored, because a guess would
/// be worse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{object} {id}: the field `{field}` must be {expected} but is {found}; fetch the object from Stripe again"
)]
pub struct ShapeError {
    /// Kind of the object.
    pub object: String,
    pub id: String,
    /// The field, with the list or object that contains it.
    pub field: String,
    /// What the field must be.
    pub expected: &'static str,
    /// What the field is, shortened.
    pub found: String,
}

/// Reads a snapshot and adds its rows, and the keys of its payments, to the batch. A kind without a mirror
/// adds nothing.
///
/// # Errors
/// When an amount is not a number of the expected form; then the batch is unchanged.
pub fn read(object: &ObjectRef<'_>, snapshot: &Json<'_>, batch: &mut MirrorBatch) -> Result<(), ShapeError> {
    (kinds::find(object.object).shape)(ObjectFields::new(object, snapshot), batch)?;
    batch.payment_keys.extend(payment_keys(object, snapshot));
    Ok(())
}

/// The payments that this object belongs to, as its snapshot says. [`MirrorBatch::stored_payment_keys`] gives
/// those of the rows that it replaces. The caller locks both before it writes a batch.
pub fn payment_keys(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> BTreeSet<PaymentKey> {
    let ids = (kinds::find(object.object).payments)(ObjectFields::new(object, snapshot));
    let Realm { account, livemode } = object.realm;
    ids.into_iter().map(|id| PaymentKey { account: account.clone(), livemode: *livemode, id }).collect()
}

/// The org of a customer, as the customer or a checkout session names it.
pub fn link(object: &ObjectRef<'_>, snapshot: &Json<'_>) -> Option<Link> {
    (kinds::find(object.object).link)(ObjectFields::new(object, snapshot))
}

/// The prices that a snapshot of a subscription shows, each with the time when its item was added; none for
/// any other object.
pub fn subscribed_prices(
    object: &ObjectRef<'_>,
    snapshot: &Json<'_>,
) -> Vec<(String, Option<DateTime<Utc>>)> {
    if object.object != "subscription" {
        return Vec::new();
    }
    subscriptions::prices(ObjectFields::new(object, snapshot))
}

/// The billing periods that a snapshot of a subscription shows, one for each item; none for any other object.
/// `at`: when the event was made, or the object read, if it was `fetched`. A subscription that is incomplete,
/// unpaid or paused has no period.
pub fn billing_periods(
    object: &ObjectRef<'_>,
    snapshot: &Json<'_>,
    at: DateTime<Utc>,
    fetched: bool,
) -> Vec<SeenPeriod> {
    if object.object != "subscription" {
        return Vec::new();
    }
    subscriptions::periods(ObjectFields::new(object, snapshot), at, fetched)
}
