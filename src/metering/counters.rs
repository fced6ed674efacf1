//! Counters: how much was used and reserved of a slot in a period. Owns `quota_counters`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Numeric, Text, Timestamptz, Untyped};

use super::periods::{Period, UsageTime};
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

/// Locks counters until the caller's transaction ends, and reads them; missing ones are inserted.
pub fn lock(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<BTreeMap<CounterKey, Count>, Error> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    bind_keys::<Lock>(keys.iter()).execute(conn)?;
    // A new statement sees what others committed while the one before waited.
    read(conn, keys)
}

/// Reads counters; missing ones are left out.
pub fn read(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<BTreeMap<CounterKey, Count>, Error> {
    let rows: Vec<(KeyRow, Sum, Sum)> = bind_keys::<Read>(keys.iter()).load(conn)?;
    Ok(rows.into_iter().map(|(key, used, reserved)| (key_from_row(key), Count { used, reserved })).collect())
}

/// Reads counters together with the version of the catalogue; missing counters are left out.
pub fn read_with_version(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<(i64, BTreeMap<CounterKey, Count>), Error> {
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
    // Of subjects, a month must be over for so long, not only have begun: 31 days more.
    let deleted = diesel::sql_query(
        "DELETE FROM quota_counters WHERE ctid = ANY (ARRAY (
            SELECT c.ctid FROM quota_counters c JOIN quota_slots s USING (slot_id)
            WHERE c.period < greatest($1, $2) AND c.reserved = 0 AND s.period <> 'always'
              AND c.period < CASE WHEN s.period = 'billing' THEN $3 WHEN s.period = 'hour' THEN $2
                                  WHEN NOT s.per_subject THEN $1
                                  WHEN s.period = 'day' THEN $2 ELSE $2 - 31 END
            LIMIT 5000 FOR UPDATE OF c SKIP LOCKED))",
    )
    .bind::<Date, _>(horizon.org)
    .bind::<Date, _>(horizon.subject)
    .bind::<Date, _>(horizon.billing)
    .execute(conn)?;
    Ok(deleted)
}
