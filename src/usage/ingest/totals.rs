//! What a batch adds to the daily summaries and to the counters of quotas and tiers: summed up in memory, one statement each,
//! rows in key order so that no two batches wait for each other. Owns the rows of `daily_summaries`, `usage_uniques` and
//! `rating_counters`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{
    BigInt, Date, Integer, Nullable, Numeric, SmallInt, Timestamptz, Untyped, Uuid as SqlUuid,
};
use rust_decimal::Decimal;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::quota::counters::CounterKey;
use crate::usage::meters::Aggregation;
use crate::usage::rating;
use crate::usage::resolve::{Metered, Usage};

/// (org, series, local day).
type Day = (i64, i64, NaiveDate);

/// What a batch adds to one day of a series.
#[derive(Clone, Copy, Debug, Default)]
struct Added {
    quantity: Decimal,
    count: i64,
    cost: Decimal,
    battery_units: Decimal,
    latest_at: Option<DateTime<Utc>>,
}

statement!(AddDays -> Untyped: "INSERT INTO daily_summaries AS d (org_id, series_id, day, quantity, count, cost, battery_units, latest_at) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, series_id, day) DO UPDATE SET quantity = d.quantity + excluded.quantity, count = d.count + excluded.count, \
    cost = d.cost + excluded.cost, battery_units = d.battery_units + excluded.battery_units");
statement!(RaiseDays -> Untyped: "INSERT INTO daily_summaries AS d (org_id, series_id, day, quantity, count, cost, battery_units, latest_at) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, series_id, day) DO UPDATE SET quantity = greatest(d.quantity, excluded.quantity), count = d.count + excluded.count");
// Of two values measured at the same time the larger counts, whatever their order.
statement!(RenewDays -> Untyped: "INSERT INTO daily_summaries AS d (org_id, series_id, day, quantity, count, cost, battery_units, latest_at) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, series_id, day) DO UPDATE SET quantity = CASE WHEN (excluded.latest_at, excluded.quantity) > (d.latest_at, d.quantity) \
    THEN excluded.quantity ELSE d.quantity END, latest_at = greatest(d.latest_at, excluded.latest_at), count = d.count + excluded.count");
statement!(AddUniques -> (BigInt, BigInt, Date): "INSERT INTO usage_uniques (org_id, series_id, day, value_digest) \
    SELECT * FROM unnest(?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING org_id, series_id, day");
statement!(AddTiers -> (BigInt, Integer, Integer, SmallInt, Date, Numeric): "INSERT INTO rating_counters AS c (org_id, meter_id, rate_card_id, rate, month, quantity) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?) ON CONFLICT (org_id, meter_id, rate_card_id, rate, month) \
    DO UPDATE SET quantity = c.quantity + excluded.quantity RETURNING org_id, meter_id, rate_card_id, rate, month, quantity");

/// Adds a batch to the daily summaries; `sign` is -1 for what takes usage back.
///
/// # Errors
/// When the database fails.
pub(super) fn add_days(conn: &mut PgConnection, usage: &[&Usage], sign: i64) -> Result<(), Error> {
    let mut days: [HashMap<Day, Added>; 3] = Default::default();
    let mut uniques: BTreeSet<(Day, Uuid)> = BTreeSet::new();
    for one in usage {
        // What takes away from a meter that does not add up is found anew from the records.
        let adds = |metered: &&Metered| sign > 0 || metered.series.meter.aggregation.is_additive();
        for metered in one.metered.iter().filter(adds) {
            let series = &metered.series;
            let day = (series.org_id, series.series_id, one.day);
            let kind = match series.meter.aggregation {
                Aggregation::Sum | Aggregation::Count | Aggregation::Unique => 0,
                Aggregation::Max => 1,
                Aggregation::Latest => 2,
            };
            let added = days[kind].entry(day).or_default();
            let first = added.count == 0;
            added.count += sign;
            match series.meter.aggregation {
                Aggregation::Sum | Aggregation::Count => added.quantity += metered.quantity,
                Aggregation::Max if first => added.quantity = metered.quantity,
                Aggregation::Max => added.quantity = added.quantity.max(metered.quantity),
                Aggregation::Latest => {
                    let seen = (Some(one.occurred_at), metered.quantity);
                    if seen > (added.latest_at, added.quantity) || first {
                        (added.latest_at, added.quantity) = seen;
                    }
                }
                Aggregation::Unique => {
                    uniques.insert((day, value_digest(metered.value.as_deref().unwrap_or_default())));
                }
            }
            added.cost += metered.cost;
            added.battery_units += metered.battery_units;
        }
    }
    let [mut added, raised, renewed] = days;
    if !uniques.is_empty() {
        for day in add_uniques(conn, &uniques)? {
            added.entry(day).or_default().quantity += Decimal::ONE;
        }
    }
    write_days::<AddDays>(conn, in_order(added))?;
    write_days::<RaiseDays>(conn, in_order(raised))?;
    write_days::<RenewDays>(conn, in_order(renewed))
}

/// What was summed up, in the order of its keys.
fn in_order<K: Ord, V>(sums: HashMap<K, V>) -> Vec<(K, V)> {
    let mut sums: Vec<(K, V)> = sums.into_iter().collect();
    sums.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    sums
}

/// 16 bytes of a digest over a unique value.
#[must_use]
pub fn value_digest(value: &str) -> Uuid {
    Uuid::from_bytes(Sha256::digest(value)[..16].try_into().expect("a digest has 32 bytes"))
}

