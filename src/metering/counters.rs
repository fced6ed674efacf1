//! Counters: how much of a slot was used in a period. Owns `quota_counters`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Numeric, Text, Timestamptz, Untyped};

use super::periods::Period;
use super::slots::Slot;
use rust_decimal::Decimal;

use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::quantity::Sum;

/// Names one counter. Counters are locked and written in this order, so that no two transactions wait for
/// each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    pub org_id: i64,
    pub slot_id: i32,
    /// The subject; empty: the org as a whole.
    pub subject: String,
    pub period: Period,
}

impl CounterKey {
    /// The counter of `slot` that usage of this subject, counted to this local day (and the billing period
    /// that began then), is added to.
    #[must_use]
    pub fn of(
        slot: &Slot,
        org_id: i64,
        subject: Option<&str>,
        day: NaiveDate,
        billing: Option<DateTime<Utc>>,
    ) -> Self {
        let subject = subject.filter(|_| slot.per_subject).unwrap_or_default().to_owned();
        Self { org_id, slot_id: slot.slot_id, subject, period: Period::of(slot.period, day, billing) }
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

/// What a counter holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub used: Sum,
    /// Set aside by reservations.
    pub reserved: Sum,
}

impl Count {
    /// What is left of a limit, nothing at least.
    #[must_use]
    pub fn remaining(self, limit: Decimal) -> Decimal {
        (Sum::from(limit) - self.used - self.reserved).max(Sum::ZERO).shown()
    }
}

/// A counter that usage was added to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub key: CounterKey,
    pub added: Sum,
    /// What it came to.
    pub used: Sum,
}

type KeyTypes = (BigInt, Integer, Text, (Date, Timestamptz));
type KeyRow = (i64, i32, String, (NaiveDate, DateTime<Utc>));

statement!(Add -> (BigInt, Integer, Numeric):
    "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, began, used, reserved)
      SELECT o, s, j, p, b, u, 0 FROM unnest(?, ?, ?, ?, ?, ?) AS t (o, s, j, p, b, u)
      ON CONFLICT (org_id, slot_id, subject, period, began) DO UPDATE SET used = c.used + excluded.used
      RETURNING org_id, slot_id, used");
// The row that is there is locked and not written. Rows are taken in the order of the arrays.
statement!(Lock -> Untyped:
    "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, began, used, reserved)
      SELECT o, s, j, p, b, 0, 0 FROM unnest(?, ?, ?, ?, ?) AS t (o, s, j, p, b)
      ON CONFLICT (org_id, slot_id, subject, period, began) DO UPDATE SET used = c.used WHERE false");
statement!(Read -> (KeyTypes, Numeric, Numeric):
    "SELECT c.org_id, c.slot_id, c.subject, c.period, c.began, c.used, c.reserved
     FROM unnest(?, ?, ?, ?, ?) AS t (o, s, j, p, b)
      JOIN quota_counters c
          ON (c.org_id, c.slot_id, c.subject, c.period, c.began) = (t.o, t.s, t.j, t.p, t.b)");
// In one statement, so in one snapshot: an answer goes by the limits that were in force with what was used.
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
fn keyed<'a, S: crate::db::prepared::StatementText>(
    keys: impl Iterator<Item = &'a CounterKey> + Clone,
) -> Prepared<'a, S> {
    Prepared::new()
        .bind::<BigInt, _>(keys.clone().map(|key| key.org_id).collect::<Vec<_>>())
        .bind::<Integer, _>(keys.clone().map(|key| key.slot_id).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| key.subject.as_str()).collect::<Vec<_>>())
        .bind::<Date, _>(keys.clone().map(|key| key.period.stored().0).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(keys.map(|key| key.period.stored().1).collect::<Vec<_>>())
}

fn key_of((org_id, slot_id, subject, period): KeyRow) -> CounterKey {
    CounterKey { org_id, slot_id, subject, period: Period::of_row(period) }
}

/// Adds to counters, making those that are not there, and tells what they came to. `changes` are in the order
/// of their keys, each key once.
pub fn add(conn: &mut PgConnection, changes: &[(CounterKey, Sum)]) -> Result<Vec<Moved>, Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0));
    let rows: Vec<(i64, i32, Sum)> = keyed::<Add>(changes.iter().map(|(key, _)| key))
        .bind::<Numeric, _>(changes.iter().map(|(_, used)| *used).collect::<Vec<_>>())
        .load(conn)?;
    // One row for each, in their order: rows are inserted or updated as they are read.
    assert_eq!(rows.len(), changes.len(), "every counter is there now");
    let moved = changes.iter().zip(rows).map(|((key, added), (org_id, slot_id, used))| {
        assert_eq!(
            (org_id, slot_id),
            (key.org_id, key.slot_id),
            "counters come back in the order of their keys"
        );
        Moved { key: key.clone(), added: *added, used }
    });
    Ok(moved.collect())
}

