//! The billing periods of subscriptions that Stripe's events and our fetches show. Owns
//! `subscription_periods`.
//!
//! A row depends only on the set of events and fetches that show the period, not on their order. Events tell
//! when the period was first and last seen. A fetch tells only how it is: a period that no event shows counts
//! as seen at its start. A later change of the
//! subscription deletes no period, because usage of that period may still arrive.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};

use super::directory::{self, Change};
use crate::db::prepared::{Prepared, statement};
use crate::realm::Realm;

/// A Stripe event or a fetch shows an item of a subscription with this period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPeriod {
    pub realm: Realm,
    pub subscription_id: String,
    /// The item's price; empty if the item names none.
    pub price_id: String,
    /// Start of the period.
    pub start: DateTime<Utc>,
    pub details: PeriodDetails,
    /// When Stripe created the event, or when the object was read.
    pub at: DateTime<Utc>,
    /// The daemon read it.
    pub fetched: bool,
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
         period_end, item_number, product_id, first_seen, last_seen, estimated, shown_at)
     SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (account, livemode, subscription_id, price_id, period_start) DO UPDATE SET
         (period_end, item_number, product_id) = (
             SELECT n.e, n.i, n.p
             FROM (VALUES
                 (p.shown_at, p.period_end, p.item_number, p.product_id),
                 (excluded.shown_at, excluded.period_end, excluded.item_number, excluded.product_id))
                 AS n (t, e, i, p)
             ORDER BY n.t DESC, n.e DESC, n.i DESC, coalesce(n.p, '') DESC
             LIMIT 1),
         (first_seen, last_seen) = (
             SELECT min(n.f), max(n.l)
             FROM (VALUES
                 (p.estimated, p.first_seen, p.last_seen),
                 (excluded.estimated, excluded.first_seen, excluded.last_seen)) AS n (e, f, l)
             WHERE n.e = (p.estimated AND excluded.estimated)),
         estimated = p.estimated AND excluded.estimated,
         shown_at = greatest(p.shown_at, excluded.shown_at)
     WHERE p.estimated AND NOT excluded.estimated
         OR p.estimated = excluded.estimated
             AND (excluded.first_seen < p.first_seen OR excluded.last_seen > p.last_seen)
         OR (excluded.shown_at, excluded.period_end, excluded.item_number, coalesce(excluded.product_id, ''))
             > (p.shown_at, p.period_end, p.item_number, coalesce(p.product_id, ''))
     RETURNING account, livemode, subscription_id");

/// What shows one period.
struct Shown<'a> {
    /// The times of the earliest and of the latest event; `None` if only fetches show it.
    events: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The time of the latest event or fetch, and what it says.
    last: (DateTime<Utc>, &'a PeriodDetails),
}

/// Writes the periods that events and fetches show. If two events of one second differ, the one with the
/// later end counts. The caller has locked the subscriptions.
pub fn write(conn: &mut PgConnection, seen: &[SeenPeriod]) -> QueryResult<()> {
    let mut shown: BTreeMap<(&Realm, &str, &str, DateTime<Utc>), Shown<'_>> = BTreeMap::new();
    for one in seen {
        let key = (&one.realm, one.subscription_id.as_str(), one.price_id.as_str(), one.start);
        let last = (one.at, &one.details);
        let shown = shown.entry(key).or_insert(Shown { events: None, last });
        shown.last = shown.last.max(last);
        if !one.fetched {
            let (first, last) = shown.events.unwrap_or((one.at, one.at));
            shown.events = Some((first.min(one.at), last.max(one.at)));
        }
    }
    if shown.is_empty() {
        return Ok(());
    }
    let (keys, values) = (shown.keys(), shown.values());
    let times = shown.iter().map(|((.., start), shown)| shown.events.unwrap_or((*start, *start)));
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
        .bind::<Timestamptz, _>(times.clone().map(|(first, _)| first).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(times.map(|(_, last)| last).collect::<Vec<_>>())
        .bind::<Bool, _>(values.clone().map(|shown| shown.events.is_none()).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(values.map(|shown| shown.last.0).collect::<Vec<_>>())
        .load(conn)?;
    directory::changed(
        conn,
        changed.into_iter().map(|(account, livemode, id)| Change::Subscription(account, livemode, id)),
    )
}