fn add_uniques(conn: &mut PgConnection, uniques: &BTreeSet<(Day, Uuid)>) -> Result<Vec<Day>, Error> {
    let new = Prepared::<AddUniques>::new()
        .bind::<BigInt, _>(uniques.iter().map(|((org, _, _), _)| *org).collect())
        .bind::<BigInt, _>(uniques.iter().map(|((_, series, _), _)| *series).collect())
        .bind::<Date, _>(uniques.iter().map(|((_, _, day), _)| *day).collect())
        .bind::<SqlUuid, _>(uniques.iter().map(|(_, value)| *value).collect())
        .load::<Day>(conn)?;
    Ok(new)
}

fn write_days<Q>(conn: &mut PgConnection, days: Vec<(Day, Added)>) -> Result<(), Error>
where
    Q: crate::db::prepared::Text<Row = Untyped>,
{
    if days.is_empty() {
        return Ok(());
    }
    Prepared::<Q>::new()
        .bind::<BigInt, _>(days.iter().map(|((org, _, _), _)| *org).collect())
        .bind::<BigInt, _>(days.iter().map(|((_, series, _), _)| *series).collect())
        .bind::<Date, _>(days.iter().map(|((_, _, day), _)| *day).collect())
        .bind::<Numeric, _>(days.iter().map(|(_, added)| added.quantity).collect())
        .bind::<BigInt, _>(days.iter().map(|(_, added)| added.count).collect())
        .bind::<Numeric, _>(days.iter().map(|(_, added)| added.cost).collect())
        .bind::<Numeric, _>(days.iter().map(|(_, added)| added.battery_units).collect())
        .bind::<Nullable<Timestamptz>, _>(days.iter().map(|(_, added)| added.latest_at).collect())
        .execute(conn)?;
    Ok(())
}

/// What a batch adds to the counters of quotas, in the order of their keys.
#[must_use]
pub(super) fn counter_changes(usage: &[&Usage]) -> Vec<(CounterKey, Decimal)> {
    let mut changes: HashMap<CounterKey, Decimal> = HashMap::new();
    for one in usage {
        for (key, quantity) in counted(one) {
            *changes.entry(key).or_default() += quantity;
        }
    }
    in_order(changes)
}

/// The counters that a usage event adds to, and how much.
pub(crate) fn counted(usage: &Usage) -> impl Iterator<Item = (CounterKey, Decimal)> {
    usage.metered.iter().flat_map(move |metered| {
        metered.series.slots.iter().map(move |slot| {
            let subject = usage.subject.as_deref();
            let key = CounterKey::of(slot, usage.org.org_id, subject, usage.day, usage.billing_period);
            (key, metered.quantity)
        })
    })
}

fn first_of_month(day: NaiveDate) -> NaiveDate {
    day.with_day(1).expect("every month has a first day")
}

/// (org, meter, rate card, rate, local month).
type Tier = (i64, i32, i32, i16, NaiveDate);

/// Prices what depends on the month's quantity: the counters of the tiers are raised first, and with them locked each event in
/// turn costs the difference that it makes.
///
/// # Errors
/// When the database fails, or a cost has no place in a decimal.
pub(crate) fn price_tiers(conn: &mut PgConnection, usage: &mut [&mut Usage]) -> Result<(), Error> {
    let mut sums: BTreeMap<Tier, Decimal> = BTreeMap::new();
    for one in usage.iter() {
        for metered in one.metered.iter().filter(|metered| metered.tiered) {
            if let Some(tier) = tier_of(one, metered) {
                *sums.entry(tier).or_default() += metered.quantity;
            }
        }
    }
    if sums.is_empty() {
        return Ok(());
    }
    let mut before = raise_tiers(conn, &sums)?;
    for one in usage.iter_mut() {
        let tiers: Vec<Option<Tier>> = one.metered.iter().map(|metered| tier_of(one, metered)).collect();
        for (metered, tier) in one.metered.iter_mut().zip(tiers) {
            let (Some(tier), true) = (tier, metered.tiered) else { continue };
            let so_far = before.get_mut(&tier).expect("every tier was raised");
            let (card, _) = &metered.series.rates[metered.card.expect("tiers are of a card")];
            let rate = &card.rates[usize::try_from(tier.3).expect("an index")];
            metered.cost = rating::cost(rate, *so_far, metered.quantity)
                .ok_or_else(|| Error::invalid("data", "the cost is too large a number"))?;
            *so_far += metered.quantity;
        }
    }
    Ok(())
}

fn tier_of(usage: &Usage, metered: &Metered) -> Option<Tier> {
    let (card, rate) = metered.card.map(|card| &metered.series.rates[card])?;
    let rate = i16::try_from((*rate)?).ok()?;
    Some((usage.org.org_id, card.meter_id, card.rate_card_id, rate, first_of_month(usage.day)))
}

/// Adds the sums, and tells what each counter held before.
fn raise_tiers(
    conn: &mut PgConnection,
    sums: &BTreeMap<Tier, Decimal>,
) -> Result<BTreeMap<Tier, Decimal>, Error> {
    let raised = Prepared::<AddTiers>::new()
        .bind::<BigInt, _>(sums.keys().map(|tier| tier.0).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.1).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.2).collect())
        .bind::<SmallInt, _>(sums.keys().map(|tier| tier.3).collect())
        .bind::<Date, _>(sums.keys().map(|tier| tier.4).collect())
        .bind::<Numeric, _>(sums.values().copied().collect())
        .load::<(i64, i32, i32, i16, NaiveDate, Decimal)>(conn)?;
    Ok(raised
        .into_iter()
        .map(|(org, meter, card, rate, month, quantity)| {
            let tier = (org, meter, card, rate, month);
            (tier, quantity - sums[&tier])
        })
        .collect())
}