/// Locks counters until the caller's transaction ends, making those that are not there, and reads them.
pub fn lock(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<BTreeMap<CounterKey, Count>, Error> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    keyed::<Lock>(keys.iter()).execute(conn)?;
    // A statement of its own: it sees what was committed while the one before waited.
    read(conn, keys)
}

/// Reads counters; those that are not there are left out.
pub fn read(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<BTreeMap<CounterKey, Count>, Error> {
    let rows: Vec<(KeyRow, Sum, Sum)> = keyed::<Read>(keys.iter()).load(conn)?;
    Ok(rows.into_iter().map(|(key, used, reserved)| (key_of(key), Count { used, reserved })).collect())
}

/// Reads counters (none: nothing is counted yet) together with the catalogue's version.
pub fn read_with_version(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<(i64, BTreeMap<CounterKey, Count>), Error> {
    let rows: Vec<(i64, i64, Option<Sum>, Option<Sum>)> = keyed::<Look>(keys.iter()).load(conn)?;
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
/// When the database fails; a counter that reservations would bring below zero is refused by its CHECK.
pub fn change(conn: &mut PgConnection, changes: &BTreeMap<CounterKey, Count>) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let changed = keyed::<Change>(changes.keys())
        .bind::<Numeric, _>(changes.values().map(|by| by.used).collect::<Vec<_>>())
        .bind::<Numeric, _>(changes.values().map(|by| by.reserved).collect::<Vec<_>>())
        .execute(conn)?;
    if changed == changes.len() {
        Ok(())
    } else {
        Err(Error::Internal("a locked quota counter is gone".to_owned()))
    }
}

/// Counters whose period began before these days may be deleted.
#[derive(Clone, Copy, Debug)]
pub struct Oldest {
    pub org: NaiveDate,
    pub subject: NaiveDate,
    /// Of billing periods, which may last for years.
    pub billing: NaiveDate,
}

/// Deletes old counters, a bounded batch at a time. Those that hold reservations stay.
pub fn forget_old(conn: &mut PgConnection, oldest: Oldest) -> Result<usize, Error> {
    // A month must be over, not only have begun, before its subjects are forgotten.
    let deleted = diesel::sql_query(
        "DELETE FROM quota_counters WHERE ctid = ANY (ARRAY (
            SELECT c.ctid FROM quota_counters c JOIN quota_slots s USING (slot_id)
            WHERE c.period < greatest($1, $2) AND c.reserved = 0 AND s.period <> 'always'
              AND c.period < CASE WHEN s.period = 'billing' THEN $3 WHEN NOT s.per_subject THEN $1
                                  WHEN s.period = 'day' THEN $2 ELSE $2 - 31 END
            LIMIT 5000 FOR UPDATE OF c SKIP LOCKED))",
    )
    .bind::<Date, _>(oldest.org)
    .bind::<Date, _>(oldest.subject)
    .bind::<Date, _>(oldest.billing)
    .execute(conn)?;
    Ok(deleted)
}
