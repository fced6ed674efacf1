//! Counters: how much was used and reserved of a slot in a period. Owns `quota_counters`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Numeric, Text, Timestamptz, Untyped};

use super::periods::{ALWAYS, Period, UsageTime};
use super::slots::Slot;
use rust_decimal::Decimal;

use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::quantity::Sum;

/// Names a counter. Transactions lock and write counters in this order, so that no two wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    pub org_id: i64,
    pub slot_id: i32,
    /// Empty: the org as a whole.
    pub subject: String,
    pub period: Period,
}

impl CounterKey {
    /// The counter of `slot` for usage of this subject and time.
    #[must_use]
    pub fn new(slot: &Slot, org_id: i64, subject: Option<&str>, time: UsageTime) -> Self {
        let subject = subject.filter(|_| slot.per_subject).unwrap_or_default().to_owned();
        Self { org_id, slot_id: slot.slot_id, subject, period: Period::containing(slot.period, time) }
    }
}

/// The slots that count usage of this meter, org and dimensions, in the order of their ids.
pub fn slots_for<'a>(
    catalog: &'a Catalog,
    org_id: i64,
    meter_id: i32,
    dimensions: &'a [(String, String)],
) -> impl Iterator<Item = &'a std::sync::Arc<Slot>> {
    let slots = catalog.slots.get(&meter_id).map(Vec::as_slice).unwrap_or_default();
    slots.iter().filter(move |slot| slot.counts(org_id, dimensions))
}

/// The values of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub used: Sum,
    /// Set aside by reservations.
    pub reserved: Sum,
}

impl Count {
    /// How much of a limit is left, at least 0.
    #[must_use]
    pub fn remaining(self, limit: Decimal) -> Decimal {
        (Sum::from(limit) - self.used - self.reserved).max(Sum::ZERO).shown()
    }
}

/// A counter that usage was added to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedCounter {
    pub key: CounterKey,
    pub added: Sum,
    /// The value afterwards.
    pub used: Sum,
}

type KeyTypes = (BigInt, Integer, Text, (Date, Timestamptz));
type KeyRow = (i64, i32, String, (NaiveDate, DateTime<Utc>));

statement!(Add -> (BigInt, Integer, Numeric):
    "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, began, used, reserved)
      SELECT o, s, j, p, b, u, 0 FROM unnest(?, ?, ?, ?, ?, ?) AS t (o, s, j, p, b, u)
      ON CONFLICT (org_id, slot_id, subject, period, began) DO UPDATE SET used = c.used + excluded.used
      RETURNING org_id, slot_id, used");
// An existing row is locked and not written. Rows are locked in the order of the arrays.
statement!(Lock -> Untyped:
    "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, began, used, reserved)
      SELECT o, s, j, p, b, 0, 0 FROM unnest(?, ?, ?, ?, ?) AS t (o, s, j, p, b)
      ON CONFLICT (org_id, slot_id, subject, period, began) DO UPDATE SET used = c.used WHERE false");
statement!(Read -> (KeyTypes, Numeric, Numeric):
    "SELECT c.org_id, c.slot_id, c.subject, c.period, c.began, c.used, c.reserved
     FROM unnest(?, ?, ?, ?, ?) AS t (o, s, j, p, b)
      JOIN quota_counters c
          ON (c.org_id, c.slot_id, c.subject, c.period, c.began) = (t.o, t.s, t.j, t.p, t.b)");
// One statement, so one snapshot: the counters belong to the limits of that version.
statement!(Look -> (BigInt, BigInt, Nullable<Numeric>, Nullable<Numeric>):
    "SELECT (SELECT version FROM catalog WHERE name = 'metering'), t.n, c.used, c.reserved
     FROM unnest(?, ?, ?, ?, ?) WITH ORDINALITY AS t (o, s, j, p, b, n)
      LEFT JOIN quota_counters c
          ON (c.org_id, c.slot_id, c.subject, c.period, c.began) = (t.o, t.s, t.j, t.p, t.b)");
// The counters from one key to another, of one org, slot and subject.
macro_rules! around {
    ($columns:literal, $join:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, s, j, p, b, q, e) ",
            $join,
            " quota_counters c ON (c.org_id, c.slot_id, c.subject) = (t.o, t.s, t.j)
                 AND c.period BETWEEN t.p AND t.q AND c.began BETWEEN t.b AND t.e"
        )
    };
}
struct ReadAround;
impl crate::db::prepared::StatementText for ReadAround {
    const SQL: &'static str =
        around!("c.org_id, c.slot_id, c.subject, c.period, c.began, c.used, c.reserved", "JOIN");
    type Row = (KeyTypes, Numeric, Numeric);
}
// One statement, so one snapshot, as `Look`.
struct LookAround;
impl crate::db::prepared::StatementText for LookAround {
    const SQL: &'static str = around!(
        "(SELECT version FROM catalog WHERE name = 'metering'), t.o, t.s, t.j, c.period, c.began, c.used,
             c.reserved",
        "LEFT JOIN"
    );
    type Row = (
        (BigInt, BigInt, Integer, Text),
        (Nullable<Date>, Nullable<Timestamptz>, Nullable<Numeric>, Nullable<Numeric>),
    );
}
statement!(Change -> Untyped:
    "UPDATE quota_counters c SET used = c.used + t.u, reserved = c.reserved + t.r
      FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, s, j, p, b, u, r)
      WHERE (c.org_id, c.slot_id, c.subject, c.period, c.began) = (t.o, t.s, t.j, t.p, t.b)");

/// Binds the five columns of the keys.
fn bind_keys<'a, S: crate::db::prepared::StatementText>(
    keys: impl Iterator<Item = &'a CounterKey> + Clone,
) -> Prepared<'a, S> {
    Prepared::new()
        .bind::<BigInt, _>(keys.clone().map(|key| key.org_id).collect::<Vec<_>>())
        .bind::<Integer, _>(keys.clone().map(|key| key.slot_id).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| key.subject.as_str()).collect::<Vec<_>>())
        .bind::<Date, _>(keys.clone().map(|key| key.period.to_row().0).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(keys.map(|key| key.period.to_row().1).collect::<Vec<_>>())
}

