//! Locks for transactions that write in several steps. They lock every row that they will change first, in
//! the common order (tiers, levels, counters, batteries, daily summaries), so that no two transactions wait
//! for each other.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer};

use super::{burn, tiers, totals};
use crate::battery::{Accounts, Depth};
use crate::error::Error;
use crate::metering::counters;
use crate::metering::levels::Levels;
use crate::metering::usage::Usage;

/// Locks the rows that writing or taking back this usage of `org_id` changes, until the caller's transaction
/// ends. Inserts missing rows of levels, counters and batteries, but not of tiers and daily summaries.
pub(crate) fn lock_rows(
    conn: &mut PgConnection,
    org_id: i64,
    usage: &[&Usage],
    depth: Depth,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    tiers::lock(conn, usage.iter().copied())?;
    Levels::lock(conn, usage.iter().copied())?;
    let keys: BTreeSet<_> =
        usage.iter().flat_map(|usage| totals::counted(usage)).map(|(key, _)| key).collect();
    counters::lock(conn, &keys)?;
    if usage.iter().any(|usage| !burn::units(usage).is_zero()) {
        Accounts::lock(conn, [org_id], depth, now)?;
    }
    lock_days(conn, org_id, usage)
}

fn lock_days(conn: &mut PgConnection, org_id: i64, usage: &[&Usage]) -> Result<(), Error> {
    let days: BTreeSet<(i32, i64, NaiveDate)> = usage
        .iter()
        .flat_map(|usage| usage.metered.iter().map(|metered| (&metered.series, usage.day)))
        .map(|(series, day)| (totals::statement_of(&series.meter), series.series_id, day))
        .collect();
    diesel::sql_query(
        "SELECT FROM unnest($2, $3, $4) AS t (statement, series, day)
         JOIN daily_summaries d ON d.org_id = $1 AND d.series_id = t.series AND d.day = t.day
         ORDER BY t.statement, t.series, t.day
         FOR UPDATE OF d",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Array<Integer>, _>(days.iter().map(|day| day.0).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(days.iter().map(|day| day.1).collect::<Vec<_>>())
    .bind::<Array<Date>, _>(days.iter().map(|day| day.2).collect::<Vec<_>>())
    .execute(conn)?;
    Ok(())
}
