//! Adds a batch to the daily summaries, and sums up what it adds to the counters of quotas. It is summed up
//! in memory first and written by one statement each, rows in key order, so that no two batches wait for each
//! other. Owns the rows of `daily_summaries` and `usage_uniques`.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Nullable, Numeric, Timestamptz, Untyped, Uuid as SqlUuid};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::metering::digest::value_digest;
use crate::metering::meters::{Aggregation, Meter};
use crate::metering::periods::UsageTime;
use crate::metering::rolling;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::Sum;

/// (org, series, local day).
type Day = (i64, i64, NaiveDate);

/// What a batch adds to one day of a series.
#[derive(Clone, Copy, Debug, Default)]
struct DayTotals {
    quantity: Sum,
    count: i64,
    cost: Sum,
    battery_units: Sum,
    latest_at: Option<DateTime<Utc>>,
}

statement!(AddDays -> Untyped: "INSERT INTO daily_summaries AS d (org_id, series_id, day, quantity, count, \
    cost, battery_units, latest_at) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, series_id, day) \
    DO UPDATE SET quantity = d.quantity + excluded.quantity, count = d.count + excluded.count, \
    cost = d.cost + excluded.cost, battery_units = d.battery_units + excluded.battery_units");
// Where all usage was taken back the row has zeros, and any new value counts.
statement!(RaiseDays -> Untyped: "INSERT INTO daily_summaries AS d (org_id, series_id, day, quantity, \
    count, cost, battery_units, latest_at) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, series_id, day) DO UPDATE SET \
    quantity = CASE WHEN d.quantity = 0 AND d.count = 0 THEN excluded.quantity \
        ELSE greatest(d.quantity, excluded.quantity) END, \
    count = d.count + excluded.count");
// Of two values measured at the same time the larger counts, whatever their order.
statement!(RenewDays -> Untyped: "INSERT INTO daily_summaries AS d (org_id, series_id, day, quantity, \
    count, cost, battery_units, latest_at) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, series_id, day) DO UPDATE SET \
    quantity = CASE WHEN (excluded.latest_at, excluded.quantity) > (coalesce(d.latest_at, '-infinity'), \
        d.quantity) \
    THEN excluded.quantity ELSE d.quantity \
        END, latest_at = greatest(d.latest_at, excluded.latest_at), count = d.count + excluded.count");
// The rows of the days exist and are locked by now. A correction takes a value back under the same lock, so
// it has either committed, or waits and will see our records.
statement!(AddUniques -> Untyped: "WITH new AS (INSERT INTO usage_uniques (org_id, series_id, day, \
    value_digest) \
    SELECT * FROM unnest(?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING org_id, series_id, day), \
    counted AS (SELECT org_id, series_id, day, count(*) AS n FROM new GROUP BY 1, 2, 3) \
    UPDATE daily_summaries d SET quantity = d.quantity + c.n FROM counted c \
    WHERE (d.org_id, d.series_id, d.day) = (c.org_id, c.series_id, c.day)");

/// The statement that writes a meter's days: 0 `AddDays`, 1 `RaiseDays`, 2 `RenewDays`. They run, and lock
/// rows, in this order.
pub(super) fn statement_of(meter: &Meter) -> i32 {
    match meter.aggregation {
        Aggregation::Sum | Aggregation::Count | Aggregation::Unique | Aggregation::Level => 0,
        Aggregation::Max => 1,
        Aggregation::Latest => 2,
    }
}