fn key_from_row((org_id, slot_id, subject, period): KeyRow) -> CounterKey {
    CounterKey { org_id, slot_id, subject, period: Period::from_row(period) }
}

/// Adds to counters and returns their new values; missing ones are inserted. `changes` are in the order of
/// their keys, each key once.
pub fn add(conn: &mut PgConnection, changes: &[(CounterKey, Sum)]) -> Result<Vec<MovedCounter>, Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0));
    let rows: Vec<(i64, i32, Sum)> = bind_keys::<Add>(changes.iter().map(|(key, _)| key))
        .bind::<Numeric, _>(changes.iter().map(|(_, used)| *used).collect::<Vec<_>>())
        .load(conn)?;
    // One row for each, in their order: PostgreSQL inserts or updates rows as it reads them.
    assert_eq!(rows.len(), changes.len(), "every counter is there now");
    let moved = changes.iter().zip(rows).map(|((key, added), (org_id, slot_id, used))| {
        assert_eq!(
            (org_id, slot_id),
            (key.org_id, key.slot_id),
            "counters come back in the order of their keys"
        );
        MovedCounter { key: key.clone(), added: *added, used }
    });
    Ok(moved.collect())
}

/// Counters by their keys.
pub type Counts = BTreeMap<CounterKey, Count>;

/// Locks counters until the caller's transaction ends; missing ones are inserted. To read them, use a new
/// statement: it sees what others committed while this one waited.
pub fn lock(conn: &mut PgConnection, keys: &BTreeSet<CounterKey>) -> Result<(), Error> {
    if !keys.is_empty() {
        bind_keys::<Lock>(keys.iter()).execute(conn)?;
    }
    Ok(())
}

/// Reads counters; missing ones are left out.
pub fn read(conn: &mut PgConnection, keys: &BTreeSet<CounterKey>) -> Result<Counts, Error> {
    if keys.is_empty() {
        return Ok(Counts::new());
    }
    let rows: Vec<(KeyRow, Sum, Sum)> = bind_keys::<Read>(keys.iter()).load(conn)?;
    Ok(rows.into_iter().map(|(key, used, reserved)| (key_from_row(key), Count { used, reserved })).collect())
}

/// From one counter to another of the same org, slot and subject.
pub type KeyRange = (CounterKey, CounterKey);

fn bind_ranges<'a, S: crate::db::prepared::StatementText>(ranges: &'a [KeyRange]) -> Prepared<'a, S> {
    bind_keys(ranges.iter().map(|(first, _)| first))
        .bind::<Date, _>(ranges.iter().map(|(_, last)| last.period.to_row().0).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(ranges.iter().map(|(_, last)| last.period.to_row().1).collect::<Vec<_>>())
}

/// Reads the counters of ranges, their ends included; missing ones are left out.
pub fn read_ranges(conn: &mut PgConnection, ranges: &[KeyRange]) -> Result<Counts, Error> {
    if ranges.is_empty() {
        return Ok(Counts::new());
    }
    let rows: Vec<(KeyRow, Sum, Sum)> = bind_ranges::<ReadAround>(ranges).load(conn)?;
    Ok(rows.into_iter().map(|(key, used, reserved)| (key_from_row(key), Count { used, reserved })).collect())
}

