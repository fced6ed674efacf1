//! Subscriptions and their items.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;

use super::mirror::{self, mirror};

mirror! {
    /// A Stripe subscription.
    Subscription in subscriptions, key (account, livemode, id) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `sub_…`
        id: String,
        /// Who subscribed.
        customer_id: Option<String>,
        /// `active`, `past_due`, `canceled`, … as Stripe says it.
        status: Option<String>,
        /// Currency, lower case; of the first item where the subscription names none.
        currency: Option<String>,
        /// `charge_automatically` or `send_invoice`.
        collection_method: Option<String>,
        /// Start of the current period; the earliest of the items in newer shapes.
        current_period_start: Option<DateTime<Utc>>,
        /// End of the current period; the latest of the items in newer shapes.
        current_period_end: Option<DateTime<Utc>>,
        /// When it will be canceled.
        cancel_at: Option<DateTime<Utc>>,
        /// Whether it ends with the current period.
        cancel_at_period_end: Option<bool>,
        /// When the cancellation was asked for.
        canceled_at: Option<DateTime<Utc>>,
        /// When it ended.
        ended_at: Option<DateTime<Utc>>,
        /// Start of the trial.
        trial_start: Option<DateTime<Utc>>,
        /// End of the trial.
        trial_end: Option<DateTime<Utc>>,
        /// When it started, which may lie before `created`.
        start_date: Option<DateTime<Utc>>,
        /// Reference point of its billing cycles.
        billing_cycle_anchor: Option<DateTime<Utc>>,
        /// Latest invoice.
        latest_invoice_id: Option<String>,
        /// Schedule that drives it.
        schedule_id: Option<String>,
        /// Payment method for its invoices.
        default_payment_method_id: Option<String>,
        /// What happens to invoices while collection is paused (`void`, …); empty when it is not paused.
        pause_collection: Option<String>,
        /// When a pause ends.
        pause_resumes_at: Option<DateTime<Utc>>,
        /// Description shown to the customer.
        description: Option<String>,
        /// False when the snapshot held only some of the items.
        items_complete: bool,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        metadata: Value,
    }
}

mirror! {
    /// What a subscription consists of: one price in a quantity.
    SubscriptionItem in subscription_items, key (account, livemode, subscription_id, item_number) {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// Subscription it belongs to.
        subscription_id: String,
        /// Place in the subscription's list, from 0.
        item_number: i32,
        /// `si_…`; absent for a subscription that names a plan and has no list of items.
        id: Option<String>,
        /// Price, or plan in older shapes.
        price_id: Option<String>,
        /// Product of the price.
        product_id: Option<String>,
        /// How many; absent for metered prices.
        quantity: Option<i64>,
        /// Start of the item's period, in newer shapes.
        current_period_start: Option<DateTime<Utc>>,
        /// End of the item's period, in newer shapes.
        current_period_end: Option<DateTime<Utc>>,
        /// When it was added.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        metadata: Value,
    }
}

/// A subscription and all items of its snapshot, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionWithItems {
    /// The subscription.
    pub subscription: Subscription,
    /// Its items; they replace those stored.
    pub items: Vec<SubscriptionItem>,
}

/// Stores subscriptions and replaces their items.
pub(super) fn write(conn: &mut PgConnection, rows: &[&SubscriptionWithItems]) -> QueryResult<()> {
    mirror::upsert(conn, rows.iter().map(|row| &row.subscription))?;
    let parents: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                &*row.subscription.account,
                row.subscription.livemode,
                &*row.subscription.id,
                row.items.len() as i32,
            )
        })
        .collect();
    mirror::trim::<SubscriptionItem>(conn, &parents)?;
    mirror::upsert(conn, rows.iter().flat_map(|row| &row.items))
}
