//! The billing periods of subscriptions that Stripe's events show. Owns `subscription_periods`.
//!
//! A row depends only on the set of events that show the period, not on their order. A later change of the
//! subscription deletes no period, because usage of that period may still arrive.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};

use super::directory::{self, Change};
use crate::db::prepared::{Prepared, statement};
use crate::realm::Realm;

/// A Stripe event shows an item of a subscription with this period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPeriod {
    pub realm: Realm,
    pub subscription_id: String,
    /// The item's price; empty if the item names none.
    pub price_id: String,
    /// Start of the period.
    pub start: DateTime<Utc>,
    pub details: PeriodDetails,
    /// When Stripe created the event.
    pub at: DateTime<Utc>,
}

/// What an event says of a period, apart from its start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeriodDetails {
    pub end: DateTime<Utc>,
    /// Place of the item in the subscription's list, from 0.
    pub item_number: i32,
    /// Product of the price.
    pub product_id: Option<String>,
}

statement!(Seen -> (Text, Bool, Text):
    "INSERT INTO subscription_periods AS p (account, livemode, subscription_id, price_id, period_start,
         period_end, item_number, product_id, first_seen, last_seen)
     SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (account, livemode, subscription_id, price_id, period_start) DO UPDATE SET
         (period_end, item_number, product_id) = (
             SELECT n.e, n.i, n.p
             FROM (VALUES
                 (p.last_seen, p.period_end, p.item_number, p.product_id),
                 (excluded.last_seen, excluded.period_end, excluded.item_number, excluded.product_id))
                 AS n (t, e, i, p)
             ORDER BY n.t DESC, n.e DESC, n.i DESC, coalesce(n.p, '') DESC
             LIMIT 1),
         first_seen = least(p.first_seen, excluded.first_seen),
         last_seen = greatest(p.last_seen, excluded.last_seen)
     WHERE excluded.first_seen < p.first_seen
         OR (excluded.last_seen, excluded.period_end, excluded.item_number, coalesce(excluded.product_id, ''))
             > (p.last_seen, p.period_end, p.item_number, coalesce(p.product_id, ''))
     RETURNING account, livemode, subscription_id");

/// The events of one period: the time of the earliest; the time of the latest, and what it says.
struct PeriodEvents<'a> {
    first: DateTime<Utc>,
    last: (DateTime<Utc>, &'a PeriodDetails),
}

/// Writes the periods that events show. If two events of one second differ, the one with the later end
/// counts. The caller has locked the subscriptions.
pub fn write(conn: &mut PgConnection, seen: &[SeenPeriod]) -> QueryResult<()> {
    let mut shown: BTreeMap<(&Realm, &str, &str, DateTime<Utc>), PeriodEvents<'_>> = BTreeMap::new();
    for one in seen {
        let key = (&one.realm, one.subscription_id.as_str(), one.price_id.as_str(), one.start);
        let last = (one.at, &one.details);
        let shown = shown.entry(key).or_insert(PeriodEvents { first: one.at, last });
        shown.first = shown.first.min(one.at);
        shown.last = shown.last.max(last);
    }
    if shown.is_empty() {
        return Ok(());
    }
    let (keys, values) = (shown.keys(), shown.values());
    let changed: Vec<(String, bool, String)> = Prepared::<Seen>::new()
        .bind::<Text, _>(keys.clone().map(|key| key.0.account.as_str()).collect::<Vec<_>>())
        .bind::<Bool, _>(keys.clone().map(|key| key.0.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| key.1).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| key.2).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(keys.map(|key| key.3).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(values.clone().map(|shown| shown.last.1.end).collect::<Vec<_>>())
        .bind::<Integer, _>(values.clone().map(|shown| shown.last.1.item_number).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(
            values.clone().map(|shown| shown.last.1.product_id.as_deref()).collect::<Vec<_>>(),
        )
        .bind::<Timestamptz, _>(values.clone().map(|shown| shown.first).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(values.map(|shown| shown.last.0).collect::<Vec<_>>())
        .load(conn)?;
    directory::changed(
        conn,
        changed.into_iter().map(|(account, livemode, id)| Change::Subscription(account, livemode, id)),
    )
}