/// Adds a batch to the daily summaries; `sign` is -1 when it takes usage back.
pub(super) fn add_days(conn: &mut PgConnection, usage: &[&Usage], sign: i64) -> Result<(), Error> {
    let mut days: [HashMap<Day, DayTotals>; 3] = Default::default();
    let mut uniques: BTreeSet<(Day, Uuid)> = BTreeSet::new();
    for usage in usage {
        for metered in &usage.metered {
            let series = &metered.series;
            let day = (series.org_id, series.series_id, usage.day);
            let takes_back = sign < 0 && !series.meter.aggregation.is_additive();
            if takes_back && usage.elsewhere {
                // A closed month stays as it is, and the open one has nothing of it.
                continue;
            }
            let statement = if takes_back { 0 } else { statement_of(&series.meter) };
            let added = days[usize::try_from(statement).unwrap_or_default()].entry(day).or_default();
            let is_first = added.count == 0;
            added.count += sign;
            match series.meter.aggregation {
                // Its quantity is computed from the records: `usage/correct/recount.rs`.
                _ if takes_back => {}
                // A level belongs to an instant, not to a day: `levels.rs`.
                Aggregation::Level => {}
                Aggregation::Sum | Aggregation::Count => added.quantity += metered.quantity,
                Aggregation::Max if is_first => added.quantity = metered.quantity.into(),
                Aggregation::Max => added.quantity = added.quantity.max(metered.quantity.into()),
                Aggregation::Latest => {
                    let value = (Some(usage.occurred_at), Sum::from(metered.quantity));
                    if value > (added.latest_at, added.quantity) || is_first {
                        (added.latest_at, added.quantity) = value;
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
    let [added, raised, renewed] = days;
    write_days::<AddDays>(conn, in_order(added))?;
    add_uniques(conn, &uniques)?;
    write_days::<RaiseDays>(conn, in_order(raised))?;
    write_days::<RenewDays>(conn, in_order(renewed))
}

/// Sums in the order of their keys.
fn in_order<K: Ord, V>(sums: HashMap<K, V>) -> Vec<(K, V)> {
    let mut sums: Vec<(K, V)> = sums.into_iter().collect();
    sums.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    sums
}

fn add_uniques(conn: &mut PgConnection, uniques: &BTreeSet<(Day, Uuid)>) -> Result<(), Error> {
    if uniques.is_empty() {
        return Ok(());
    }
    Prepared::<AddUniques>::new()
        .bind::<BigInt, _>(uniques.iter().map(|((org, _, _), _)| *org).collect())
        .bind::<BigInt, _>(uniques.iter().map(|((_, series, _), _)| *series).collect())
        .bind::<Date, _>(uniques.iter().map(|((_, _, day), _)| *day).collect())
        .bind::<SqlUuid, _>(uniques.iter().map(|(_, value)| *value).collect())
        .execute(conn)?;
    Ok(())
}

fn write_days<Q>(conn: &mut PgConnection, days: Vec<(Day, DayTotals)>) -> Result<(), Error>
where
    Q: crate::db::prepared::StatementText<Row = Untyped>,
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
pub(super) fn counter_changes(usage: &[&Usage]) -> Vec<(CounterKey, Sum)> {
    let mut changes: HashMap<CounterKey, Sum> = HashMap::new();
    for usage in usage {
        for (key, quantity) in counted(usage) {
            *changes.entry(key).or_default() += quantity;
        }
    }
    in_order(changes)
}

/// The counters that a usage event adds to, and how much. To the anchor of a window it adds nothing, but
/// whoever writes or locks these counters has the anchor too.
pub(crate) fn counted(usage: &Usage) -> impl Iterator<Item = (CounterKey, Decimal)> {
    counted_by(usage, Metered::counts)
}

/// As [`counted`], with the quantities that `amount` returns.
pub(crate) fn counted_by(
    usage: &Usage,
    amount: impl Fn(&Metered) -> Decimal,
) -> impl Iterator<Item = (CounterKey, Decimal)> {
    usage.metered.iter().flat_map(move |metered| {
        let amount = amount(metered);
        metered.series.slots.iter().flat_map(move |slot| {
            let subject = usage.subject.as_deref();
            let time = UsageTime { at: usage.occurred_at, day: usage.own_day, billing: usage.billing_period };
            let key = CounterKey::new(slot, usage.org.org_id, subject, time);
            let anchor = slot.period.window().map(|_| (rolling::anchor(&key), Decimal::ZERO));
            anchor.into_iter().chain([(key, amount)])
        })
    })
}
