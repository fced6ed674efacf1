//! Counters: how much of a slot was used in a period. Owns `quota_counters`.

use chrono::NaiveDate;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Numeric, Text};
use rust_decimal::Decimal;

use crate::error::Error;

/// Names one counter. Counters are locked and written in this order, so that no two transactions wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    /// The org.
    pub org_id: i64,
    /// The slot.
    pub slot_id: i32,
    /// The subject; empty: the org as a whole.
    pub subject: String,
    /// First local day of the period.
    pub period: NaiveDate,
}

/// Adds to counters, making those that are not there. `changes` are in the order of their keys, each key once.
///
/// # Errors
/// When the database fails.
pub fn add(conn: &mut PgConnection, changes: &[(CounterKey, Decimal)]) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0));
    diesel::sql_query(
        "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, used, reserved)
         SELECT o, s, j, p, u, 0 FROM unnest($1, $2, $3, $4, $5) AS t (o, s, j, p, u)
         ON CONFLICT (org_id, slot_id, subject, period) DO UPDATE SET used = c.used + excluded.used",
    )
    .bind::<Array<BigInt>, _>(changes.iter().map(|(key, _)| key.org_id).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(changes.iter().map(|(key, _)| key.slot_id).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(changes.iter().map(|(key, _)| key.subject.as_str()).collect::<Vec<_>>())
    .bind::<Array<Date>, _>(changes.iter().map(|(key, _)| key.period).collect::<Vec<_>>())
    .bind::<Array<Numeric>, _>(changes.iter().map(|(_, used)| *used).collect::<Vec<_>>())
    .execute(conn)?;
    Ok(())
}
