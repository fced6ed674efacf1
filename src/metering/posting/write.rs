//! Writes everything that usage changes, in the order of locks.

use diesel::pg::PgConnection;

use super::burn::{self, Burn};
use super::{records, totals};
use crate::error::Error;
use crate::metering::counters::{self, MovedCounter};
use crate::metering::unpriced;
use crate::metering::usage::Usage;

/// Writes claimed and priced usage (or takes stored usage back, with `sign` -1): records, counters,
/// batteries, summaries. Returns the counters that moved.
pub(crate) fn write(
    conn: &mut PgConnection,
    new: &[&Usage],
    sign: i64,
    burn: Burn<'_>,
) -> Result<Vec<MovedCounter>, Error> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let batch = burn::new_batch(burn.now);
    // Records first: nobody waits for them, while counters and days are locked until the commit.
    records::copy(conn, new, batch)?;
    let moved = counters::add(conn, &totals::counter_changes(new))?;
    burn.post(conn, new, batch)?;
    totals::add_days(conn, new, sign)?;
    unpriced::count(conn, new, sign)?;
    Ok(moved)
}

/// Writes records and summaries alone; the caller takes care of prices, counters and batteries.
pub(crate) fn write_rows(
    conn: &mut PgConnection,
    new: &[&Usage],
    sign: i64,
    batch: i64,
) -> Result<(), Error> {
    if new.is_empty() {
        return Ok(());
    }
    records::copy(conn, new, batch)?;
    totals::add_days(conn, new, sign)?;
    unpriced::count(conn, new, sign)
}