/// As [`read_ranges`], together with the version of the catalogue.
pub fn read_ranges_with_version(
    conn: &mut PgConnection,
    ranges: &[KeyRange],
) -> Result<(i64, Counts), Error> {
    type FoundRow =
        ((i64, i64, i32, String), (Option<NaiveDate>, Option<DateTime<Utc>>, Option<Sum>, Option<Sum>));
    let rows: Vec<FoundRow> = bind_ranges::<LookAround>(ranges).load(conn)?;
    let version = rows.first().map_or(0, |((version, ..), _)| *version);
    let found =
        rows.into_iter().filter_map(|((_, org_id, slot_id, subject), (period, began, used, reserved))| {
            let key = key_from_row((org_id, slot_id, subject, (period?, began?)));
            Some((key, Count { used: used?, reserved: reserved? }))
        });
    Ok((version, found.collect()))
}

/// Reads counters together with the version of the catalogue; missing counters are left out.
pub fn read_with_version(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<(i64, Counts), Error> {
    let rows: Vec<(i64, i64, Option<Sum>, Option<Sum>)> = bind_keys::<Look>(keys.iter()).load(conn)?;
    let version = rows.first().map_or(0, |row| row.0);
    let counts: BTreeMap<i64, Count> = rows
        .into_iter()
        .filter_map(|(_, n, used, reserved)| Some((n, Count { used: used?, reserved: reserved? })))
        .collect();
    let counts = keys.iter().zip(1..).filter_map(|(key, n)| Some((key.clone(), *counts.get(&n)?)));
    Ok((version, counts.collect()))
}

/// Adds to counters that the caller has locked.
///
/// # Errors
/// A CHECK of the table refuses reservations below zero.
pub fn change(conn: &mut PgConnection, changes: &BTreeMap<CounterKey, Count>) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let changed = bind_keys::<Change>(changes.keys())
        .bind::<Numeric, _>(changes.values().map(|change| change.used).collect::<Vec<_>>())
        .bind::<Numeric, _>(changes.values().map(|change| change.reserved).collect::<Vec<_>>())
        .execute(conn)?;
    if changed == changes.len() {
        Ok(())
    } else {
        Err(Error::Internal("a locked quota counter is gone".to_owned()))
    }
}

/// Counters whose period began before these days may be deleted.
#[derive(Clone, Copy, Debug)]
pub struct CounterHorizon {
    pub org: NaiveDate,
    pub subject: NaiveDate,
    /// For billing periods, which may last for years.
    pub billing: NaiveDate,
}

/// Deletes at most 5000 old counters and returns how many. Counters with reservations stay.
pub fn delete_old(conn: &mut PgConnection, horizon: CounterHorizon) -> Result<usize, Error> {
    // Of subjects, a month must be over for so long, not only have begun: 31 days more. A segment must have
    // left its window for so long, as `Window::days` counts. An anchor goes after its last segment.
    let deleted = diesel::sql_query(
        "DELETE FROM quota_counters WHERE ctid = ANY (ARRAY (
            SELECT c.ctid
            FROM quota_counters c
            JOIN quota_slots s USING (slot_id)
            CROSS JOIN LATERAL (SELECT substring(s.period FROM '^rolling_([0-9]+)[hd]$')::integer
                * CASE right(s.period, 1) WHEN 'd' THEN 24 ELSE 1 END AS hours) w
            WHERE c.period < greatest($1, $2) AND c.reserved = 0 AND s.period <> 'always'
              AND c.period < CASE WHEN s.period = 'billing' THEN $3 WHEN s.period = 'hour' THEN $2
                                  WHEN w.hours IS NOT NULL THEN $2 - ceil(w.hours * 25 / 576.0)::integer
                                  WHEN NOT s.per_subject THEN $1
                                  WHEN s.period = 'day' THEN $2 ELSE $2 - 31 END
              AND (c.period <> $4 OR NOT EXISTS (
                  SELECT FROM quota_counters b
                  WHERE (b.org_id, b.slot_id, b.subject) = (c.org_id, c.slot_id, c.subject)
                      AND b.period > c.period))
            LIMIT 5000 FOR UPDATE OF c SKIP LOCKED))",
    )
    .bind::<Date, _>(horizon.org)
    .bind::<Date, _>(horizon.subject)
    .bind::<Date, _>(horizon.billing)
    .bind::<Date, _>(ALWAYS)
    .execute(conn)?;
    Ok(deleted)
}
