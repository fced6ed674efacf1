//! Subscriptions and their items.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::directory::{self, Change};
use super::mirror::{self, Mirror, mirror};
use super::plans;
use super::read::{self, Belongs, ListFilter, OwnedRow, Where, resource};
use super::{MirrorBatch, MirrorRows};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::Realm;

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
        /// Start of the current period; in newer shapes that of the item whose period ends first.
        current_period_start: Option<DateTime<Utc>>,
        /// End of the current period; in newer shapes that of the item whose period ends first.
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
        #[schema(value_type = Object)]
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
        #[schema(value_type = Object)]
        metadata: Value,
        /// `licensed` or `metered`, as its price says.
        usage_type: Option<String>,
        /// Of a metered price: Stripe's meter whose usage it charges.
        stripe_meter_id: Option<String>,
    }
}

impl Subscription {
    /// The change to announce when this row is written.
    pub(super) fn change(&self) -> Change {
        Change::Subscription(self.account.clone(), self.livemode, self.id.clone())
    }
}

/// A subscription and all items of its snapshot, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionWithItems {
    pub subscription: Subscription,
    /// Its items; they replace those stored.
    pub items: Vec<SubscriptionItem>,
}

/// A Stripe event or a fetch shows a subscription with this price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPrice {
    pub realm: Realm,
    pub subscription_id: String,
    pub price_id: String,
    /// When the event was made. Of a fetch: when the item was added.
    pub at: DateTime<Utc>,
    /// A fetch shows it. Since when the subscription has had the price is then an estimate, and an event that
    /// shows it counts before.
    pub estimated: bool,
}

type PriceKey = (Text, Bool, Text, Text);
statement!(Seen -> PriceKey:
    "INSERT INTO subscription_prices AS p (account, livemode, subscription_id, price_id, since, estimated)
     SELECT a, l, s, i, t, e FROM unnest(?, ?, ?, ?, ?, ?) AS n (a, l, s, i, t, e)
     ON CONFLICT (account, livemode, subscription_id, price_id)
     DO UPDATE SET since = excluded.since, estimated = excluded.estimated
     WHERE (excluded.estimated, excluded.since) < (p.estimated, p.since)
     RETURNING account, livemode, subscription_id, price_id");

/// Writes since when subscriptions have had their prices: the time of the earliest event that shows the
/// price, or the earliest estimate where no event does. So the order of events does not matter. The caller
/// has locked the subscriptions.
pub fn write_prices(conn: &mut PgConnection, seen: &[SeenPrice]) -> QueryResult<()> {
    let mut earliest: BTreeMap<(&Realm, &str, &str), (bool, DateTime<Utc>)> = BTreeMap::new();
    for price in seen {
        let key = (&price.realm, price.subscription_id.as_str(), price.price_id.as_str());
        let shown = (price.estimated, price.at);
        let since = earliest.entry(key).or_insert(shown);
        *since = shown.min(*since);
    }
    if earliest.is_empty() {
        return Ok(());
    }
    let keys = earliest.keys();
    let changed: Vec<(String, bool, String, String)> = Prepared::<Seen>::new()
        .bind::<Text, _>(keys.clone().map(|(realm, _, _)| realm.account.as_str()).collect::<Vec<_>>())
        .bind::<Bool, _>(keys.clone().map(|(realm, _, _)| realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|(_, id, _)| *id).collect::<Vec<_>>())
        .bind::<Text, _>(keys.map(|(_, _, price)| *price).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(earliest.values().map(|(_, since)| *since).collect::<Vec<_>>())
        .bind::<Bool, _>(earliest.values().map(|(estimated, _)| *estimated).collect::<Vec<_>>())
        .load(conn)?;
    // With another time the subscription may have bought another version of the plan.
    directory::changed(
        conn,
        changed.into_iter().map(|(account, livemode, id, _)| Change::Subscription(account, livemode, id)),
    )
}

impl MirrorRows for SubscriptionWithItems {
    const TABLES: &'static [&'static str] = &[Subscription::TABLE, SubscriptionItem::TABLE];

    fn write(conn: &mut PgConnection, rows: &[Self], _: &MirrorBatch, replaces: bool) -> QueryResult<()> {
        mirror::upsert_with(conn, rows.iter().map(|row| (&row.subscription, &*row.items)), replaces)
    }
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SubscriptionFilter {
    /// Only with this status: `incomplete`, `incomplete_expired`, `trialing`, `active`, `past_due`,
    /// `canceled`, `unpaid` or `paused`.
    pub status: Option<String>,
    /// Only of this customer (`cus_…`).
    pub customer: Option<String>,
    /// Only those with an item of this price (`price_…`).
    pub price: Option<String>,
    /// Only those with an item whose price buys this plan.
    pub plan: Option<String>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
}

/// SQL: some item has one of these prices, or is of one of these products.
const BUYS: &str = "EXISTS (SELECT FROM subscription_items i
    WHERE i.account = subscriptions.account
        AND i.livemode = subscriptions.livemode
        AND i.subscription_id = subscriptions.id
        AND (i.price_id = ANY ({}) OR i.product_id = ANY ({})))";
/// SQL: some item has one of these prices.
const HAS_PRICE: &str = "EXISTS (SELECT FROM subscription_items i
    WHERE i.account = subscriptions.account
        AND i.livemode = subscriptions.livemode
        AND i.subscription_id = subscriptions.id
        AND i.price_id = ANY ({}))";

impl ListFilter for SubscriptionFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.status.as_deref(), "subscriptions.status = {}");
        rows.when(self.currency.as_deref(), "subscriptions.currency = {}");
        rows.when(self.price.as_ref().map(|price| vec![price.clone()]), HAS_PRICE);
    }

    /// Sends the prices and products that buy the plan as values: then PostgreSQL knows how many items have
    /// them.
    fn narrow_by_lookup(&self, conn: &mut PgConnection, rows: &mut Where) -> Result<(), Error> {
        if let Some(plan) = &self.plan {
            let (prices, products) = plans::bought_by(conn, plan)?;
            rows.sql(" AND ").with(BUYS, [prices.into(), products.into()]);
        }
        Ok(())
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }
}

/// A subscription as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SubscriptionView {
    /// The row.
    #[serde(flatten)]
    pub row: Subscription,
    /// Public id of the org that its customer is linked to; null while it is not.
    pub org: Option<String>,
    /// What it consists of.
    pub items: Vec<SubscriptionItem>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    Subscription in subscriptions, SubscriptionView by SubscriptionFilter,
        name "subscription", objects "subscription", belongs Belongs::By("customer_id"), views views
}

fn views(
    conn: &mut PgConnection,
    found: Vec<OwnedRow<Subscription>>,
    _: bool,
) -> Result<Vec<SubscriptionView>, Error> {
    let items = read::children::<Subscription, SubscriptionItem>(conn, &found)?;
    let view = |(found, items): (OwnedRow<Subscription>, _)| SubscriptionView {
        row: found.row,
        org: found.org,
        items,
        raw: found.raw,
    };
    Ok(found.into_iter().zip(items).map(view).collect())
}
